"""Options that take a word or a number, and help where they are given another.

Typer's own forms refuse with the words of the library beneath ("Value error, …", "Input should be …").
"""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import typer

W = TypeVar("W", bound=str)

SUGGESTED = 3
LISTED = 10
"""How many words are suggested where one may be meant, and how many are all told where none is near."""

_NUMBER = re.compile(r"\d{1,18}(?P<fraction>\.\d{1,18})?", re.ASCII)


def choice(name: str, known: Sequence[W], help: str, metavar: str | None = None) -> Any:  # noqa: A002 - Typer's own name for it
    """An option that takes one of a few words.

    Args:
        name: of the option, with its dashes.
        known: the words.
        help: what the option does.
        metavar: what stands for the word in the help; without, all of them.
    """
    what = name.removeprefix("--")

    def read(text: str) -> W:
        for word in known:
            if text == word:
                return word
        names: list[str] = [*known]
        if near := difflib.get_close_matches(text, names, n=SUGGESTED):
            more = f"; did you mean {' or '.join(near)}?"
        else:
            more = (
                f"; there are {', '.join(known)}" if len(known) <= LISTED else "; docs/reference/ lists them"
            )
        raise typer.BadParameter(f"there is no {what} {text}{more}")

    def complete(incomplete: str) -> list[str]:
        return [word for word in known if word.startswith(incomplete)]

    shown = metavar or "|".join(known)
    return typer.Option(name, metavar=shown, parser=read, autocompletion=complete, help=help)


def whole(
    help: str,  # noqa: A002 - Typer's own name for it
    least: int,
    most: int | None = None,
    *,
    panel: str | None = None,
) -> Any:
    """An option that takes a whole number from ``least`` to ``most``; ``panel`` is its group in the help."""
    read = _reader(int, "a whole number", least, most)
    return typer.Option(parser=read, metavar="N", help=help, rich_help_panel=panel)


def decimal(
    help: str,  # noqa: A002 - Typer's own name for it
    least: float,
    most: float,
    *,
    metavar: str = "N",
    panel: str | None = None,
) -> Any:
    """An option that takes a number from ``least`` to ``most``, which may have a fraction."""
    read = _reader(float, "a number", least, most)
    return typer.Option(parser=read, metavar=metavar, help=help, rich_help_panel=panel)


def _reader(
    kind: type[int] | type[float], what: str, least: float, most: float | None
) -> Callable[[Any], Any]:
    span = f"from {least:g} to {most:g}" if most is not None else f"of at least {least:g}"

    def read(text: str | float) -> float:  # the default comes as the number that it is
        match = _NUMBER.fullmatch(str(text).strip())
        if match is not None and not (kind is int and match["fraction"]):
            value = kind(match[0])
            if least <= value and (most is None or value <= most):
                return value
        raise typer.BadParameter(f"{text} is not {what} {span}")

    return read
