"""A wall clock that is set by an hour while jobs wait and downloads run."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest

from receiver.archive import open_archive
from receiver.archiving import Archiving
from receiver.completion import parse
from receiver.fetch.fetch import Fetcher, Limits
from receiver.fetch.sources import Sources
from receiver.fetching import Fetching, FetchPlan
from receiver.ledger import Delivery, Ledger
from receiver.spool import Spool
from receiver.states import FINAL, Job, State
from receiver.verify import Limits as VerifyLimits
from receiver.verify import Verifier
from receiver.worker import Worker
from tests.faults.matrix import Matrix, Tally, in_folder
from tests.support.clock import HOUR, SECOND, Clock
from tests.support.gallery import Gallery, gallery
from tests.support.processes import PATIENCE

MIB = 1 << 20
LATEST = 0.999
"""Dice that make each wait as long as it can be."""


@pytest.fixture
def images() -> Iterator[Gallery]:
    with gallery() as it:
        yield it


@dataclass
class Workshop:
    """A ledger and its worker, with clocks that stand still until they are set."""

    ledger: Ledger
    images: Gallery
    folder: Path
    wall: Clock
    monotonic: Clock

    def pass_(self, span: int) -> None:
        """Lets time pass, ms: both clocks go."""
        self.wall.forward(span)
        self.monotonic.forward(span)

    async def deliver(self, job_id: str, life: int) -> None:
        """Records a completion whose URL lives for so many ms."""
        body = json.dumps(self.images.completion(job_id)).encode()
        await self.ledger.record(Delivery(parse(body), body, self.wall.now + life))

    async def until(self, job_id: str, found: Callable[[Job], object]) -> Job:
        """The job once it is so."""
        async with asyncio.timeout(PATIENCE):
            while True:
                job = await self.ledger.job(job_id)
                if job is not None and found(job):
                    return job
                await asyncio.sleep(0.02)

    async def waiting(self, job_id: str) -> Job:
        """The job once an attempt has failed."""
        return await self.until(job_id, lambda job: job.next_attempt_at is not None)

    async def ended(self, job_id: str) -> Job:
        """The job once it is final."""
        return await self.until(job_id, lambda job: job.state in FINAL)

    async def tally(self, *job_ids: str) -> Tally:
        """What became of jobs whose image was to be had."""
        kept = in_folder(self.folder / "archive")
        total = Tally()
        for job_id, sha256 in self.images.images(job_ids).items():
            job = await self.ledger.job(job_id)
            assert job is not None
            total += Tally(
                acknowledged=1,
                archived=job.state is State.ARCHIVED and kept.get(job_id) == [sha256],
                lost=job.state in FINAL - {State.ARCHIVED},
                duplicated=max(len(kept.get(job_id, ())) - 1, 0),
                human=job.state not in FINAL,
            )
        return total


@asynccontextmanager
async def at_work(folder: Path, images: Gallery) -> AsyncIterator[Workshop]:
    wall, monotonic = Clock(), Clock(0)
    async with AsyncExitStack() as stack:
        ledger = await Ledger.serve(folder, now=wall, monotonic=monotonic)
        stack.push_async_callback(ledger.close)
        archive = open_archive((folder / "archive").as_uri())
        stack.push_async_callback(archive.aclose)
        spool = Spool(folder / "spool", max_bytes=100 * MIB, max_image_bytes=MIB, reserve=0)
        fetcher = Fetcher(
            sources=Sources.parse(()),
            networks=(ip_network("127.0.0.1/32"),),
            limits=Limits(max_bytes=MIB),
            user_agent="test",
        )
        fetching = Fetching(
            ledger=ledger,
            fetcher=await stack.enter_async_context(fetcher),
            verifier=await stack.enter_async_context(Verifier(VerifyLimits(max_pixels=MIB))),
            spool=spool,
            provider=None,
            plan=FetchPlan(4, timedelta(minutes=10), timedelta(hours=24)),
            now=wall,
            dice=lambda: LATEST,
        )
        archiving = Archiving(
            ledger=ledger,
            archive=archive,
            spool=spool,
            hands=2,
            key="{id}.{ext}",
            now=wall,
            dice=lambda: LATEST,
        )
        worker = Worker(
            ledger=ledger, spool=spool, fetching=fetching, archiving=archiving, now=wall, monotonic=monotonic
        )
        await worker.start()
        stack.push_async_callback(worker.stop)
        yield Workshop(ledger, images, folder, wall, monotonic)


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
            await shop.ledger.release_overdue_leases()
            assert await shop.ledger.claim_to_fetch(1, again=1, lease=HOUR) == []
        finally:
            images.gate.set()

        job = await shop.ended("runs")
        tally = await shop.tally("runs")
        matrix("the clock is set while a download runs", tally)
        assert (job.state, images.asked) == (State.ARCHIVED, ["runs"])
        assert tally.kept()
