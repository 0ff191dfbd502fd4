"""Chooses the engine of a ledger by where the ledger is."""

from importlib import import_module
from pathlib import Path
from typing import Any

from receiver.core.errors import ConfigError
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger.engine import Opener
from receiver.ledger.sqlite.database import SqliteOpener
from receiver.ledger.types import Inspection

Place = LedgerLocation | Path
"""Where a ledger is; a path is the data directory of one in a file."""


def opener(place: Place) -> Opener:
    if isinstance(place, Path):
        return SqliteOpener(place)
    if place.url is None:
        return SqliteOpener(place.data_dir)
    return _postgres("database").PostgresOpener(place)  # type: ignore[no-any-return]


async def inspect_database(location: LedgerLocation) -> Inspection:
    """Look at a ledger's database. Raise `LedgerError` where that is not possible, or it cannot be used."""
    return await _postgres("inspection").inspect(location)  # type: ignore[no-any-return]


def _postgres(name: str) -> Any:
    """Import a module of PostgreSQL's engine, only here since psycopg is an extra."""
    try:
        return import_module(f"receiver.ledger.postgres.{name}")
    except ImportError:
        raise ConfigError(
            "RECEIVER_LEDGER: needs psycopg, which `pip install upscale-receiver[postgres]` brings"
        ) from None
