"""So many pairs of hands."""

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
    """Gives out claims and does their work as it is told."""

    def __init__(self, jobs: int, hands: int) -> None:
        self.waiting = [Claim(Job(f"job-{n}", State.RECEIVED), f"h:{n}") for n in range(jobs)]
        self.asked: list[int] = []
        self.refuse: Exception | None = None
        self.go_on = asyncio.Event()
        self.begun = asyncio.Semaphore(0)
        self.claimed = asyncio.Semaphore(0)
        self.most = self.now = 0
        self.done: list[str] = []
        self.bugs: dict[str, Exception] = {}
        self.broken: dict[str, Exception] = {}
        self.stage = WorkerPool("test", hands, self.claim, self.work, self.broke)

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

    async def broke(self, claim: Claim, bug: Exception) -> None:
        self.broken[claim.job.id] = bug

    async def begin(self, count: int) -> None:
        """Waits until so many more have begun."""
        for _ in range(count):
            await self.begun.acquire()


@asynccontextmanager
async def running(desk: Desk) -> AsyncIterator[asyncio.Event]:
    stopping = asyncio.Event()
    run = asyncio.create_task(desk.stage.run(stopping))
    try:
        yield stopping
    finally:
        stopping.set()
        desk.stage.wake.set()
        await run


async def test_what_is_under_way_is_told_with_how_long_it_has_been() -> None:
    desk = Desk(jobs=3, hands=2)
    async with running(desk):
        await desk.begin(2)
        first = {claim.job.id: seconds for claim, seconds in desk.stage.under_way}
        second = {claim.job.id: seconds for claim, seconds in desk.stage.under_way}
        desk.go_on.set()
        await desk.begin(1)
    await desk.stage.finish(GRACE)

    assert set(first) == set(second) == {"job-0", "job-1"}
    assert all(0 <= first[job] <= second[job] for job in first)
    assert list(desk.stage.under_way) == []


async def test_never_more_are_worked_on_than_there_are_hands_and_all_are_done() -> None:
    desk = Desk(jobs=10, hands=3)
    async with running(desk):
        await desk.begin(3)
        assert len(desk.stage.claims) == 3
        desk.go_on.set()
        await desk.begin(7)
    assert await desk.stage.finish(GRACE) == []
    assert sorted(desk.done) == [f"job-{n}" for n in range(10)]
    assert desk.most == 3
    assert max(desk.asked) == 3
    assert min(desk.asked) > 0


async def test_work_that_comes_later_is_taken_when_the_stage_is_woken() -> None:
    desk = Desk(jobs=0, hands=2)
    desk.go_on.set()
    async with running(desk):
        await desk.claimed.acquire()
        desk.waiting = [Claim(Job("late", State.RECEIVED), "h")]
        desk.stage.wake.set()
        await desk.begin(1)
    assert await desk.stage.finish(GRACE) == []
    assert desk.done == ["late"]


async def test_an_unforeseen_error_is_recorded_and_the_stage_goes_on() -> None:
    desk = Desk(jobs=3, hands=1)
    bug = ValueError("bug")
    desk.bugs = {"job-0": bug}
    desk.go_on.set()
    async with running(desk):
        await desk.begin(3)
    await desk.stage.finish(GRACE)
    assert desk.broken == {"job-0": bug}
    assert desk.done == ["job-1", "job-2"]


@pytest.mark.parametrize(
    "error", [LedgerError("ledger.unavailable"), SpoolError("spool.disk"), ValueError("a bug")]
)
async def test_a_claim_that_fails_is_made_again_at_the_next_wake(error: Exception) -> None:
    desk = Desk(jobs=1, hands=1)
    desk.refuse = error
    desk.go_on.set()
    async with running(desk):
        await desk.claimed.acquire()
        assert desk.stage.broken is isinstance(error, ValueError)
        desk.refuse = None
        desk.stage.wake.set()
        await desk.begin(1)
        assert not desk.stage.broken
    await desk.stage.finish(GRACE)
    assert desk.done == ["job-0"]


async def test_what_ends_within_the_grace_is_no_claim_left() -> None:
    desk = Desk(jobs=2, hands=2)
    async with running(desk):
        await desk.begin(2)
    finish = asyncio.create_task(desk.stage.finish(GRACE))
    desk.go_on.set()
    assert await finish == []
    assert len(desk.done) == 2


async def test_what_does_not_end_within_the_grace_is_stopped_and_its_claim_returned() -> None:
    desk = Desk(jobs=5, hands=2)
    async with running(desk):
        await desk.begin(2)
    left = await desk.stage.finish(timedelta(0))
    assert sorted(claim.job.id for claim in left) == ["job-0", "job-1"]
    assert desk.done == []
    assert desk.broken == {}
    assert desk.stage.claims == []
    assert len(desk.waiting) == 3


async def test_a_stage_without_work_finishes_at_once() -> None:
    assert await Desk(jobs=0, hands=1).stage.finish(GRACE) == []
