"""The work behind the ledger: both chains, and the clock that ends waits and deadlines.

The chains meet at the ledger alone. A commit rings, the clock ticks; whatever happened meanwhile (a restart,
a retry from the command line, a crash) is found there and needs no path of its own.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta

import structlog

from receiver.core.errors import ArchiveError, LedgerError
from receiver.core.jobs import State
from receiver.ledger import Claim, Ledger
from receiver.pipeline.archive_stage import ArchiveStage
from receiver.pipeline.fetch_stage import FetchStage
from receiver.pipeline.spool import Spool, job_and_sha256

log = structlog.get_logger("receiver.worker")

TICK_SECONDS = 1.0
"""The longest that a wait's end or a deadline goes unnoticed."""

ROUND_SECONDS = 5.0
"""Between two looks at leases and at jobs at risk."""

CLOCK_TOLERANCE_MS = 2_000
"""A wall clock that moves by more than this against the monotonic one was set, and does not merely drift."""

GRACE = timedelta(seconds=4)
"""How long work under way may go on when the worker is stopped."""


class Worker:
    """Runs both chains until it is stopped.

    Args:
        ledger: what is worked on.
        spool: looked through at the start.
        fetch_stage: the first chain.
        archive_stage: the second chain.
        now: the wall clock, ms since the epoch.
        monotonic: ms, of a clock that nobody sets.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        spool: Spool,
        fetch_stage: FetchStage,
        archive_stage: ArchiveStage,
        now: Callable[[], int],
        monotonic: Callable[[], int],
    ) -> None:
        self._ledger = ledger
        self._spool = spool
        self._fetch_stage = fetch_stage
        self._archive_stage = archive_stage
        self._now = now
        self._monotonic = monotonic
        self._all_stages = [*fetch_stage.stages, archive_stage.stage]
        self._stopping = asyncio.Event()
        self._stages: list[asyncio.Task[None]] = []
        self._bells: list[asyncio.Task[None]] = []

    @property
    def archive_error(self) -> ArchiveError | None:
        """Why nothing is uploaded now, if so: what the archive said when it was last tried."""
        return self._archive_stage.breaker.error

    @property
    def under_way(self) -> Sequence[tuple[str, Claim, float]]:
        """What is being worked on: the stage, the claim, and for how many seconds already."""
        return [(stage.name, *work) for stage in self._all_stages for work in stage.under_way]

    def in_progress(self) -> dict[str, int]:
        """How many jobs each stage is working on, by the stage's name."""
        return {stage.name: len(stage.claims) for stage in self._all_stages}

    async def spool_has_room(self) -> bool:
        """Whether the spool takes downloads, those under way aside."""
        return self._spool.room(await self._ledger.spool_bytes(), 0) > 0

    def alive(self) -> bool:
        """Whether every stage and the clock are running, and can claim work."""
        tasks = [*self._stages, *self._bells]
        ended = not tasks or any(task.done() for task in tasks)
        return not ended and not any(stage.broken for stage in self._all_stages)

    async def start(self) -> None:
        """Looks through the spool, then begins.

        Raises:
            SpoolError: ``spool.disk``.
            LedgerError: where the ledger cannot be read.
        """
        for job_id in self._ledger.interrupted:
            log.warning("cut off in its download", job=job_id)
        await self._look_through_spool()
        self._stages = [asyncio.create_task(stage.run(self._stopping)) for stage in self._all_stages]
        bells = (self._listen(), self._tick(), self._go_round(), self._archive_stage.breaker.run())
        self._bells = [asyncio.create_task(bell) for bell in bells]

    async def stop(self) -> None:
        """Begins nothing more, gives what is under way its grace, and returns the rest to the ledger."""
        self._stopping.set()
        self._wake()
        for bell in self._bells:
            bell.cancel()
        # The stages end by themselves: cancelled in the middle of a claim, they would keep it.
        await asyncio.gather(*self._stages, *self._bells, return_exceptions=True)
        left = await asyncio.gather(*(stage.finish(GRACE) for stage in self._all_stages))
        with suppress(LedgerError):  # the next start voids every claim
            for claim in [claim for claims in left for claim in claims]:
                await self._ledger.release(claim)

    def _wake(self) -> None:
        for stage in self._all_stages:
            stage.wake.set()

    async def _listen(self) -> None:
        """Wakes the stages when a commit changed something."""
        with self._ledger.changes() as changed:
            while True:
                await changed.wait()
                changed.clear()
                self._wake()

    async def _tick(self) -> None:
        """Wakes the stages when a wait ends, and expires jobs when their time is over."""
        clock = self._now() - self._monotonic()
        while True:
            wait = TICK_SECONDS
            try:
                clock = await self._follow_clock(clock)
                await self._ledger.detect_foreign_commits()
                due = await self._ledger.next_event_at()
                if due is not None and due > self._now():
                    wait = min(wait, (due - self._now()) / 1000)
                elif due is not None and not self._fetch_stage.expires_by_asking:
                    for job_id in await self._ledger.expire():
                        log.error("expired", job=job_id, reason="fetch.expired")
            except LedgerError as error:
                log.error("ledger cannot be used", reason=error.reason, detail=error.detail)  # noqa: TRY400 - no bug of ours
            except Exception:
                log.exception("unexpected error")  # a bug of ours must not stop the clock
            self._wake()
            await asyncio.sleep(wait)

    async def _follow_clock(self, before: int) -> int:
        """Moves waits along when the wall clock was set, so that none lasts an hour longer for it."""
        offset = self._now() - self._monotonic()
        if abs(offset - before) <= CLOCK_TOLERANCE_MS:
            return offset
        log.warning("the clock was set", by_seconds=(offset - before) / 1000)
        await self._ledger.shift_waits(offset - before)
        return offset

    async def _go_round(self) -> None:
        """Voids leases that have ended; tells of jobs that are at risk."""
        while True:
            try:
                await self._ledger.release_overdue_leases()
                for job_id in await self._ledger.mark_at_risk():
                    log.error("at risk: little of the image URL's life is left", job=job_id)
            except LedgerError as error:
                log.error("ledger cannot be used", reason=error.reason, detail=error.detail)  # noqa: TRY400 - no bug of ours
            except Exception:
                log.exception("unexpected error")  # a bug of ours must not stop the clock
            await asyncio.sleep(ROUND_SECONDS)

    async def _look_through_spool(self) -> None:
        """Removes what nobody waits for; remembers what a crash left whole."""
        awaited = await self._ledger.spool_names()
        for name in await self._spool.names():
            if name in awaited:
                continue
            parts = job_and_sha256(name)
            job = await self._ledger.job(parts[0]) if parts is not None else None
            if job is not None and job.state is State.RECEIVED:
                self._fetch_stage.left_behind[job.id] = name
                await self._ledger.spool_file_recovered(job.id)
            else:
                await self._spool.remove(self._spool.path(name))
                log.info("orphan removed from the spool", file=name)
