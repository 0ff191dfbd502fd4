"""A pool of connections that only read."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

from receiver.core.errors import LedgerError
from receiver.ledger.sqlite.connections import Connection, ledger_error, open_to_read
from receiver.ledger.sqlite.driver import sqlite3

T = TypeVar("T")


class ReaderPool:
    """Read-only connections, so that no query waits for a commit; ``reads`` counts the queries."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self.reads = 0
        self._connections = connections
        self._closing = False
        self._idle: asyncio.Queue[Connection] = asyncio.Queue()
        for connection in connections:
            self._idle.put_nowait(connection)

    @classmethod
    async def open(cls, path: Path, size: int) -> Self:
        return cls([await open_to_read(path) for _ in range(size)])

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query on one snapshot of the ledger, or raise `LedgerError`."""
        connection = await self._idle.get()
        try:
            if self._closing:
                raise LedgerError("ledger.stopping")
            self.reads += 1
            return await connection.run(partial(on_snapshot, query))
        except sqlite3.Error as error:
            raise ledger_error(error) from error
        finally:
            self._idle.put_nowait(connection)

    async def close(self) -> None:
        """Finish the queries that run, and close all connections."""
        self._closing = True
        for connection in self._connections:
            await connection.close()


def on_snapshot(query: Callable[[sqlite3.Connection], T], db: sqlite3.Connection) -> T:
    """Run a query in one read transaction."""
    db.execute("BEGIN")
    try:
        return query(db)
    finally:
        if db.in_transaction:  # some errors end it by themselves
            db.execute("ROLLBACK")
