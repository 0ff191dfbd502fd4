"""Options that take a word or a number, with helpful errors.

Typer's own types show the texts of other libraries ("Value error, …", "Input should be …").
"""

import difflib
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

import typer

W = TypeVar("W", bound=str)

LISTED = 10
"""The most words that are listed where none is like the mistyped one."""

_NUMBER = re.compile(r"\d{1,18}(?P<fraction>\.\d{1,18})?", re.ASCII)


def choice(name: str, known: Sequence[W], help: str, metavar: str | None = None) -> Any:  # noqa: A002 - Typer's own name for it
    """Return an option that takes one of the known words, for which ``metavar`` may stand in the help."""
    what = name.removeprefix("--")

    def read(text: str) -> W:
        for word in known:
            if text == word:
                return word
        if near := difflib.get_close_matches(text, map(str, known), n=3):
            more = f"; did you mean {' or '.join(near)}?"
        elif len(known) <= LISTED:
            more = f"; there are {', '.join(known)}"
        else:
            more = "; docs/reference/ lists them"
        raise typer.BadParameter(f"there is no {what} {text}{more}")

    def complete(incomplete: str) -> list[str]:
        return [word for word in known if word.startswith(incomplete)]

    metavar = metavar or "|".join(known)
    return typer.Option(name, metavar=metavar, parser=read, autocompletion=complete, help=help)


def number(
    kind: type[int] | type[float],
    help: str,  # noqa: A002 - Typer's own name for it
    minimum: float,
    maximum: float | None = None,
    *,
    metavar: str = "N",
    panel: str | None = None,
) -> Any:
    """Return an option that takes a number; ``panel`` is its group in the help."""
    what = "a whole number" if kind is int else "a number"
    span = f"from {minimum:g} to {maximum:g}" if maximum is not None else f"of at least {minimum:g}"

    def read(text: str | float) -> float:  # Typer passes the default as a number
        match = _NUMBER.fullmatch(str(text).strip())
        if match is not None and not (kind is int and match["fraction"]):
            value = kind(match[0])
            if minimum <= value and (maximum is None or value <= maximum):
                return value
        raise typer.BadParameter(f"{text} is not {what} {span}")

    return typer.Option(parser=read, metavar=metavar, help=help, rich_help_panel=panel)


whole = partial(number, int)
decimal = partial(number, float)
