"""The connections that only read a ledger, so that no query waits for a commit."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from receiver.core.errors import LedgerError

T = TypeVar("T")


class Reader(Protocol):
    """One connection, with a thread of its own."""

    async def read(self, query: Callable[[Any], T]) -> T:
        """Run a query on one snapshot, or raise `LedgerError`."""

    async def close(self) -> None: ...


class Readers:
    """Lends its connections to queries in turn; ``reads`` counts the queries.

    ``check`` is what `check_whole` runs: ``check(db, seconds=…, deep=…)``.
    """

    def __init__(self, connections: Sequence[Reader], check: Callable[..., bool]) -> None:
        self.reads = 0
        self._connections = connections
        self._check = check
        self._closing = False
        # The connection that was used last is the first: it knows the plans of most statements.
        self._idle: asyncio.Queue[Reader] = asyncio.LifoQueue()
        for connection in connections:
            self._idle.put_nowait(connection)

    async def read(self, query: Callable[[Any], T]) -> T:
        """Run a query on one snapshot, or raise `LedgerError`."""
        connection = await self._idle.get()
        if self._closing:
            self._idle.put_nowait(connection)
            raise LedgerError("ledger.stopping")
        self.reads += 1
        # A query goes on although its caller is cancelled, and its connection is idle only when it ends.
        reading = asyncio.create_task(connection.read(query))
        reading.add_done_callback(lambda _: self._idle.put_nowait(connection))
        return await asyncio.shield(reading)

    async def check_whole(self, *, seconds: float | None = None, deep: bool = False) -> bool:
        """Read the whole ledger; return whether that ended within the seconds. Raise ``ledger.corrupt``."""
        return await self.read(partial(self._check, seconds=seconds, deep=deep))

    async def close(self) -> None:
        """Finish the queries that run, and close all connections."""
        self._closing = True
        for connection in self._connections:
            await connection.close()
