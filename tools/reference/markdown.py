"""The few forms of Markdown that the pages use."""

from collections.abc import Iterable, Sequence

NOTHING = "\N{EN DASH}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; empty cells get a dash."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def code(text: object) -> str:
    """Return the text in backticks, or nothing where there is none."""
    quotes = "``" if "`" in str(text) else "`"
    return f"{quotes}{text}{quotes}" if str(text) else ""


def codes(texts: Iterable[object]) -> str:
    """Return several texts, each in backticks."""
    return ", ".join(map(code, texts))


def flowing(text: str) -> str:
    """Return a text without the line ends within its paragraphs."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split()) or NOTHING
