"""A ledger and a worker in this process, with clocks that a test sets."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import httpcore

from receiver.archive.factory import open_archive
from receiver.core.jobs import FINAL, UNSUCCESSFUL, Job, State
from receiver.fetch.asyncio_backend import AsyncioBackend
from receiver.fetch.download import DownloadLimits, Fetcher
from receiver.fetch.sources import Sources
from receiver.ledger import Delivery, Ledger
from receiver.pipeline.archive_stage import ArchiveStage
from receiver.pipeline.fetch_stage import FetchPlan, FetchStage
from receiver.pipeline.spool import Spool
from receiver.pipeline.worker import Worker
from receiver.providers.ximilar.client import Ximilar
from receiver.verify.decoder import Limits
from receiver.verify.verifier import Verifier
from tests.faults.matrix import Tally, in_folder
from tests.support.clock import Clock
from tests.support.gallery import Gallery
from tests.support.processes import PATIENCE
from tests.support.providers import NAME, asked, completion_of

MIB = 1 << 20
LATEST = 0.999
"""Dice that make each wait as long as it can be."""

PLAN = FetchPlan(4, timedelta(minutes=10))


@dataclass
class Workshop:
    """A ledger and its worker, with clocks that stand still until they are set."""

    ledger: Ledger
    images: Gallery
    folder: Path
    wall: Clock
    monotonic: Clock
    worker: Worker

    def pass_(self, span: int) -> None:
        """Lets time pass, ms: both clocks go."""
        self.wall.forward(span)
        self.monotonic.forward(span)

    async def deliver(self, job_id: str, life: int) -> None:
        """Records a completion whose URL lives for so many ms."""
        body = json.dumps(self.images.completion(job_id)).encode()
        await self.ledger.record(Delivery(completion_of(body), body, self.wall.now + life))

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
                lost=job.state in UNSUCCESSFUL,
                duplicated=max(len(kept.get(job_id, ())) - 1, 0),
                human=job.state not in FINAL,
            )
        return total


@asynccontextmanager
async def at_work(
    folder: Path,
    images: Gallery,
    *,
    plan: FetchPlan = PLAN,
    provider: Ximilar | None = None,
    verifier: Verifier | None = None,
    max_bytes: int = MIB,
    line: httpcore.AsyncNetworkBackend | None = None,
    clock: Callable[[], float] = time.monotonic,
    wall: Clock | None = None,
    archive_at: Path | None = None,
    opened: Callable[[Clock, Clock], Awaitable[Ledger]] | None = None,
) -> AsyncIterator[Workshop]:
    """A worker that is started, and stopped at the end.

    Args:
        folder: of ledger, spool and archive.
        images: where the images come from.
        plan: how they are fetched.
        provider: is asked, where there is one.
        verifier: judges images; a real one where none is given.
        max_bytes: of an image.
        line: connects to hosts; loopback as it is where none is given.
        clock: seconds, for the rate of downloads.
        wall: is set by another workshop, too.
        archive_at: is another folder than that of this worker alone.
        opened: opens the ledger, with the wall clock and the monotonic one; a file where none is given.
    """
    wall, monotonic = wall or Clock(), Clock(0)
    async with AsyncExitStack() as stack:
        if opened is None:
            ledger = await Ledger.serve(folder, now=wall, monotonic=monotonic)
        else:
            ledger = await opened(wall, monotonic)
        stack.push_async_callback(ledger.close)
        archive = open_archive((archive_at or folder / "archive").as_uri())
        stack.push_async_callback(archive.aclose)
        spool = Spool(folder / "spool", max_bytes=100 * MIB, max_image_bytes=max_bytes, reserve=0)
        fetcher = Fetcher(
            sources=Sources.parse(()),
            networks=(ip_network("127.0.0.1/32"),),
            limits=DownloadLimits(max_bytes=max_bytes),
            backend=line or AsyncioBackend(),
            clock=clock,
            user_agent="test",
        )
        judge = await stack.enter_async_context(verifier or Verifier(Limits(max_pixels=MIB)))
        fetch_stage = FetchStage(
            ledger=ledger,
            fetcher=await stack.enter_async_context(fetcher),
            verifier=judge,
            spool=spool,
            asked={} if provider is None else {NAME: asked(provider)},
            plan=plan,
            now=wall,
            jitter=lambda: LATEST,
        )
        archive_stage = ArchiveStage(
            ledger=ledger,
            archive=archive,
            spool=spool,
            verifier=judge,
            concurrency=2,
            key="{id}.{ext}",
            now=wall,
            jitter=lambda: LATEST,
        )
        worker = Worker(
            ledger=ledger,
            spool=spool,
            fetch_stage=fetch_stage,
            archive_stage=archive_stage,
            now=wall,
            monotonic=monotonic,
        )
        await worker.start()
        stack.push_async_callback(worker.stop)
        yield Workshop(ledger, images, folder, wall, monotonic, worker)
