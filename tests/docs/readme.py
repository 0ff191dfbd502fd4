"""Reads the README as data: tables, code blocks and the diagram."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str, text: str = README) -> str:
    """What stands under a heading, down to the next one of the same or a higher level."""
    heading = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert heading is not None, f"no heading {title!r}"
    rest = text[heading.end() :]
    end = re.search(rf"^#{{1,{len(heading[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def table(text: str) -> list[list[str]]:
    """The cells of the first table in a text, without its head."""
    rows = []
    for line in text.splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    assert len(rows) > 2, "no table"
    assert len({len(row) for row in rows}) == 1, "rows of unequal length"
    return rows[2:]


def code(cell: str) -> str:
    """The one thing in a cell that stands in backticks."""
    (found,) = re.findall(r"`([^`]+)`", cell)
    assert isinstance(found, str)
    return found


def codes(cell: str) -> list[str]:
    """All things in a cell that stand in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def blocks(language: str, text: str = README) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
