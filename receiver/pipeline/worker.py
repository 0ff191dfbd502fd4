"""Runs both stages, and the loop that ends waits and applies deadlines.

The stages meet at the ledger alone. A commit or the clock wakes them. Whatever happened meanwhile (a restart,
a retry from the command line, a crash) is found in the ledger and needs no code of its own.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import structlog

from receiver.core.clock import Clock
from receiver.core.concurrency import cancel, run_forever
from receiver.core.errors import LedgerError
from receiver.core.jobs import Job, State
from receiver.ledger import Claim, Ledger
from receiver.pipeline.archive_stage import ArchiveStage
from receiver.pipeline.fetch_stage import FetchStage
from receiver.pipeline.spool import Spool, job_and_sha256

log = structlog.get_logger("receiver.worker")

MAX_SLEEP_SECONDS = 1.0
"""The longest that a wait's end or a deadline goes unnoticed."""

COMMIT_PAUSE_SECONDS = 0.05
"""Between two looks for work because of commits, when there are many. In a burst of deliveries, whose images
may all be of a host that has its share, each look is in vain, and takes a tenth of what a delivery costs."""

LOOKS_AT_ONCE = 5
"""So many looks need no pause, so that what happens now and then is seen at once."""

LEASE_CHECK_SECONDS = 5.0
"""Between two checks of leases and of jobs at risk."""

CLOCK_TOLERANCE_MS = 2_000
"""A wall clock that moves by more than this against the monotonic one was set, and does not merely drift."""

SHARED_CLOCK_TOLERANCE_MS = 30_000
"""The same of a database's clock, which is known as late as its answer to a commit comes."""

SPOOL_CHECK_SECONDS = 30.0
"""Between two looks at the spool, where others share the ledger."""

_WITHOUT_IMAGE = frozenset({State.SUBMITTED, State.RECEIVED, State.EXPIRED})

GRACE = timedelta(seconds=4)
"""How long jobs in progress may go on when the worker is stopped."""


