"""Retention: removes old records from the ledger, a little at a time, so that no other write waits long."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import structlog

from receiver.core.clock import Clock, milliseconds
from receiver.core.concurrency import run_forever
from receiver.ledger import Ledger, LedgerReader
from receiver.ledger.queries.week import DAYS
from receiver.ledger.retention import COUNTS, PruneBatch, RecordKind
from receiver.providers.base import TICKET_LIFETIME

log = structlog.get_logger("receiver.pruning")

EVERY_SECONDS = 3600.0
"""Between two rounds of the server."""

WINDOW = 200
"""Rows to look at in one query, and so the most histories of jobs that one commit removes."""

PAUSE_SECONDS = 0.05
"""After each commit that removed something, so that the writer can serve deliveries."""

TICKET_SLACK = timedelta(days=1)
"""How far the clock may have been off when a ticket was used."""

COUNTS_KEPT = timedelta(days=DAYS + 1)
"""How long the counts of the status page are kept, which shows some days; the clock may have been off."""

OnProgress = Callable[[Mapping[str, int]], None]
"""Called with the rows removed so far, by table."""


@dataclass(kw_only=True, eq=False)
class Pruner:
    """Removes records older than ``keep``, once an hour or on demand."""

    ledger: Ledger
    keep: timedelta
    now: Clock
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    async def run(self) -> None:
        """Remove old records now, and once an hour until cancelled, at any point."""

        async def step() -> float:
            removed = await self.round()
            if sum(removed.values()):
                log.info("pruned", **removed)
            return EVERY_SECONDS

        await run_forever(step, log, retry=EVERY_SECONDS, sleep=self.sleep)

    async def round(self, on_progress: OnProgress | None = None) -> Mapping[str, int]:
        """Remove everything old. Return the number of removed rows by table.

        Raises:
            LedgerError: the ledger cannot be read or written.
        """
        removed: Counter[str] = Counter()
        async for kind, before, batch in _batches(self.ledger, self.keep, self.now()):
            if batch.old:
                removed.update(await self.ledger.prune(kind, batch.old, before=before))
                if on_progress is not None:
                    on_progress(removed)
                await self.sleep(PAUSE_SECONDS)
        return removed


async def count_prunable(ledger: LedgerReader, keep: timedelta, now: int) -> Mapping[str, int]:
    """Return the number of rows by table that a round would remove now (ms since the epoch).

    Raises:
        LedgerError: the ledger cannot be read.
    """
    rows: Counter[str] = Counter()
    async for _, _, batch in _batches(ledger, keep, now):
        rows.update(batch.rows)
    return rows


async def _batches(
    ledger: LedgerReader, keep: timedelta, now: int
) -> AsyncIterator[tuple[RecordKind, int, PruneBatch]]:
    """Yield all records batch by batch, each with the time (ms since the epoch) before which one is old."""
    # A ticket that could still be accepted must stay bound to its job.
    ages = {RecordKind.TICKETS: TICKET_LIFETIME + TICKET_SLACK, **dict.fromkeys(COUNTS, COUNTS_KEPT)}
    for kind in RecordKind:
        before = now - milliseconds(ages.get(kind, keep))
        after: int | str | None = None
        while True:
            batch = await ledger.prunable(kind, after=after, before=before, size=WINDOW)
            yield kind, before, batch
            if batch.next is None:
                break
            after = batch.next
