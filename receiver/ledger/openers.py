"""Chooses the engine of a ledger by where the ledger is."""

from pathlib import Path

from receiver.core.errors import ConfigError
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger.engine import Opener
from receiver.ledger.sqlite.database import SqliteOpener

Place = LedgerLocation | Path
"""Where a ledger is; a path is the data directory of one in a file."""


def opener(place: Place) -> Opener:
    """Return what opens the ledger of a place."""
    if isinstance(place, Path):
        return SqliteOpener(place)
    if place.url is None:
        return SqliteOpener(place.data_dir)
    try:
        from receiver.ledger.postgres.database import PostgresOpener  # noqa: PLC0415 - an extra, see below
    except ImportError:
        raise ConfigError(
            "RECEIVER_LEDGER: needs psycopg, which `pip install upscale-receiver[postgres]` brings"
        ) from None
    return PostgresOpener(place)