@dataclass(kw_only=True, eq=False)
class Worker:
    """Runs both stages until it is stopped. ``now`` is the ledger's clock, which somebody may set.

    ``leads`` returns whether this process does what one of all that share the ledger does.
    """

    ledger: Ledger
    spool: Spool
    fetch_stage: FetchStage
    archive_stage: ArchiveStage
    now: Clock
    monotonic: Clock
    leads: Callable[[], bool] = lambda: True

    def __post_init__(self) -> None:
        self._pools = [*self.fetch_stage.pools, self.archive_stage.pool]
        fetching, *asking = self.fetch_stage.pools
        fetching.following = self.archive_stage.pool
        # An upload leaves room in the spool, and a question may find a fresh URL.
        for pool in (*asking, self.archive_stage.pool):
            pool.following = fetching
        self._clock_offset = 0
        self._stopping = asyncio.Event()
        self._pool_tasks: list[asyncio.Task[None]] = []
        self._loops: list[asyncio.Task[None]] = []

    @property
    def under_way(self) -> Sequence[tuple[str, Claim, float]]:
        """The jobs in progress: the stage, the claim, and the seconds since its start."""
        return [(pool.name, *job) for pool in self._pools for job in pool.in_progress]

    def in_progress(self) -> dict[str, int]:
        """Return how many jobs each stage is working on, by the stage's name."""
        return {pool.name: len(pool.claims) for pool in self._pools}

    def alive(self) -> bool:
        """Return whether every stage and the clock are running, and can claim work."""
        tasks = [*self._pool_tasks, *self._loops]
        ended = not tasks or any(task.done() for task in tasks)
        return not ended and not any(pool.broken for pool in self._pools)

    async def start(self) -> None:
        """Check the spool, then begin. Raise `SpoolError` or `LedgerError` where either cannot be read."""
        for job_id in self.ledger.interrupted:
            log.warning("cut off in its download", job=job_id)
        await self._check_spool()
        self._clock_offset = self.now() - self.monotonic()
        self._pool_tasks = [asyncio.create_task(pool.run(self._stopping)) for pool in self._pools]
        loops = [
            self._wake_on_commits(),
            run_forever(self._follow_time, log, retry=MAX_SLEEP_SECONDS),
            run_forever(self._check_leases, log, retry=LEASE_CHECK_SECONDS),
            run_forever(self.fetch_stage.probe_decoder, log, retry=LEASE_CHECK_SECONDS),
            self.archive_stage.breaker.run(),
        ]
        if self.ledger.shared:
            # Others may have worked on the jobs of files here, because they took this instance for dead.
            loops.append(run_forever(self._check_spool, log, retry=SPOOL_CHECK_SECONDS))
        self._loops = [asyncio.create_task(loop) for loop in loops]

    async def stop(self) -> None:
        """Begin nothing more, give the jobs in progress their grace, and return the rest to the ledger."""
        self._stopping.set()
        self._wake()
        await cancel(self._loops)
        # The pools end by themselves: cancelled in the middle of a claim, they would keep it.
        await asyncio.gather(*self._pool_tasks, return_exceptions=True)
        left = await asyncio.gather(*(pool.finish(GRACE) for pool in self._pools))
        with suppress(LedgerError):  # the next start voids every claim
            for claim in [claim for claims in left for claim in claims]:
                await self.ledger.release(claim)

    def _wake(self) -> None:
        for pool in self._pools:
            pool.wake.set()

    async def _wake_on_commits(self) -> None:
        clock = asyncio.get_running_loop().time
        due = 0.0
        with self.ledger.changes() as changed:
            while True:
                await changed.wait()
                changed.clear()
                self._wake()
                due = max(due, clock() - LOOKS_AT_ONCE * COMMIT_PAUSE_SECONDS) + COMMIT_PAUSE_SECONDS
                await asyncio.sleep(due - clock())

    async def _follow_time(self) -> float:
        """Wake the stages and expire jobs whose time is over. Return the seconds until the next wait ends."""
        try:
            await self._follow_clock()
            await self.ledger.detect_foreign_commits()
            due = await self.ledger.next_event_at()
            if due is not None and due > self.now():
                return min(MAX_SLEEP_SECONDS, (due - self.now()) / 1000)
            if due is not None and self.leads():
                await self.fetch_stage.expire()
            return MAX_SLEEP_SECONDS
        finally:
            self._wake()

    async def _follow_clock(self) -> None:
        """Move waits along when the clock was set, so that none lasts an hour longer for it.

        All who share the ledger have its clock: one of them moves the waits.
        """
        offset = self.now() - self.monotonic()
        tolerance = SHARED_CLOCK_TOLERANCE_MS if self.ledger.shared else CLOCK_TOLERANCE_MS
        if abs(offset - self._clock_offset) > tolerance:
            log.warning("the clock was set", by_seconds=(offset - self._clock_offset) / 1000)
            if self.leads():
                await self.ledger.shift_waits(offset - self._clock_offset)
        self._clock_offset = offset

    async def _check_leases(self) -> float:
        """Void leases that have ended, and log jobs that are at risk."""
        await self.ledger.release_expired_leases()
        for job_id in await self.ledger.mark_at_risk() if self.leads() else ():
            log.error("at risk: little of the image URL's life is left", job=job_id)
        return LEASE_CHECK_SECONDS

    async def _check_spool(self) -> float:
        """Remove files that no job waits for, and keep those that are whole for their jobs.

        A restored ledger may not know a job yet, or not its completion: the image may be nowhere else by now.
        In this order nothing is taken for an orphan that work in progress has just recorded. Return the
        seconds until the next look.
        """
        names = await self.spool.names()
        busy = tuple(start for _, claim, _ in self.under_way for start in (claim.holder, f"{claim.job.id}."))
        awaited = await self.ledger.spool_names()
        for name in names:
            if name in awaited or name.startswith(busy):
                continue
            parts = job_and_sha256(name)
            job = await self.ledger.job(parts[0]) if parts is not None else None
            if parts is not None and (job is None or job.state in _WITHOUT_IMAGE):
                await self._recover(parts[0], job, name)
            elif job is None or (job.state, job.spool) != (State.FETCHED, name):
                await self._remove_orphan(name)
        return SPOOL_CHECK_SECONDS

    async def _remove_orphan(self, name: str) -> None:
        await self.spool.remove(self.spool.path(name))
        log.info("orphan removed from the spool", file=name)

    async def _recover(self, job_id: str, job: Job | None, name: str) -> None:
        """Let a job be taken next whose verified file is here, unless that was of no use."""
        known = self.fetch_stage.recovered_files.get(job_id) == name
        if job is None or job.state is State.SUBMITTED:
            if not known:
                await self._keep_for_later(job_id, name)
            return
        self.fetch_stage.recovered_files[job_id] = name
        waits = job.state is State.RECEIVED and job.next_attempt_at is not None
        if not known or waits:
            await self.ledger.spool_file_recovered(job_id)

    async def _keep_for_later(self, job_id: str, name: str) -> None:
        """Keep a file whose bytes are those that were verified for a job that is not completed."""
        if await self.spool.check(name) is None:
            await self._remove_orphan(name)
        else:
            self.fetch_stage.recovered_files[job_id] = name
            log.warning("kept in the spool until its job is completed", job=job_id, file=name)
