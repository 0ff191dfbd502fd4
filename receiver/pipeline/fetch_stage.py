"""The first stage: from the provider's URL to a verified image in the spool."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import structlog

from receiver.core.backoff import Jitter
from receiver.core.clock import Clock, milliseconds
from receiver.core.concurrency import persist
from receiver.core.errors import (
    FetchError,
    ImageError,
    LedgerError,
    ProviderError,
    ReceiverError,
    SpoolError,
    UrlError,
)
from receiver.core.failpoints import Failpoint, no_failpoint
from receiver.core.instrumentation import NO_INSTRUMENTATION, Instrumentation, Step, StepName
from receiver.core.jobs import Image, Job
from receiver.fetch.download import Download, Fetcher
from receiver.ledger import Claim, Ledger, most_further_attempts
from receiver.pipeline import failures, outcomes
from receiver.pipeline.fetch_windows import FetchWindows
from receiver.pipeline.outcomes import Action
from receiver.pipeline.pool import WorkerPool
from receiver.pipeline.provider_questions import ProviderQuestions, RunningError
from receiver.pipeline.spool import Spool
from receiver.providers.base import Asked
from receiver.verify.decoder import ExpectedSize
from receiver.verify.verifier import Verifier

log = structlog.get_logger("receiver.worker")

LEASE_SLACK = timedelta(minutes=5)
"""What a lease lasts beyond the download's own limit, for verifying and recording."""

DECODER_PROBE_SECONDS = 5.0
"""Between two tries to start a decoder."""

CONCURRENT_QUESTIONS = 2
"""Jobs whose time is over that the provider is asked about at a time."""


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """How images are fetched, and how long one download, or one question to the provider, may take.

    ``reject_after`` is how long the same wrong answer has to come. With ``confirm``, the provider itself
    confirms each delivery first.
    """

    concurrency: int
    longest: timedelta
    confirm: bool = False
    reject_after: timedelta = timedelta(minutes=5)
    asking: timedelta = timedelta(minutes=1)


