"""Removes what is older than it is to be kept, a little at a time, so that nobody waits for it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

import structlog

from receiver.core.concurrency import cancel, run_forever
from receiver.intake.authentication import TICKET_LIFETIME
from receiver.ledger import Ledger, LedgerReader, RecordKind

log = structlog.get_logger("receiver.pruning")

EVERY_SECONDS = 3600.0
"""Between two rounds of the server."""

WINDOW = 200
"""Rows to look through at a time, and so the most that one commit has to remove of jobs' histories."""

PAUSE_SECONDS = 0.05
"""After each commit that removed something, and the writer's to spend on deliveries."""

TICKET_SLACK = timedelta(days=1)
"""What clocks may have been off by when a ticket was used."""

Told = Callable[[Mapping[str, int]], None]
"""Called with the rows that went, or would go, so far, by table."""


class Pruner:
    """Goes through the ledger for what is old.

    Args:
        ledger: what is pruned.
        keep: how long history is kept.
        now: the time, ms since the epoch.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        keep: timedelta,
        now: Callable[[], int],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._keep = keep
        self._now = now
        self._sleep = sleep
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins, with a round at once."""
        self._running = asyncio.create_task(self._run(), name="pruning")

    async def stop(self) -> None:
        """Ends it; a round can be cut off anywhere."""
        if self._running is not None:
            await cancel([self._running])

    async def round(self, told: Told | None = None) -> Mapping[str, int]:
        """Removes all that is old. Gives how many rows went, by table.

        Raises:
            LedgerError: the ledger cannot be read or written.
        """
        gone: Counter[str] = Counter()
        for kind, before in _ages(self._keep, self._now()).items():
            after: int | str | None = None
            while True:
                window = await self._ledger.prunable(kind, after=after, before=before, size=WINDOW)
                if window.old:
                    gone.update(await self._ledger.prune(kind, window.old, before=before))
                    if told is not None:
                        told(gone)
                    await self._sleep(PAUSE_SECONDS)
                if window.next is None:
                    break
                after = window.next
        return gone

    async def _run(self) -> None:
        async def step() -> float:
            gone = await self.round()
            if sum(gone.values()):
                log.info("pruned", **gone)
            return EVERY_SECONDS

        await run_forever(step, log, retry=EVERY_SECONDS, sleep=self._sleep)


async def would_go(ledger: LedgerReader, keep: timedelta, now: int) -> Mapping[str, int]:
    """How many rows a round would remove at this time (ms since the epoch), by table.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    old: Counter[str] = Counter()
    for kind, before in _ages(keep, now).items():
        after: int | str | None = None
        while True:
            window = await ledger.prunable(kind, after=after, before=before, size=WINDOW)
            old.update(window.rows)
            if window.next is None:
                break
            after = window.next
    return old


def _ages(keep: timedelta, now: int) -> Mapping[RecordKind, int]:
    """For each kind the time (ms since the epoch) before which it is old."""
    before = now - _ms(keep)
    # A ticket that could still be accepted has to stay bound to its job, and no other has to.
    dead = now - _ms(TICKET_LIFETIME + TICKET_SLACK)
    return {kind: dead if kind is RecordKind.TICKETS else before for kind in RecordKind}


def _ms(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)
