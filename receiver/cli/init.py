"""``receiver init``."""

import base64
import secrets
from collections.abc import Mapping
from typing import Annotated

import typer

from receiver.cli import output
from receiver.cli.common import AsJson
from receiver.cli.options import choice
from receiver.providers.registry import ENTRIES, Entry

_NAMES = [entry.name for entry in ENTRIES]


def init(
    *,
    provider: Annotated[
        list[str] | None,
        choice("--provider", _NAMES, "Whose deliveries are taken; may be given several times.", "NAME"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a ready .env with fresh secrets.

    Keep them private: (umask 077; receiver init > .env)

    Without a provider it is for the first of them. A value that is the provider's to give is empty: fill it
    in.
    """
    chosen = [entry for entry in ENTRIES if entry.name in (provider or _NAMES[:1])]
    own = {
        "RECEIVER_API_TOKENS": secrets.token_urlsafe(32),
        "RECEIVER_NOTIFY_SECRET": f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}",
    }
    if as_json:
        values = {name: value for entry in chosen for name, value in _settings(entry).items()}
        output.print_json({**values, **own})
        return
    for entry in chosen:
        values = _settings(entry)
        if "" in values.values():
            typer.echo(f"# {entry.title} gives you what is empty here: docs/guide/providers.md")
        _print(values)
    _print(own)


def _settings(entry: Entry) -> dict[str, str]:
    return {
        name: value.replace("{secret}", secrets.token_urlsafe(32)) for name, value in entry.settings.items()
    }


def _print(values: Mapping[str, str]) -> None:
    for name, value in values.items():
        typer.echo(f"{name}='{value}'")  # single quotes keep JSON as it is
