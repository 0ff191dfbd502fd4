"""The second chain: from our own disk to a proved object in the archive."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog

from receiver.archive import Inventory, Item, render_key
from receiver.core import backoff
from receiver.core.errors import ArchiveError, ReceiverError, SpoolError
from receiver.core.failpoints import Cut, no_cut
from receiver.core.instrumentation import UNWATCHED, Watch
from receiver.ledger import Claim, Ledger
from receiver.pipeline.circuit_breaker import Gate
from receiver.pipeline.existing_object import Recogniser
from receiver.pipeline.pool import Stage, insist
from receiver.pipeline.spool import Spool
from receiver.verify.verifier import Verifier

log = structlog.get_logger("receiver.worker")

LEASE = timedelta(hours=1)
"""Far longer than an upload takes; each of its reads and writes has a limit of its own."""


class Archiving:
    """Claims jobs whose image is safe on our disk, the longest waiting first, and archives it.

    Args:
        ledger: where jobs are claimed and outcomes recorded.
        archive: where images go.
        spool: where they come from.
        verifier: judges an image that stands at a job's key already.
        hands: uploads at a time.
        key: the template of the archive's keys.
        now: the time, ms since the epoch.
        dice: gives a number in [0, 1), to spread retries.
        watch: told of uploads.
        cut: for tests.
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
        dice: Callable[[], float],
        watch: Watch = UNWATCHED,
        cut: Cut = no_cut,
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._spool = spool
        self._key = key
        self._now = now
        self._dice = dice
        self._watch = watch
        self._cut = cut
        self._recogniser = Recogniser(archive=archive, spool=spool, verifier=verifier)
        self.stage = Stage("archive", hands, self._claim, self._put, self._broke)
        self.gate = Gate(archive, self.stage.wake.set)

    async def _claim(self, hands: int) -> list[Claim]:
        if not self.gate.is_open:
            return []
        return await self._ledger.claim_to_archive(hands, lease=int(LEASE.total_seconds() * 1000))

    async def _put(self, claim: Claim) -> None:
        """Brings one image from our disk to the archive, proved."""
        try:
            await self._bring(claim)
        except ArchiveError as error:
            self.gate.failed(error)
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
            with self._watch.step("archive", job.id, job.received_at, attempt=job.attempts) as step:
                stored = await self._archive.put(item)
                step.bytes = job.image.bytes
        except ArchiveError as error:
            if error.reason != "archive.occupied":
                raise
            shown = await self._recogniser.recognise(claim, self._archive.at(item.key))
            if await insist(lambda: self._ledger.recognised(claim, shown)):
                log.warning("recognised", job=job.id, uri=shown.stored.uri, sha256=shown.image.sha256)
                await self._spool.remove(self._spool.path(job.spool))
            return
        self.gate.worked()
        self._cut("stored")
        if await insist(lambda: self._ledger.archived(claim, stored)):
            self._cut("archived")
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
        self._watch.failed("archive", error.reason)
        ceiling = backoff.OCCUPIED_CEILING if error.reason == "archive.occupied" else backoff.UPLOAD_CEILING
        at = backoff.upload_again_at(self._now(), job.attempts, self._dice, ceiling)
        if await insist(lambda: self._ledger.retry_later(claim, at, error)):
            log.warning(
                "not archived", job=job.id, reason=error.reason, detail=error.detail, attempt=job.attempts
            )

    async def _lost(self, claim: Claim, error: SpoolError) -> None:
        """The image is safe no more: it has to be fetched again, and the deadline runs again."""
        assert claim.job.spool is not None
        self._watch.failed("archive", error.reason)
        # Before the record: after it the image may be fetched anew, and lies under the same name.
        with suppress(SpoolError):
            await self._spool.remove(self._spool.path(claim.job.spool))
        if await insist(lambda: self._ledger.spool_lost(claim, error)):
            log.error("lost from the spool", job=claim.job.id, reason=error.reason, detail=error.detail)

    async def _broke(self, claim: Claim, bug: Exception) -> None:
        await self._try_later(
            claim, ArchiveError("archive.unexpected", f"{type(bug).__name__}: see the log.")
        )
