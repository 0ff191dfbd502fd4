"""The stream of changes, block by block."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from receiver.api import params
from receiver.api.sse import ChangeStream
from receiver.core.jobs import State
from receiver.events.feed import Feed
from receiver.ledger import Ledger, Submission
from receiver.web.waiter_limit import WaiterLimit
from tests.support.clock import Clock
from tests.support.ledgers import make_empty_ledger


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = await Ledger.serve(make_empty_ledger(tmp_path), now=Clock())
    yield ledger
    await ledger.close()


@pytest.fixture
async def stream(ledger: Ledger) -> AsyncIterator[ChangeStream]:
    stopping = asyncio.Event()
    async with Feed(ledger, stopping) as feed:
        yield ChangeStream(ledger, feed, WaiterLimit(1), heartbeat=0.05)
        stopping.set()


async def test_silence_is_filled_with_comments_that_name_the_position(
    ledger: Ledger, stream: ChangeStream
) -> None:
    await ledger.expect(Submission("job"))
    events = stream._events(params.Changes(), 1)
    async with aclosing(events), asyncio.timeout(30):  # type: ignore[type-var] # it is a generator
        assert await anext(events) == "retry: 2000\nid: 1\n\n"
        assert await anext(events) == ":\nid: 1\n\n"
        assert await anext(events) == ":\nid: 1\n\n"


async def test_the_place_moves_on_over_what_is_not_wanted(ledger: Ledger, stream: ChangeStream) -> None:
    events = stream._events(params.Changes(after=0, states=(State.FAILED,)), 0)
    async with aclosing(events), asyncio.timeout(30):  # type: ignore[type-var] # it is a generator
        await anext(events)
        assert (await anext(events)).endswith("id: 0\n\n")
        for number in range(3):
            await ledger.expect(Submission(f"job-{number}"))
        while (block := await anext(events)) != ":\nid: 3\n\n":
            assert block.startswith(":\nid: ")


async def test_a_ledger_that_cannot_be_read_ends_the_stream_and_frees_its_place(
    ledger: Ledger, stream: ChangeStream
) -> None:
    events = stream._events(params.Changes(after=0), 0)
    async with aclosing(events), asyncio.timeout(30):  # type: ignore[type-var] # it is a generator
        await anext(events)
        await ledger.close()
        assert [block async for block in events] == []
    stream.waiters.check()
