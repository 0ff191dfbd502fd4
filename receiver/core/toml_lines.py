"""Finds the lines of keys in TOML, for messages: `tomllib` does not keep them."""

import re


def line_of(text: str, keys: tuple[str, ...]) -> int:
    """Return the line of a key of a valid document, or of the innermost table or key above it."""
    lines: dict[tuple[str, ...], int] = {(): 1}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if match := re.match(r"\s*\[([^\[\]]+)\]", line):
            table = _keys(match[1])
            lines.setdefault(table, number)
        elif match := re.match(r"""\s*([\w."' -]+?)\s*=""", line):
            lines.setdefault((*table, *_keys(match[1])), number)
    while keys not in lines:
        keys = keys[:-1]
    return lines[keys]


def line_of_error(message: str) -> str:
    """Return where a `tomllib.TOMLDecodeError` is: ``line 7``, or the end."""
    match = re.search(r"line \d+", message)
    return match[0] if match else "the end"


def _keys(text: str) -> tuple[str, ...]:
    return tuple(key.strip(" \t\"'") for key in text.split("."))
