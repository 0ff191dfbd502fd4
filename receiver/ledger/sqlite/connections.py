"""SQLite connections, each with a thread of its own, and SQLite's errors.

Opening one raises `LedgerError`: ``ledger.unavailable`` or ``ledger.corrupt``.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from receiver.core.errors import LedgerError
from receiver.ledger.sqlite.driver import sqlite3

T = TypeVar("T")

BUSY_MS = 5000
"""How long a statement waits for another process, such as a command beside the server, to end its write."""


class Connection:
    """A SQLite connection with a thread of its own, because SQLite's calls block."""

    def __init__(self, db: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._db = db
        self._thread = thread
        self._closed = False

    @classmethod
    async def open(cls, path: Path, connect: Callable[[], sqlite3.Connection]) -> Self:
        """Open a connection by calling ``connect`` on the new thread."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        try:
            return cls(await asyncio.get_running_loop().run_in_executor(thread, connect), thread)
        except BaseException as error:
            await asyncio.to_thread(thread.shutdown)
            if isinstance(error, sqlite3.Error):
                raise ledger_error(error, path) from error
            raise

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a whole function on the thread: one hop, however many statements it executes."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._db)

    def interrupt(self) -> None:
        """Abort the statement that is running."""
        self._db.interrupt()

    async def close(self) -> None:
        """Finish queued work, close the connection and end the thread."""
        if not self._closed:
            self._closed = True
            await self.run(lambda db: db.close())
            self._thread.shutdown()


async def open_to_write(path: Path) -> Connection:
    """Open the ledger's one writing connection, and create the file where there is none."""

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

    return await Connection.open(path, connect)


async def open_to_read(path: Path) -> Connection:
    """Open a connection that cannot write."""

    def connect() -> sqlite3.Connection:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_MS / 1000)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA query_only = ON")
        db.execute("PRAGMA cache_size = -16384")
        return db

    return await Connection.open(path, connect)


def ledger_error(error: sqlite3.Error, path: Path | None = None) -> LedgerError:
    """Translate an error of SQLite."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    where = f" ({path})" if path else ""
    if name in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
        return LedgerError(
            "ledger.corrupt", f"The ledger is damaged{where}: {error}. Restore it from a backup."
        )
    return LedgerError("ledger.unavailable", f"The ledger cannot be used{where}: {name}, {error}.")
