"""Reads the documents as data: their headings, tables and code blocks."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

DOCUMENTS: Mapping[str, str] = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for place in ("*.md", "docs/**/*.md", "deploy/**/*.md")
    for path in sorted(ROOT.glob(place))
}
"""All Markdown files of the repository by their paths."""

MANUAL = {name: text for name, text in DOCUMENTS.items() if name == "README.md" or name.startswith("docs/")}
"""What is written for users: the README and the pages of docs/."""

README = DOCUMENTS["README.md"]


def blocks(language: str, documents: Mapping[str, str] = MANUAL) -> list[str]:
    """Return the code blocks of a language."""
    return [block for _, block in located_blocks(language, documents)]


def located_blocks(language: str, documents: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the code blocks of a language, each with its document's name."""
    for name, text in documents.items():
        for block in re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
            yield name, block


def prose(text: str) -> str:
    """Return a text without its code blocks and comments."""
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def code(text: str) -> set[str]:
    """Return everything that stands in backticks, outside of code blocks."""
    return set(re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(text)))


def anchors(text: str) -> set[str]:
    """Return the anchors that forges give the headings: GitHub's rule, numbered where they repeat."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", prose(text), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        kept = "".join(letter for letter in shown if letter.isalnum() or letter in " -_").replace(" ", "-")
        number = 0
        while (anchor := f"{kept}-{number}" if number else kept) in found:
            number += 1
        found.add(anchor)
    return found | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))
