"""``receiver init``."""

import itertools
import sys
from typing import Annotated

import typer

from receiver.bootstrap.secrets import dotenv_line, fresh_settings, own_settings
from receiver.cli import output
from receiver.cli.common import DOTENV, INVOCATION, AsJson
from receiver.cli.options import choice
from receiver.providers.registry import ENTRIES

_NAMES = [entry.name for entry in ENTRIES]


def init(
    *,
    provider: Annotated[
        list[str] | None,
        choice("--provider", _NAMES, "Whose deliveries are taken; may be given several times.", "NAME"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a ready .env with fresh secrets.

    On a terminal it asks for what it needs, checks each answer, and writes .env for its owner alone. In a
    pipe it prints what .env needs: (umask 077; receiver init > .env)

    Without a provider it is for the first of them. A value that is the provider's to give is empty: fill it
    in.
    """
    if not as_json and all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        from receiver.cli import first_steps  # noqa: PLC0415 - what checks answers takes long to import

        first_steps.run(INVOCATION.get().environ, DOTENV, provider)
        return
    chosen = [entry for entry in ENTRIES if entry.name in (provider or _NAMES[:1])]
    own = own_settings()
    if as_json:
        values = {name: value for entry in chosen for name, value in fresh_settings(entry).items()}
        output.print_json({**values, **own})
        return
    lines = []
    for entry in chosen:
        values = fresh_settings(entry)
        if "" in values.values():
            lines.append(f"# {entry.title} gives you what is empty here: docs/guide/providers.md")
        lines += itertools.starmap(dotenv_line, values.items())
    typer.echo("\n".join([*lines, *itertools.starmap(dotenv_line, own.items())]))
