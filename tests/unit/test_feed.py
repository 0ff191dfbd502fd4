"""One reader of the history for all who listen: no gap, no repetition, and hardly any questions."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from receiver.events import feed as feeds
from receiver.events.feed import Feed
from receiver.ledger import FILE_NAME, Ledger, Submission
from tests.support.clock import Clock
from tests.support.ledgers import make_empty_ledger

PATIENCE = 60


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = await Ledger.serve(make_empty_ledger(tmp_path), now=Clock())
    yield ledger
    await ledger.close()


@pytest.fixture
def stopping() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def feed(ledger: Ledger, stopping: asyncio.Event) -> AsyncIterator[Feed]:
    async with Feed(ledger, stopping) as feed:
        yield feed
        stopping.set()


class Listener:
    """Takes what comes, in a task of its own."""

    def __init__(self, feed: Feed, after: int, *, slow: asyncio.Event | None = None) -> None:
        self.lines: list[int] = []
        self.most = 0
        self.gaps: list[int] = []
        self._slow = slow
        self._news = asyncio.Condition()
        self.task = asyncio.create_task(self._take(feed, after))

    async def _take(self, feed: Feed, after: int) -> None:
        async with aclosing(feed.subscribe(after)) as listening:
            async for news in listening:
                self.most = max(self.most, len(news.changes))
                self.gaps += [] if news.gap is None else [news.gap]
                self.lines += [change.transition.seq for change in news.changes]
                async with self._news:
                    self._news.notify_all()
                if self._slow is not None:
                    await self._slow.wait()

    async def until(self, line: int) -> list[int]:
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(lambda: self.lines and self.lines[-1] >= line)
        return self.lines


async def announce(ledger: Ledger, first: int, last: int) -> None:
    """Each is a line of the history; some of them at once are one commit."""
    await asyncio.gather(*(ledger.expect(Submission(f"job-{number}")) for number in range(first, last)))


async def test_a_thousand_listeners_cost_one_question_for_each_commit(ledger: Ledger, feed: Feed) -> None:
    listeners = [Listener(feed, 0) for _ in range(1000)]
    await announce(ledger, 0, 1)
    await asyncio.gather(*(listener.until(1) for listener in listeners))
    before, commits = ledger.reads, 20

    for number in range(1, commits + 1):
        await announce(ledger, number, number + 1)
        await asyncio.gather(*(listener.until(number + 1) for listener in listeners))

    assert ledger.reads - before <= commits + 1
    assert all(listener.lines == list(range(1, commits + 2)) for listener in listeners)


async def test_while_nobody_listens_nothing_is_read(ledger: Ledger, feed: Feed) -> None:
    before = ledger.reads
    await announce(ledger, 0, 100)
    await announce(ledger, 100, 200)
    assert ledger.reads == before
    # And who comes then begins where it wants to all the same.
    assert await Listener(feed, 0).until(200) == list(range(1, 201))
    assert await Listener(feed, 150).until(200) == list(range(151, 201))


async def test_listeners_who_come_and_go_at_any_time_miss_nothing_and_see_nothing_twice(
    ledger: Ledger, feed: Feed
) -> None:
    total = 3 * feeds.PAGE_SIZE
    writing = asyncio.create_task(write_on(ledger, total))
    known: list[int] = []
    while len(known) < total:
        listener = Listener(feed, known[-1] if known else 0)
        await listener.until((known[-1] if known else 0) + 1)
        listener.task.cancel()
        await asyncio.wait([listener.task])
        known += listener.lines
    await writing
    assert known == list(range(1, total + 1))


async def write_on(ledger: Ledger, total: int) -> None:
    for first in range(0, total, 50):
        await announce(ledger, first, first + 50)


async def test_who_is_slow_is_served_from_the_ledger_in_pieces_and_costs_no_memory(
    ledger: Ledger, feed: Feed
) -> None:
    gate = asyncio.Event()
    quick, slow = Listener(feed, 0), Listener(feed, 0, slow=gate)
    total = 3 * feeds.RECENT
    await announce(ledger, 0, 1)
    await slow.until(1)
    for first in range(1, total, 1000):
        await announce(ledger, first, min(first + 1000, total))
    await quick.until(total)
    assert len(feed._recent) <= 2 * feeds.RECENT
    assert slow.lines == [1]

    gate.set()
    assert await slow.until(total) == list(range(1, total + 1))
    assert slow.most <= feeds.PAGE_SIZE


async def test_what_is_pruned_before_a_slow_listener_has_come_to_it_is_told_as_a_gap(
    ledger: Ledger, feed: Feed, tmp_path: Path
) -> None:
    total = 3 * feeds.PAGE_SIZE
    for first in range(0, total, feeds.PAGE_SIZE):
        await announce(ledger, first, first + feeds.PAGE_SIZE)
    gate = asyncio.Event()
    slow = Listener(feed, 0, slow=gate)
    await slow.until(feeds.PAGE_SIZE)
    assert (slow.lines[-1], slow.gaps) == (feeds.PAGE_SIZE, [])

    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("DELETE FROM history WHERE seq BETWEEN 10 AND ?", (total - 100,))
    db.close()
    gate.set()

    assert (await slow.until(total))[feeds.PAGE_SIZE :] == list(range(total - 99, total + 1))
    assert slow.gaps == [total - 100]


async def test_a_gap_is_told_once_however_many_pieces_are_read(
    ledger: Ledger, feed: Feed, tmp_path: Path
) -> None:
    total = 3 * feeds.PAGE_SIZE
    for first in range(0, total, feeds.PAGE_SIZE):
        await announce(ledger, first, first + feeds.PAGE_SIZE)
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("DELETE FROM history WHERE seq IN (1, ?)", (total - 1,))
    db.close()
    listener = Listener(feed, 0)
    await listener.until(total)
    assert listener.gaps == [total - 1]
    assert listener.lines == [*range(2, total - 1), total]


async def test_what_is_pruned_before_anybody_has_read_it_is_told_to_all(
    ledger: Ledger, feed: Feed, tmp_path: Path
) -> None:
    listeners = [Listener(feed, 0) for _ in range(3)]
    await announce(ledger, 0, 1)
    await asyncio.gather(*(listener.until(1) for listener in listeners))
    await ledger.detect_foreign_commits()
    other = await Ledger.open_beside(tmp_path)  # whose commits are heard only when they are noticed
    await announce(other, 1, 5)
    await other.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("DELETE FROM history WHERE seq = 3")
    db.close()
    await ledger.detect_foreign_commits()
    assert [await listener.until(5) for listener in listeners] == [[1, 2, 4, 5]] * 3
    assert [listener.gaps for listener in listeners] == [[3]] * 3


async def test_what_other_processes_commit_is_heard(ledger: Ledger, feed: Feed, tmp_path: Path) -> None:
    listener = Listener(feed, 0)
    await announce(ledger, 0, 1)
    await listener.until(1)
    await ledger.detect_foreign_commits()
    other = await Ledger.open_beside(tmp_path)
    await announce(other, 1, 2)
    await other.close()
    await ledger.detect_foreign_commits()
    assert await listener.until(2) == [1, 2]


async def test_all_are_let_go_when_the_server_is_to_end(
    ledger: Ledger, feed: Feed, stopping: asyncio.Event
) -> None:
    listeners = [Listener(feed, 0) for _ in range(10)]
    await announce(ledger, 0, 1)
    await asyncio.gather(*(listener.until(1) for listener in listeners))
    stopping.set()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(listener.task for listener in listeners))
    late = Listener(feed, 0)
    async with asyncio.timeout(PATIENCE):
        await late.task
    assert late.lines == []


async def test_silence_is_told_to_who_has_no_patience(ledger: Ledger, feed: Feed) -> None:
    await announce(ledger, 0, 1)
    async with aclosing(feed.subscribe(1, heartbeat=lambda: 0.01)) as listening:
        news = await anext(listening)
    assert (news.changes, news.until) == ((), 1)


async def test_a_thousand_who_wait_for_one_job_read_it_once(ledger: Ledger) -> None:
    await announce(ledger, 0, 1)
    before = ledger.reads
    found = await asyncio.gather(*(ledger.job_with_history_shared("job-0") for _ in range(1000)))
    assert ledger.reads - before == 1
    assert all(job is found[0] for job in found)
    await announce(ledger, 0, 1)
    assert await ledger.job_with_history_shared("job-0") is not found[0]
