"""Fetches the sources of jobs from their URLs, and keeps them small.

It follows the history behind the acknowledgements, with connections, workers and limits of its own. What
cannot be had is tried again when the job goes on to its next state, and then no more.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from receiver.archive.base import SmallPictures
from receiver.archive.key import SOURCES
from receiver.core.clock import Clock
from receiver.core.concurrency import map_concurrently, run_forever
from receiver.core.errors import ArchiveError, LedgerError, ReceiverError
from receiver.core.jobs import State
from receiver.core.serializers import is_web
from receiver.events.feed import Feed
from receiver.fetch.download import Fetcher
from receiver.ledger import Ledger
from receiver.pipeline.kept_sources import KeptSources

log = structlog.get_logger("receiver.sources")

WORKERS = 2
"""Sources that are fetched at a time."""

CHECKPOINT = "kept sources"
CHECKPOINT_SECONDS = 5.0
"""Between two records of the place in the history."""

STATES = frozenset({State.SUBMITTED, State.RECEIVED, State.ARCHIVED})
"""Those in which a source is looked for when a job comes to them."""

PRUNE_SECONDS = 24 * 3600.0


@dataclass(kw_only=True, eq=False)
class SourceKeeper:
    """Keeps the sources of the jobs of which the ledger hears from now on.

    The fetcher's limits and guard are those of images.
    """

    ledger: Ledger
    feed: Feed
    fetcher: Fetcher
    kept: KeptSources

    async def run(self) -> None:
        """Follow the history until the receiver stops."""
        await run_forever(self._follow, log)

    async def _follow(self) -> None:
        recorded = await self.ledger.checkpoint(CHECKPOINT)
        place = int(recorded) if recorded is not None else await self.ledger.last_history_seq()
        loop = asyncio.get_running_loop()
        due = loop.time() + CHECKPOINT_SECONDS
        async with aclosing(self.feed.subscribe(place)) as batches:
            async for batch in batches:
                moved = [it.transition for it in batch.changes if it.transition.event.after in STATES]
                await map_concurrently([*dict.fromkeys(it.id for it in moved)], WORKERS, self.keep)
                if loop.time() >= due:
                    await self.ledger.save_checkpoint(CHECKPOINT, str(batch.until))
                    due = loop.time() + CHECKPOINT_SECONDS

    async def keep(self, job_id: str) -> None:
        """Keep the source of a job that has a URL, unless it is kept. Raise only the ledger's failures."""
        job = await self.ledger.job(job_id)
        if job is None or job.source_url is None or not is_web(job.source_url):
            return
        file: Path | None = None
        try:
            if await self.kept.has(job_id):
                return
            file = await self.kept.file()
            await self.fetcher.fetch(job.source_url, file)
            await self.kept.keep(job_id, file)
            log.info("source kept", job=job_id)
        except LedgerError:
            raise
        except ReceiverError as error:
            log.info("source not kept", job=job_id, reason=error.reason, detail=error.detail)
        except Exception:
            log.exception("unexpected error", job=job_id)  # a bug costs only this source
        finally:
            if file is not None:
                await self.kept.remove(file)


async def prune_sources(
    archive: SmallPictures,
    keep: timedelta,
    now: Clock,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Remove the sources that were kept longer ago than ``keep``, once a day until cancelled."""

    async def step() -> float:
        try:
            before = datetime.fromtimestamp(now() / 1000, UTC) - keep
            if number := await archive.remove_pictures(SOURCES, before):
                log.info("sources pruned", number=number)
        except ArchiveError as error:
            log.warning("sources not pruned", reason=error.reason, detail=error.detail)
        return PRUNE_SECONDS

    await run_forever(step, log, retry=PRUNE_SECONDS, sleep=sleep)
