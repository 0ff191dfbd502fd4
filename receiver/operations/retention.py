"""Retention: removes old records from the ledger, a little at a time, so that no other write waits long."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta

import structlog

from receiver.core.clock import milliseconds
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

Sleep = Callable[[float], Awaitable[object]]


async def keep_pruning(ledger: Ledger, keep: timedelta, sleep: Sleep = asyncio.sleep) -> None:
    """Remove what is older than ``keep`` now, and once an hour until cancelled, at any point."""

    async def step() -> float:
        removed = await prune(ledger, keep, sleep=sleep)
        if sum(removed.values()):
            log.info("pruned", **removed)
        return EVERY_SECONDS

    await run_forever(step, log, retry=EVERY_SECONDS, sleep=sleep)


async def prune(
    ledger: Ledger,
    keep: timedelta,
    on_progress: Callable[[Mapping[str, int]], None] = lambda _: None,
    sleep: Sleep = asyncio.sleep,
) -> Mapping[str, int]:
    """Remove everything older than ``keep``. Return, and report so far, how many rows by table."""
    removed: Counter[str] = Counter()
    async for kind, before, batch in _batches(ledger, keep, ledger.now()):
        if batch.old:
            removed.update(await ledger.prune(kind, batch.old, before=before))
            on_progress(removed)
            await sleep(PAUSE_SECONDS)
    return removed


async def count_prunable(ledger: LedgerReader, keep: timedelta, now: int) -> Mapping[str, int]:
    """Return the number of rows by table that a round would remove now (ms since the epoch)."""
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
