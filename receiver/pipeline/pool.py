"""A pool of workers that claim jobs and process them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from receiver.core.concurrency import cancel
from receiver.core.errors import LedgerError, SpoolError
from receiver.ledger import Claim

log = structlog.get_logger("receiver.worker")


@dataclass(eq=False)
class WorkerPool:
    """Claims jobs whenever woken, and processes ``size`` at a time; ``on_bug`` records unexpected errors.

    The end of each job wakes the pool, and the one that is ``following``, which may go on then.
    """

    name: str
    size: int
    claim: Callable[[int], Awaitable[Sequence[Claim]]]
    work: Callable[[Claim], Awaitable[None]]
    on_bug: Callable[[Claim, Exception], Awaitable[None]]
    wake: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    following: "WorkerPool | None" = field(default=None, init=False)
    broken: bool = field(default=False, init=False)
    """Whether the last claim ended in an unexpected error."""
    _running: dict[asyncio.Task[None], tuple[Claim, float]] = field(default_factory=dict, init=False)

    @property
    def claims(self) -> Sequence[Claim]:
        return [claim for claim, _ in self._running.values()]

    @property
    def in_progress(self) -> Sequence[tuple[Claim, float]]:
        """The jobs in progress, each with the seconds since its start."""
        now = asyncio.get_running_loop().time()
        return [(claim, now - started) for claim, started in self._running.values()]

    async def run(self, stopping: asyncio.Event) -> None:
        """Claim whenever woken, until ``stopping`` is set."""
        while not stopping.is_set():
            self.wake.clear()
            await self._claim_free()
            await self.wake.wait()

    async def finish(self, grace: timedelta) -> list[Claim]:
        """Wait for the jobs in progress, then cancel them. Return the claims that did not end."""
        if self._running:
            await asyncio.wait(self._running, timeout=grace.total_seconds())
        left = dict(self._running)
        await cancel(left)
        return [claim for claim, _ in left.values()]

    async def _claim_free(self) -> None:
        free = self.size - len(self._running)
        if free <= 0:
            return
        try:
            claims = await self.claim(free)
        except (LedgerError, SpoolError) as error:
            log.error("nothing can be claimed", stage=self.name, reason=error.reason, detail=error.detail)  # noqa: TRY400 - not a bug
            return
        except Exception:
            # A bug must not end the pool, and with it all work: the next wake tries again. It is logged once.
            if not self.broken:
                log.exception("unexpected error", stage=self.name)
            self.broken = True
            return
        self.broken = False
        for claim in claims:
            task = asyncio.create_task(self._process(claim), name=f"{self.name}-{claim.job.id}")
            self._running[task] = (claim, asyncio.get_running_loop().time())
            task.add_done_callback(self._done)

    async def _process(self, claim: Claim) -> None:
        try:
            await self.work(claim)
        except Exception as bug:
            log.exception("unexpected error", stage=self.name, job=claim.job.id)
            await self.on_bug(claim, bug)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self.wake.set()
        if self.following is not None:
            self.following.wake.set()
