"""The connections that read, whichever engine they are of."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from receiver.ledger.readers import Readers

T = TypeVar("T")


class Slow:
    """A connection whose first query ends when it is told to, as a database's thread does."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.asked = 0

    async def read(self, query: Callable[[object], T]) -> T:
        self.asked += 1
        await asyncio.shield(asyncio.ensure_future(self.may_end.wait()))
        return query(self)

    async def close(self) -> None: ...


async def test_a_connection_whose_caller_was_cancelled_is_lent_again_only_when_its_query_ends() -> None:
    one, other = connections = Slow(), Slow()
    readers = Readers(connections, lambda *_, **__: True)
    cancelled = asyncio.create_task(readers.read(lambda db: db))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    busy, idle = (one, other) if one.asked else (other, one)
    cancelled.cancel()
    await asyncio.wait({cancelled})
    idle.may_end.set()
    async with asyncio.timeout(5):
        assert await readers.read(lambda db: db) is idle
    busy.may_end.set()
    assert {*await asyncio.gather(*(readers.read(lambda db: db) for _ in connections))} == {one, other}
