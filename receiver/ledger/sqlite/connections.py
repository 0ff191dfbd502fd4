"""A connection whose work is done in one hop to its thread."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiosqlite

from receiver.core.errors import LedgerError
from receiver.ledger.sqlite.driver import sqlite3

T = TypeVar("T")

BUSY_MS = 5000
"""How long a statement waits for another process, such as a command beside the server, to end its write."""


class Door(aiosqlite.Connection):
    """An aiosqlite connection that also runs a whole function on its thread.

    aiosqlite's public calls make one hop to the thread for each statement, and a batch of a hundred
    deliveries is several hundred statements. ``_execute`` is what all of its own calls are made of.
    """

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs ``work`` with the raw connection on the connection's thread, and returns what it gives."""
        result: T = await self._execute(partial(self._with_connection, work))  # type: ignore[no-untyped-call]
        return result

    def _with_connection(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return work(self._conn)


async def open_to_write(path: Path) -> Door:
    """Opens the ledger's one writing connection, and makes the file where there is none.

    Raises:
        LedgerError: ``ledger.unavailable`` or ``ledger.corrupt``.
    """

    def connect() -> sqlite3.Connection:
        db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_MS / 1000)
        db.row_factory = sqlite3.Row
        # FULL: a commit returns after the WAL was fsynced. NORMAL loses acknowledged rows in a power cut.
        db.executescript(
            """
            PRAGMA journal_mode = WAL;
            PRAGMA synchronous = FULL;
            PRAGMA wal_autocheckpoint = 4000;
            PRAGMA cache_size = -65536;
            PRAGMA temp_store = MEMORY;
            """
        )
        return db

    return await _open(path, connect)


async def open_to_read(path: Path) -> Door:
    """Opens a connection that cannot write.

    Raises:
        LedgerError: ``ledger.unavailable`` or ``ledger.corrupt``.
    """

    def connect() -> sqlite3.Connection:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_MS / 1000)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA query_only = ON")
        db.execute("PRAGMA cache_size = -16384")
        return db

    return await _open(path, connect)


async def _open(path: Path, connect: Callable[[], sqlite3.Connection]) -> Door:
    door = Door(connect, iter_chunk_size=64)
    try:
        await door
    except BaseException as error:
        # aiosqlite tells its thread to end and does not wait: that may find the loop closed, and say so.
        await asyncio.to_thread(door._thread.join)  # noqa: SLF001 - there is no public way
        if isinstance(error, sqlite3.Error):
            raise translate(error, path) from error
        raise
    return door


def translate(error: sqlite3.Error, path: Path | None = None) -> LedgerError:
    """What an error of SQLite means to the rest of the program."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    where = f" ({path})" if path else ""
    if name in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
        return LedgerError(
            "ledger.corrupt", f"The ledger is damaged{where}: {error}. Restore it from a backup."
        )
    return LedgerError("ledger.unavailable", f"The ledger cannot be used{where}: {name}, {error}.")
