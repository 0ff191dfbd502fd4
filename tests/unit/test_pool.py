"""A pool of workers."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from receiver.core.errors import LedgerError, SpoolError
from receiver.core.jobs import Job, State
from receiver.ledger import Claim
from receiver.pipeline.pool import WorkerPool

GRACE = timedelta(seconds=30)


class Desk:
    """Gives out claims, and processes them as the test says."""

    def __init__(self, jobs: int, size: int) -> None:
        self.waiting = [Claim(Job(f"job-{n}", State.RECEIVED), f"h:{n}") for n in range(jobs)]
        self.asked: list[int] = []
        self.refuse: Exception | None = None
        self.go_on = asyncio.Event()
        self.begun = asyncio.Semaphore(0)
        self.claimed = asyncio.Semaphore(0)
        self.most = self.now = 0
        self.done: list[str] = []
        self.bugs: dict[str, Exception] = {}
        self.recorded: dict[str, Exception] = {}
        self.pool = WorkerPool("test", size, self.claim, self.work, self.on_bug)

    async def claim(self, limit: int) -> Sequence[Claim]:
        self.asked.append(limit)
        self.claimed.release()
        if self.refuse is not None:
            raise self.refuse
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return taken

    async def work(self, claim: Claim) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        self.begun.release()
        try:
            await self.go_on.wait()
            if claim.job.id in self.bugs:
                raise self.bugs[claim.job.id]
            self.done.append(claim.job.id)
        finally:
            self.now -= 1

    async def on_bug(self, claim: Claim, bug: Exception) -> None:
        self.recorded[claim.job.id] = bug

    async def begin(self, count: int) -> None:
        """Waits until so many more have begun."""
        for _ in range(count):
            await self.begun.acquire()


@asynccontextmanager
async def running(desk: Desk) -> AsyncIterator[asyncio.Event]:
    stopping = asyncio.Event()
    run = asyncio.create_task(desk.pool.run(stopping))
    try:
        yield stopping
    finally:
        stopping.set()
        desk.pool.wake.set()
        await run


async def test_jobs_in_progress_are_reported_with_their_duration() -> None:
    desk = Desk(jobs=3, size=2)
    async with running(desk):
        await desk.begin(2)
        first = {claim.job.id: seconds for claim, seconds in desk.pool.in_progress}
        second = {claim.job.id: seconds for claim, seconds in desk.pool.in_progress}
        desk.go_on.set()
        await desk.begin(1)
    await desk.pool.finish(GRACE)

    assert set(first) == set(second) == {"job-0", "job-1"}
    assert all(0 <= first[job] <= second[job] for job in first)
    assert list(desk.pool.in_progress) == []


async def test_never_more_are_worked_on_than_the_pools_size_and_all_are_done() -> None:
    desk = Desk(jobs=10, size=3)
    async with running(desk):
        await desk.begin(3)
        assert len(desk.pool.claims) == 3
        desk.go_on.set()
        await desk.begin(7)
    assert await desk.pool.finish(GRACE) == []
    assert sorted(desk.done) == [f"job-{n}" for n in range(10)]
    assert desk.most == 3
    assert max(desk.asked) == 3
    assert min(desk.asked) > 0


async def test_work_that_comes_later_is_taken_when_the_pool_is_woken() -> None:
    desk = Desk(jobs=0, size=2)
    desk.go_on.set()
    async with running(desk):
        await desk.claimed.acquire()
        desk.waiting = [Claim(Job("late", State.RECEIVED), "h")]
        desk.pool.wake.set()
        await desk.begin(1)
    assert await desk.pool.finish(GRACE) == []
    assert desk.done == ["late"]


async def test_the_end_of_a_job_wakes_the_pool_that_goes_on_with_it() -> None:
    desk, next_desk = Desk(jobs=1, size=1), Desk(jobs=0, size=1)
    desk.pool.following = next_desk.pool
    next_desk.go_on.set()
    async with running(desk), running(next_desk):
        await desk.begin(1)
        await next_desk.claimed.acquire()
        next_desk.waiting = [Claim(Job("job-0", State.FETCHED), "h")]
        desk.go_on.set()
        await next_desk.begin(1)
    assert await next_desk.pool.finish(GRACE) == []
    assert next_desk.done == ["job-0"]


async def test_an_unexpected_error_is_recorded_and_the_pool_goes_on() -> None:
    desk = Desk(jobs=3, size=1)
    bug = ValueError("bug")
    desk.bugs = {"job-0": bug}
    desk.go_on.set()
    async with running(desk):
        await desk.begin(3)
    await desk.pool.finish(GRACE)
    assert desk.recorded == {"job-0": bug}
    assert desk.done == ["job-1", "job-2"]


@pytest.mark.parametrize(
    "error", [LedgerError("ledger.unavailable"), SpoolError("spool.disk"), ValueError("a bug")]
)
async def test_a_claim_that_fails_is_made_again_at_the_next_wake(error: Exception) -> None:
    desk = Desk(jobs=1, size=1)
    desk.refuse = error
    desk.go_on.set()
    async with running(desk):
        await desk.claimed.acquire()
        assert desk.pool.broken is isinstance(error, ValueError)
        desk.refuse = None
        desk.pool.wake.set()
        await desk.begin(1)
        assert not desk.pool.broken
    await desk.pool.finish(GRACE)
    assert desk.done == ["job-0"]


async def test_what_ends_within_the_grace_is_no_claim_left() -> None:
    desk = Desk(jobs=2, size=2)
    async with running(desk):
        await desk.begin(2)
    finish = asyncio.create_task(desk.pool.finish(GRACE))
    desk.go_on.set()
    assert await finish == []
    assert len(desk.done) == 2


async def test_what_does_not_end_within_the_grace_is_stopped_and_its_claim_returned() -> None:
    desk = Desk(jobs=5, size=2)
    async with running(desk):
        await desk.begin(2)
    left = await desk.pool.finish(timedelta(0))
    assert sorted(claim.job.id for claim in left) == ["job-0", "job-1"]
    assert desk.done == []
    assert desk.recorded == {}
    assert desk.pool.claims == []
    assert len(desk.waiting) == 3


async def test_a_pool_without_work_finishes_at_once() -> None:
    assert await Desk(jobs=0, size=1).pool.finish(GRACE) == []
