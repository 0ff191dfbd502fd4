"""This process among the receivers that share a ledger: its heartbeat, and the work that one of them does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Self

import structlog

from receiver.core.clock import Clock, monotonic_clock
from receiver.core.concurrency import cancel, run_forever, set_within
from receiver.core.errors import LedgerError
from receiver.ledger import Ledger
from receiver.ledger.commands.instances import BEAT_MS, LEAD_MS

log = structlog.get_logger("receiver.instances")

RETRY_SECONDS = 1.0
"""After a heartbeat that could not be recorded."""

MARGIN_MS = 5_000
"""The leader's work is ended so long before another can lead."""


class Membership:
    """Sends heartbeats while it is open, and knows whether this process leads.

    Where nobody can share the ledger there are no heartbeats, and it leads at any time.
    """

    def __init__(self, ledger: Ledger, *, monotonic: Clock = monotonic_clock) -> None:
        self.shared = ledger.shared
        self._ledger = ledger
        self._monotonic = monotonic  # how long a lease lasts must not depend on anybody's wall clock
        self._until = 0
        self._beaten = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.fence: int | None = None

    async def __aenter__(self) -> Self:
        """Begin with one heartbeat. Raise `LedgerError` if it cannot be recorded."""
        if self.shared:
            await self.beat()
            loop = run_forever(self.beat, log, retry=RETRY_SECONDS)
            self._task = asyncio.create_task(loop, name="heartbeat")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            await cancel([self._task])
            self._until = 0
            with suppress(LedgerError):  # the lease ends by itself
                await self._ledger.resign()

    @property
    def leads(self) -> bool:
        """Whether this process does the work that is to be done once."""
        return not self.shared or self._monotonic() < self._until

    @property
    def led_last(self) -> bool:
        """Whether this process leads, or did when the ledger was last heard of.

        While the ledger is away nobody leads, and somebody has to tell of it.
        """
        return not self.shared or self.fence is not None

    async def beat(self) -> float | None:
        """Send a heartbeat. Return the seconds until the next one is due; ``None``: no other may follow."""
        began = self._monotonic()
        try:
            beat = await self._ledger.beat()
        except LedgerError as error:
            if error.reason != "ledger.in_use":
                raise
            log.error("replaced by another process", detail=error.detail)  # noqa: TRY400 - not a bug
            self._ledger.refuse(error)
            self._until, self.fence = 0, None
            self._notify()
            return None
        self.fence = beat.fence
        self._until = 0 if beat.fence is None else began + LEAD_MS - MARGIN_MS
        if beat.returned:
            log.warning("taken for dead, and back", instance=self._ledger.member.name)
        for dead in beat.dead:
            log.error(
                "an instance is dead",
                instance=dead.name,
                interrupted=dead.interrupted,
                fetched_again=dead.fetched_again,
                waiting=dead.waiting,
            )
        self._notify()
        return 0 if any(dead.more for dead in beat.dead) else BEAT_MS / 1000

    async def until(self, *, leads: bool) -> None:
        """Wait until this process leads, or does not."""
        while self.leads is not leads:
            beaten = self._beaten
            await set_within(beaten, (self._until - self._monotonic()) / 1000 if self.leads else None)

    def _notify(self) -> None:
        # A new event each time: nobody who waits has to clear it.
        self._beaten.set()
        self._beaten = asyncio.Event()


@asynccontextmanager
async def while_leading(
    membership: Membership, duties: Callable[[], AbstractAsyncContextManager[object]]
) -> AsyncIterator[None]:
    """Do the duties while this process leads, until the block ends. They may begin again after their end.

    Where the ledger is not shared they begin before the block, and their errors are raised.
    """
    if not membership.shared:
        async with duties():
            yield
        return

    async def lead() -> float:
        await membership.until(leads=True)
        log.info("leads", fence=membership.fence)
        async with duties():
            await membership.until(leads=False)
        log.warning("leads no more")
        return 0

    task = asyncio.create_task(run_forever(lead, log), name="leader")
    try:
        yield
    finally:
        await cancel([task])