@dataclass(kw_only=True, eq=False)
class FetchStage:
    """Claims jobs whose image is not safe yet, the earliest deadline first, and brings it to the spool.

    ``asked`` are the providers that are asked for confirmations and fresh URLs, by name.
    """

    ledger: Ledger
    fetcher: Fetcher
    verifier: Verifier
    spool: Spool
    asked: Mapping[str, Asked]
    plan: FetchPlan
    now: Clock
    jitter: Jitter
    instrumentation: Instrumentation = NO_INSTRUMENTATION
    failpoint: Failpoint = no_failpoint

    def __post_init__(self) -> None:
        self._questions = ProviderQuestions(
            ledger=self.ledger,
            asked=self.asked,
            confirm=self.plan.confirm,
            asking=self.plan.asking,
            now=self.now,
            jitter=self.jitter,
            instrumentation=self.instrumentation,
        )
        self._windows = FetchWindows(self.plan.concurrency, self.fetcher.limits.min_rate)
        self._spool_was_full = False
        self._decoder_was_missing = False
        self._lease = milliseconds(self.plan.longest + LEASE_SLACK)
        self.recovered_files: dict[str, str] = {}
        """By job, the name of a whole file that a crash left in the spool before the ledger knew of it."""
        self._pool = WorkerPool("fetch", self.plan.concurrency, self._claim, self._fetch, self._on_bug)
        self.pools = [self._pool]
        if self.asked:
            claim = partial(self.ledger.claim_past_deadline, lease=self._lease)
            self.pools.append(WorkerPool("ask", CONCURRENT_QUESTIONS, claim, self._ask_last, self._on_bug))

    async def expire(self) -> None:
        """Expire the jobs whose time is over, unless there are providers, which are asked first."""
        if not self.asked:
            for job_id in await self.ledger.expire():
                log.error("expired", job=job_id, reason="fetch.expired")

    async def _claim(self, limit: int) -> list[Claim]:
        busy = self._pool.claims
        room = self.spool.room(await self.ledger.spool_bytes(), len(busy))
        if not room and not self._spool_was_full:
            log.error("spool is full; downloads pause", reason="spool.full")
        self._spool_was_full = not room
        if not room or not self._has_decoder():
            return []
        tried = sum(claim.job.attempts > 1 for claim in busy)
        again = most_further_attempts(self.plan.concurrency) - tried
        hosts = self._windows.limits(busy)
        return await self.ledger.claim_to_fetch(min(limit, room), again=again, lease=self._lease, hosts=hosts)

    def _has_decoder(self) -> bool:
        """Return whether images can be verified: else the same ones would be downloaded again and again."""
        error = self.verifier.error
        if error is not None and not self._decoder_was_missing:
            log.error("no decoder starts; downloads pause", reason=error.reason, detail=error.detail)
        self._decoder_was_missing = error is not None
        return error is None

    async def probe_decoder(self) -> float:
        """Try to start a decoder where none runs, as at the start. Return the seconds until the next try."""
        if self.verifier.error is not None or not self.verifier.pids:
            with suppress(SpoolError):
                await self.verifier.probe()
        return DECODER_PROBE_SECONDS

    async def _fetch(self, claim: Claim) -> None:
        part = self.spool.part(claim.holder)
        whole: Download | None = None
        name: str | None = None
        try:
            claim = await self._questions.confirmed(claim)
            _check_promised_type(claim.job)
            whole = await self._recovered_file(claim.job.id) or await self._download(claim, part)
            image, note = await self._verified(claim, whole)
            name = await self.spool.keep(whole.path, claim.job.id, image)
            self.failpoint("spooled")
            if await persist(lambda: self.ledger.fetched(claim, image, name, note), log):
                self.recovered_files.pop(claim.job.id, None)
                self.failpoint("fetched")
                log.info("fetched", job=claim.job.id, bytes=image.bytes, sha256=image.sha256)
            else:  # the claim ended before it could be recorded; the file is whole all the same
                self.recovered_files[claim.job.id] = name
                await persist(lambda: self.ledger.spool_file_recovered(claim.job.id), log)
        except ImageError as error:
            if whole is not None:
                await self._set_aside(claim, whole)
                await self._discard(whole.path)  # where it was not moved: else it would be judged again
            await self._failed(claim, error, sha256=whole.sha256 if whole else None)
        except (UrlError, FetchError, SpoolError, ProviderError) as error:
            await self._failed(claim, error)
        finally:
            if name is None:
                await self._discard(part)

    async def _set_aside(self, claim: Claim, whole: Download) -> None:
        try:
            await self.spool.set_aside(whole.path, claim.job.id, whole.sha256, self.ledger.spool_names)
        except (SpoolError, LedgerError) as trouble:
            # What becomes of the job does not depend on the file.
            log.warning("not kept aside", job=claim.job.id, reason=trouble.reason, detail=trouble.detail)

    async def _recovered_file(self, job_id: str) -> Download | None:
        name = self.recovered_files.get(job_id)
        if name is None:
            return None
        whole = await self.spool.check(name)
        if whole is None:
            await self.spool.remove(self.spool.path(name))
            del self.recovered_files[job_id]
        return whole

    async def _download(self, claim: Claim, part: Path) -> Download:
        assert claim.job.image_url is not None
        # The URL's end is no limit here: the host checks it when the request comes, and a body that flows by
        # then flows on. A job whose time is over before its first attempt is tried all the same.
        seconds = self.plan.longest.total_seconds()
        with self._step("fetch", claim) as step, self._windows.download(claim.host) as progress:
            step.url = claim.job.image_url
            got = await self.fetcher.fetch(
                claim.job.image_url,
                part,
                seconds=seconds,
                progress=progress,
                headers_for=self._questions.file_headers(claim.job),
            )
            step.bytes = got.bytes
        return got

    async def _verified(self, claim: Claim, whole: Download) -> tuple[Image, str | None]:
        """Return the image, and what its history should say of it beside."""
        promised = ExpectedSize(claim.job.promised_width, claim.job.promised_height)
        with self._step("verify", claim) as step:
            step.bytes = whole.bytes
            found = await self.verifier.verify(whole.path, promised)
            _check_promise(claim.job, found.format, whole.bytes)
        note = None
        if found.trailing:
            log.info("bytes behind the image", job=claim.job.id, bytes=found.trailing)
            note = f"Harmless bytes stand behind the image's end mark: {found.trailing}."
        return Image(found.format, found.width, found.height, whole.bytes, whole.sha256), note

    async def _discard(self, part: Path) -> None:
        try:
            await self.spool.remove(part)
        except SpoolError as error:
            # The job's outcome is recorded by now, and stands; the next start removes the file.
            log.warning("left in the spool", file=part.name, reason=error.reason, detail=error.detail)

    async def _failed(self, claim: Claim, error: ReceiverError, *, sha256: str | None = None) -> None:
        self.instrumentation.on_failed_attempt("fetch", error.reason)
        decision = self._decide(claim, error, sha256, can_ask=self._questions.can_ask(claim.job))
        if decision.action is Action.ASK:
            with suppress(ProviderError):
                if await self._questions.refresh_url(claim):
                    return
            decision = self._decide(claim, error, sha256, can_ask=False)
        await failures.record(self.ledger, self.spool, claim, decision, error)

    def _decide(
        self, claim: Claim, error: ReceiverError, sha256: str | None, *, can_ask: bool
    ) -> outcomes.Decision:
        if isinstance(error, RunningError) and self._questions.is_hint(claim.job):
            life = milliseconds(self._questions.life(claim.job))
            return outcomes.while_running(claim.job, self.now(), self.jitter, life=life)
        span = milliseconds(self.plan.reject_after)
        return outcomes.after_fetch(
            error, claim.job, self.now(), self.jitter, sha256=sha256, can_ask=can_ask, reject_after=span
        )

    async def _on_bug(self, claim: Claim, bug: Exception) -> None:
        await self._failed(claim, FetchError("fetch.unexpected", f"{type(bug).__name__}: see the log."))

    # Asking the provider.

    async def _ask_last(self, claim: Claim) -> None:
        """Ask for a fresh URL of a job whose time is over, and let the job expire where there is none."""
        refusal: ProviderError | None = None
        try:
            if self._questions.may_revive(claim.job) and await self._questions.refresh_url(claim):
                return
        except ProviderError as error:
            refusal = error
        if isinstance(refusal, RunningError) and self._questions.is_hint(claim.job):
            decision = self._decide(claim, refusal, None, can_ask=False)
        else:
            decision = outcomes.after_last_question(refusal, claim.job, self.now(), self.jitter)
        why = refusal or FetchError("fetch.expired")
        await failures.record(self.ledger, self.spool, claim, decision, why)

    def _step(self, name: StepName, claim: Claim) -> Step:
        job = claim.job
        return self.instrumentation.step(name, job.id, job.received_at, attempt=job.attempts)


def _check_promised_type(job: Job) -> None:
    """Refuse an output that the provider itself says is no image, before anything is downloaded."""
    kind = job.promised_type
    if kind is not None and not kind.startswith("image/"):
        raise ImageError("image.unknown_format", f"The provider says that it is {kind}.", final=True)


def _check_promise(job: Job, found: str, size: int) -> None:
    if job.promised_bytes not in {None, size}:
        raise ImageError("image.wrong_size", f"{size} bytes instead of the promised {job.promised_bytes}.")
    promised = job.promised_type
    if promised is not None and promised not in _TYPES[found]:
        raise ImageError("image.wrong_type", f"It is {found}, and {promised} was promised.")


_TYPES: Mapping[str, frozenset[str]] = {
    "jpeg": frozenset({"image/*", "image/jpeg", "image/jpg", "image/pjpeg"}),
    "png": frozenset({"image/*", "image/png", "image/x-png"}),
    "webp": frozenset({"image/*", "image/webp"}),
}
"""The media types that a promise may name for each format."""
