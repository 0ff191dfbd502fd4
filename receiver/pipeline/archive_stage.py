"""The second stage: from the spool to a proved object in the archive."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from receiver.archive.base import Inventory, SpooledImage
from receiver.archive.key import render_key
from receiver.core.backoff import Jitter
from receiver.core.clock import Clock, milliseconds
from receiver.core.concurrency import persist
from receiver.core.errors import ArchiveError, ReceiverError, SpoolError
from receiver.core.failpoints import Failpoint, no_failpoint
from receiver.core.instrumentation import NO_INSTRUMENTATION, Instrumentation
from receiver.ledger import Claim, Ledger
from receiver.pipeline import failures, outcomes
from receiver.pipeline.circuit_breaker import CircuitBreaker
from receiver.pipeline.existing_object import ExistingObjectVerifier
from receiver.pipeline.outcomes import Action
from receiver.pipeline.pool import WorkerPool
from receiver.pipeline.spool import Spool
from receiver.verify.verifier import Verifier

log = structlog.get_logger("receiver.worker")

LEASE_MS = milliseconds(timedelta(hours=1))
"""Far longer than an upload takes; each of its reads and writes has a limit of its own."""


@dataclass(kw_only=True, eq=False)
class ArchiveStage:
    """Claims jobs whose image is in the spool, and archives it; ``key`` is the template of its key."""

    ledger: Ledger
    archive: Inventory
    spool: Spool
    verifier: Verifier
    concurrency: int
    key: str
    now: Clock
    jitter: Jitter
    instrumentation: Instrumentation = NO_INSTRUMENTATION
    failpoint: Failpoint = no_failpoint

    def __post_init__(self) -> None:
        self._existing_object = ExistingObjectVerifier(self.archive, self.spool, self.verifier)
        self.pool = WorkerPool("archive", self.concurrency, self._claim, self._archive_image, self._on_bug)
        self.breaker = CircuitBreaker(self.archive, on_recovery=self.pool.wake.set)

    async def _claim(self, limit: int) -> list[Claim]:
        if not self.breaker.allows_uploads:
            return []
        return await self.ledger.claim_to_archive(limit, lease=LEASE_MS)

    async def _archive_image(self, claim: Claim) -> None:
        try:
            await self._upload(claim)
        except (ArchiveError, SpoolError) as error:
            await self._failed(claim, error)

    async def _upload(self, claim: Claim) -> None:
        job = claim.job
        assert job.image is not None
        item = self._item(claim)
        try:
            with self.instrumentation.step("archive", job.id, job.received_at, attempt=job.attempts) as step:
                stored = await self.archive.put(item)
                step.bytes = job.image.bytes
        except ArchiveError as error:
            if self._decide(claim, error).action is not Action.EXAMINE:
                raise
            found = await self._existing_object.verify(claim, self.archive.object_at(item.key))
            if await persist(lambda: self.ledger.recognised(claim, found), log):
                log.warning("recognised", job=job.id, uri=found.stored.uri, sha256=found.image.sha256)
                await self.spool.remove(item.path)
            return
        self.breaker.record_success()
        self.failpoint("stored")
        if await persist(lambda: self.ledger.archived(claim, stored), log):
            self.failpoint("archived")
            log.info("archived", job=job.id, uri=stored.uri)
            await self.spool.remove(item.path)

    def _item(self, claim: Claim) -> SpooledImage:
        job = claim.job
        assert job.image is not None
        assert job.spool is not None
        assert job.received_at is not None
        received = datetime.fromtimestamp(job.received_at / 1000, UTC)
        key = render_key(self.key, job, job.image, received)
        return SpooledImage(job.id, self.spool.path(job.spool), job.image, key, job.ref, received)

    async def _failed(self, claim: Claim, error: ReceiverError) -> None:
        self.instrumentation.on_failed_attempt("archive", error.reason)
        decision = self._decide(claim, error, examined=True)
        if decision.pause and isinstance(error, ArchiveError):
            self.breaker.record_failure(error, claim.job.id)
        await failures.record(self.ledger, self.spool, claim, decision, error)

    def _decide(self, claim: Claim, error: ReceiverError, *, examined: bool = False) -> outcomes.Decision:
        return outcomes.after_upload(error, claim.job, self.now(), self.jitter, examined=examined)

    async def _on_bug(self, claim: Claim, bug: Exception) -> None:
        await self._failed(claim, ArchiveError("archive.unexpected", f"{type(bug).__name__}: see the log."))
