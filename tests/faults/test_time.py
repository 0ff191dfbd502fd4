"""A wall clock that is set by an hour while jobs wait and downloads run."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from receiver.core.jobs import State
from tests.faults.matrix import Matrix
from tests.faults.workshop import at_work
from tests.support.clock import HOUR, SECOND
from tests.support.gallery import Gallery, gallery


@pytest.fixture
def images() -> Iterator[Gallery]:
    with gallery() as it:
        yield it


@pytest.mark.parametrize("jump", [-HOUR, HOUR], ids=["back", "forward"])
async def test_a_job_that_waits_waits_no_longer_for_the_clock_that_was_set(
    tmp_path: Path, images: Gallery, matrix: Matrix, jump: int
) -> None:
    images.away = True
    async with at_work(tmp_path, images) as shop:
        await shop.deliver("waits", 24 * HOUR)
        before = await shop.waiting("waits")
        assert before.next_attempt_at is not None
        assert before.deadline is not None
        wait = before.next_attempt_at - shop.wall.now
        assert wait > SECOND

        shop.wall.forward(jump)
        moved = await shop.until(
            "waits", lambda job: job.next_attempt_at not in {None, before.next_attempt_at}
        )

        assert moved.next_attempt_at is not None
        left = moved.next_attempt_at - shop.wall.now
        if moved.attempts == before.attempts:
            assert left == wait
        else:  # a jump forward may be seen as a wait's end, for one attempt; the next wait is as any other
            assert jump > 0
            assert left < 3 * wait
        assert moved.deadline == before.deadline  # it is the URL's own, and a time of day
        images.away = False
        shop.pass_(left)
        job = await shop.ended("waits")
        tally = await shop.tally("waits")
        matrix(f"the clock is set {'back' if jump < 0 else 'forward'} by an hour", tally)
        assert (job.state, len(images.asked)) == (State.ARCHIVED, moved.attempts + 1)
        assert tally.kept()


async def test_a_jump_back_expires_nothing_and_a_jump_forward_only_what_its_own_hour_covers(
    tmp_path: Path, images: Gallery
) -> None:
    images.away = True
    async with at_work(tmp_path, images) as shop:
        await shop.deliver("short", HOUR // 2)
        await shop.deliver("long", 2 * HOUR)
        tried = await shop.waiting("short")
        await shop.waiting("long")

        shop.wall.forward(-HOUR)
        moved = await shop.until("short", lambda job: job.next_attempt_at != tried.next_attempt_at)
        assert moved.state is State.RECEIVED

        shop.wall.forward(HOUR)  # right again
        soon = shop.wall.now + 10 * SECOND
        again = await shop.until("short", lambda job: job.next_attempt_at and job.next_attempt_at < soon)
        assert again.state is State.RECEIVED

        shop.wall.forward(HOUR)
        assert (await shop.ended("short")).state is State.EXPIRED  # by this clock its URL's time is over
        images.away = False
        # An attempt that was under way then has failed, and its wait begins, before the time passes.
        await shop.until("long", lambda job: job.next_attempt_at or job.state is State.ARCHIVED)
        shop.pass_(HOUR // 4)
        assert (await shop.ended("long")).state is State.ARCHIVED


@pytest.mark.parametrize("jump", [-HOUR, HOUR], ids=["back", "forward"])
async def test_a_download_under_way_keeps_its_lease_and_is_not_made_twice(
    tmp_path: Path, images: Gallery, matrix: Matrix, jump: int
) -> None:
    images.gate = threading.Event()
    async with at_work(tmp_path, images) as shop:
        await shop.deliver("runs", 24 * HOUR)
        await shop.until("runs", lambda _: images.asked)
        try:
            shop.wall.forward(jump)
            await shop.ledger.release_expired_leases()
            assert await shop.ledger.claim_to_fetch(1, again=1, lease=HOUR) == []
        finally:
            images.gate.set()

        job = await shop.ended("runs")
        tally = await shop.tally("runs")
        matrix("the clock is set while a download runs", tally)
        assert (job.state, images.asked) == (State.ARCHIVED, ["runs"])
        assert tally.kept()
