"""SQLite connections, each with a thread of its own, and SQLite's errors.

Opening one raises `LedgerError`: ``ledger.unavailable`` or ``ledger.corrupt``.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import aiosqlite

from receiver.core.errors import LedgerError
from receiver.ledger.sqlite.driver import sqlite3

T = TypeVar("T")

BUSY_MS = 5000
"""How long a statement waits for another process, such as a command beside the server, to end its write."""


class Connection(aiosqlite.Connection):
    """A SQLite connection with a thread of its own, because SQLite's calls block.

    aiosqlite's public calls make one hop to the thread for each statement, and a batch of a hundred
    deliveries is several hundred statements. ``_execute``, which all of its calls are made of, takes a whole
    function. It is not public, so pyproject.toml bounds the version.
    """

    async def run(self, work: Callable[[sqlite3.Connection], T], path: Path | None = None) -> T:
        """Run a whole function on the thread: one hop, however many statements it executes.

        Raise SQLite's errors as `LedgerError`, which names the path.
        """
        try:
            result: T = await self._execute(lambda: work(self._conn))  # type: ignore[no-untyped-call]
        except sqlite3.Error as error:
            raise ledger_error(error, path) from error
        return result

    async def read(self, query: Callable[[sqlite3.Connection], T], path: Path | None = None) -> T:
        """Run a query in one read transaction."""

        def on_snapshot(db: sqlite3.Connection) -> T:
            db.execute("BEGIN")
            try:
                return query(db)
            finally:
                if db.in_transaction:  # some errors end it by themselves
                    db.execute("ROLLBACK")

        return await self.run(on_snapshot, path)


async def _open(path: Path, mode: str, pragmas: str) -> Connection:
    def connect() -> sqlite3.Connection:
        uri = f"{path.resolve().as_uri()}?mode={mode}"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_MS / 1000)
        db.row_factory = sqlite3.Row
        db.executescript(pragmas)
        return db

    connection = Connection(connect, iter_chunk_size=64)
    try:
        await connection
    except BaseException as error:
        # aiosqlite ends its thread and does not wait for it: the thread may find the event loop closed.
        await asyncio.to_thread(connection._thread.join)  # noqa: SLF001 - there is no public way
        if isinstance(error, sqlite3.Error):
            raise ledger_error(error, path) from error
        raise
    return connection


# Caches are small, since the system keeps the file's pages anyway. cell_size_check: a page is looked through
# when it is read, so that nothing is written to a damaged one.
# FULL: a commit returns after the WAL was fsynced. NORMAL loses acknowledged rows in a power cut.
_TO_WRITE = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA cache_size = -16384;
    PRAGMA cell_size_check = ON;
    PRAGMA temp_store = MEMORY;
"""


async def open_to_write(path: Path) -> Connection:
    """Open the ledger's one writing connection, and create the file where there is none."""
    return await _open(path, "rwc", _TO_WRITE)


async def open_to_read(path: Path) -> Connection:
    return await _open(path, "ro", "PRAGMA query_only = ON; PRAGMA cache_size = -4096;")


async def read_once(path: Path, query: Callable[[sqlite3.Connection], T]) -> T:
    """Run a query on one snapshot, with a connection of its own."""
    connection = await open_to_read(path)
    try:
        return await connection.read(query, path)
    finally:
        await connection.interrupt()  # where the task was cancelled
        await connection.close()


DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
"""What the names of errors of a damaged file begin with; Python's own module names extended codes."""


def ledger_error(error: sqlite3.Error, path: Path | None = None) -> LedgerError:
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    where = f" ({path})" if path else ""
    if name.startswith(DAMAGE):
        return LedgerError(
            "ledger.corrupt", f"The ledger is damaged{where}: {error}. Restore it from a backup."
        )
    return LedgerError("ledger.unavailable", f"The ledger cannot be used{where}: {name}, {error}.")
