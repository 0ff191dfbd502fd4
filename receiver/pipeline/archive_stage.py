"""The second chain: from our own disk to a proved object in the archive."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog

from receiver.archive import Inventory, Item, render_key
from receiver.core import backoff
from receiver.core.concurrency import persist
from receiver.core.errors import ArchiveError, ReceiverError, SpoolError
from receiver.core.failpoints import Failpoint, no_failpoint
from receiver.core.instrumentation import NO_INSTRUMENTATION, Instrumentation
from receiver.ledger import Claim, Ledger
from receiver.pipeline.circuit_breaker import CircuitBreaker
from receiver.pipeline.existing_object import ExistingObjectVerifier
from receiver.pipeline.pool import WorkerPool
from receiver.pipeline.spool import Spool
from receiver.verify.verifier import Verifier

log = structlog.get_logger("receiver.worker")

LEASE = timedelta(hours=1)
"""Far longer than an upload takes; each of its reads and writes has a limit of its own."""


class ArchiveStage:
    """Claims jobs whose image is safe on our disk, the longest waiting first, and archives it.

    Args:
        ledger: where jobs are claimed and outcomes recorded.
        archive: where images go.
        spool: where they come from.
        verifier: judges an image that stands at a job's key already.
        hands: uploads at a time.
        key: the template of the archive's keys.
        now: the time, ms since the epoch.
        jitter: gives a number in [0, 1), to spread retries.
        instrumentation: told of uploads.
        failpoint: for tests.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        archive: Inventory,
        spool: Spool,
        verifier: Verifier,
        hands: int,
        key: str,
        now: Callable[[], int],
        jitter: Callable[[], float],
        instrumentation: Instrumentation = NO_INSTRUMENTATION,
        failpoint: Failpoint = no_failpoint,
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._spool = spool
        self._key = key
        self._now = now
        self._jitter = jitter
        self._instrumentation = instrumentation
        self._failpoint = failpoint
        self._existing_object = ExistingObjectVerifier(archive=archive, spool=spool, verifier=verifier)
        self.stage = WorkerPool("archive", hands, self._claim, self._put, self._broke)
        self.breaker = CircuitBreaker(archive, self.stage.wake.set)

    async def _claim(self, hands: int) -> list[Claim]:
        if not self.breaker.allows_uploads:
            return []
        return await self._ledger.claim_to_archive(hands, lease=int(LEASE.total_seconds() * 1000))

    async def _put(self, claim: Claim) -> None:
        """Brings one image from our disk to the archive, proved."""
        try:
            await self._bring(claim)
        except ArchiveError as error:
            self.breaker.record_failure(error)
            await self._try_later(claim, error)
        except SpoolError as error:
            if error.reason == "spool.lost":
                await self._lost(claim, error)
            else:
                await self._try_later(claim, error)

    async def _bring(self, claim: Claim) -> None:
        job = claim.job
        assert job.spool is not None
        assert job.image is not None
        item = self._item(claim)
        try:
            with self._instrumentation.step("archive", job.id, job.received_at, attempt=job.attempts) as step:
                stored = await self._archive.put(item)
                step.bytes = job.image.bytes
        except ArchiveError as error:
            if error.reason != "archive.occupied":
                raise
            shown = await self._existing_object.verify(claim, self._archive.object_at(item.key))
            if await persist(lambda: self._ledger.recognised(claim, shown), log):
                log.warning("recognised", job=job.id, uri=shown.stored.uri, sha256=shown.image.sha256)
                await self._spool.remove(self._spool.path(job.spool))
            return
        self.breaker.record_success()
        self._failpoint("stored")
        if await persist(lambda: self._ledger.archived(claim, stored), log):
            self._failpoint("archived")
            log.info("archived", job=job.id, uri=stored.uri)
            await self._spool.remove(self._spool.path(job.spool))

    def _item(self, claim: Claim) -> Item:
        job = claim.job
        assert job.image is not None
        assert job.spool is not None
        assert job.received_at is not None
        received = datetime.fromtimestamp(job.received_at / 1000, UTC)
        key = render_key(
            self._key,
            job_id=job.id,
            ref=job.ref,
            sha256=job.image.sha256,
            extension=job.image.extension,
            endpoint=job.endpoint or "",
            received_at=received,
        )
        return Item(job.id, self._spool.path(job.spool), job.image, key, job.ref, received)

    async def _try_later(self, claim: Claim, error: ReceiverError) -> None:
        job = claim.job
        self._instrumentation.on_failed_attempt("archive", error.reason)
        ceiling = backoff.OCCUPIED_MAX if error.reason == "archive.occupied" else backoff.UPLOAD_MAX
        at = backoff.upload_retry_at(self._now(), job.attempts, self._jitter, ceiling)
        if await persist(lambda: self._ledger.retry_later(claim, at, error), log):
            log.warning(
                "not archived", job=job.id, reason=error.reason, detail=error.detail, attempt=job.attempts
            )

    async def _lost(self, claim: Claim, error: SpoolError) -> None:
        """The image is safe no more: it has to be fetched again, and the deadline runs again."""
        assert claim.job.spool is not None
        self._instrumentation.on_failed_attempt("archive", error.reason)
        # Before the record: after it the image may be fetched anew, and lies under the same name.
        with suppress(SpoolError):
            await self._spool.remove(self._spool.path(claim.job.spool))
        if await persist(lambda: self._ledger.spool_lost(claim, error), log):
            log.error("lost from the spool", job=claim.job.id, reason=error.reason, detail=error.detail)

    async def _broke(self, claim: Claim, bug: Exception) -> None:
        await self._try_later(
            claim, ArchiveError("archive.unexpected", f"{type(bug).__name__}: see the log.")
        )
