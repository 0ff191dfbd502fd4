"""So many pairs of hands, that claim work and do it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import structlog

from receiver.core.errors import LedgerError, SpoolError
from receiver.ledger import Claim

log = structlog.get_logger("receiver.worker")


class WorkerPool:
    """Claims work and does it, so many at a time.

    Args:
        name: for the log.
        hands: how many at a time.
        claim: takes at most so many jobs.
        work: does one, and records its own outcome.
        broke: records that ``work`` ended in an error that it did not foresee.
    """

    def __init__(
        self,
        name: str,
        hands: int,
        claim: Callable[[int], Awaitable[Sequence[Claim]]],
        work: Callable[[Claim], Awaitable[None]],
        broke: Callable[[Claim, Exception], Awaitable[None]],
    ) -> None:
        self.wake = asyncio.Event()
        self._name = name
        self._hands = hands
        self._claim = claim
        self._work = work
        self._broke = broke
        self._running: dict[asyncio.Task[None], Claim] = {}
        self._began: dict[str, float] = {}
        self._broken = False

    @property
    def name(self) -> str:
        """What it does, in a word."""
        return self._name

    @property
    def claims(self) -> Sequence[Claim]:
        """What is being worked on."""
        return list(self._running.values())

    @property
    def under_way(self) -> Sequence[tuple[Claim, float]]:
        """What is being worked on, and for how many seconds already."""
        now = asyncio.get_running_loop().time()
        return [(claim, now - self._began[claim.holder]) for claim in self._running.values()]

    @property
    def broken(self) -> bool:
        """Whether the last claim ended in an error of our own."""
        return self._broken

    async def run(self, stopping: asyncio.Event) -> None:
        """Claims whenever it is woken, until ``stopping`` is set."""
        while not stopping.is_set():
            self.wake.clear()
            await self._take()
            await self.wake.wait()

    async def finish(self, grace: timedelta) -> list[Claim]:
        """Waits for what is under way, then stops it. Returns the claims that were not brought to an end."""
        if self._running:
            await asyncio.wait(self._running, timeout=grace.total_seconds())
        left = dict(self._running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return list(left.values())

    async def _take(self) -> None:
        free = self._hands - len(self._running)
        if free <= 0:
            return
        try:
            claims = await self._claim(free)
        except (LedgerError, SpoolError) as error:
            log.error("nothing can be claimed", stage=self._name, reason=error.reason, detail=error.detail)  # noqa: TRY400 - no bug of ours
            return
        except Exception:
            # A bug of ours must not end the stage, and with it all work: the next wake tries again.
            if not self._broken:
                log.exception("unexpected error", stage=self._name)
            self._broken = True
            return
        self._broken = False
        for claim in claims:
            task = asyncio.create_task(self._work_on(claim), name=f"{self._name}-{claim.job.id}")
            self._running[task] = claim
            self._began[claim.holder] = asyncio.get_running_loop().time()
            task.add_done_callback(self._done)

    async def _work_on(self, claim: Claim) -> None:
        try:
            await self._work(claim)
        except Exception as bug:
            log.exception("unexpected error", stage=self._name, job=claim.job.id)
            await self._broke(claim, bug)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._began[self._running.pop(task).holder]
        self.wake.set()
