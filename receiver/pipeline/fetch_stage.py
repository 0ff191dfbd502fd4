"""The first chain: from the provider's URL to a verified image on our own disk."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import structlog

from receiver.core import backoff
from receiver.core.completion import Completion
from receiver.core.concurrency import persist
from receiver.core.errors import (
    FetchError,
    ImageError,
    ProviderError,
    ReceiverError,
    SpoolError,
    UnavailableError,
    UrlError,
)
from receiver.core.failpoints import Failpoint, no_failpoint
from receiver.core.instrumentation import NO_INSTRUMENTATION, Instrumentation, Step, StepName
from receiver.core.jobs import Image
from receiver.fetch.download import Fetcher
from receiver.ledger import Claim, Ledger
from receiver.pipeline.pool import WorkerPool
from receiver.pipeline.spool import Spool, Whole
from receiver.providers.ximilar import Ximilar
from receiver.verify.verifier import ExpectedSize, Verifier

log = structlog.get_logger("receiver.worker")

LEASE_SLACK = timedelta(minutes=5)
"""What a lease lasts beyond the download's own limit, for verifying and recording."""

ASKING_HANDS = 2
"""Questions to the provider at a time."""

FRESH_SHARE = 4
"""One hand in so many is kept for first attempts, so that failing jobs cannot keep fresh ones waiting."""

ASK_ON = timedelta(hours=1)
"""How long a provider that does not answer is asked on for a fresh URL, beyond the old one's end."""

SILENCE = frozenset({"provider.unavailable", "provider.rate_limited", "provider.token_refused"})
"""Reasons that say nothing of the job."""

HOPELESS = frozenset(
    {
        "fetch.too_large",
        "image.wrong_size",
        "image.too_many_pixels",
        "image.animated",
        "image.trailing_data",
        "image.polyglot",
    }
)
"""Reasons that another download of the same URL would only repeat."""


UNDECODABLE_TRIES = 10
"""Attempts after which an image that cannot be decoded is given up. A machine that is short of memory or time
for a while ends decoders too, and must not cost a sound image."""


class _SuspectError(Exception):
    """The bytes that came are not the promised image."""

    def __init__(self, cause: ImageError, whole: Whole) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.whole = whole


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """How images are fetched.

    Attributes:
        hands: downloads at a time.
        longest: that one download may take.
        url_lifetime: how long an image URL lives that does not say so itself.
        confirm: whether the provider itself must confirm each delivery first.
        asking: the longest that one question to the provider may take, its answer included.
    """

    hands: int
    longest: timedelta
    url_lifetime: timedelta
    confirm: bool = False
    asking: timedelta = timedelta(minutes=1)


class FetchStage:
    """Claims jobs whose image is not safe yet, the earliest deadline first, and makes it safe.

    Args:
        ledger: where jobs are claimed and outcomes recorded.
        fetcher: downloads.
        verifier: judges what came.
        spool: keeps it.
        provider: asked for confirmations and fresh URLs; ``None`` where there is no token.
        plan: how many at a time, and how long.
        now: the time, ms since the epoch.
        jitter: gives a number in [0, 1), to spread retries.
        instrumentation: told of questions, downloads and verdicts.
        failpoint: for tests.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        fetcher: Fetcher,
        verifier: Verifier,
        spool: Spool,
        provider: Ximilar | None,
        plan: FetchPlan,
        now: Callable[[], int],
        jitter: Callable[[], float],
        instrumentation: Instrumentation = NO_INSTRUMENTATION,
        failpoint: Failpoint = no_failpoint,
    ) -> None:
        self._ledger = ledger
        self._fetcher = fetcher
        self._verifier = verifier
        self._spool = spool
        self._provider = provider
        self._plan = plan
        self._now = now
        self._jitter = jitter
        self._instrumentation = instrumentation
        self._failpoint = failpoint
        self._spool_was_full = False
        self.left_behind: dict[str, str] = {}
        """Jobs whose whole file a crash left in the spool before the ledger knew of it, and its name."""
        self.stages = [WorkerPool("fetch", plan.hands, self._claim, self._fetch, self._broke)]
        if provider is not None:
            self.stages.append(
                WorkerPool("ask", ASKING_HANDS, self._claim_dead, self._ask_once_more, self._broke)
            )

    @property
    def expires_by_asking(self) -> bool:
        """Whether the provider is asked for a fresh URL before a job expires."""
        return self._provider is not None

    async def _claim(self, hands: int) -> list[Claim]:
        busy = self.stages[0].claims
        room = self._spool.room(await self._ledger.spool_bytes(), len(busy))
        if not room and not self._spool_was_full:
            log.error("spool is full; downloads pause", reason="spool.full")
        self._spool_was_full = not room
        if not room:
            return []
        tried = sum(claim.job.attempts > 1 for claim in busy)
        again = self._plan.hands - self._plan.hands // FRESH_SHARE - tried
        return await self._ledger.claim_to_fetch(min(hands, room), again=again, lease=self._lease())

    async def _fetch(self, claim: Claim) -> None:
        """Brings one image from the provider to our disk, verified."""
        part = self._spool.part(claim.holder)
        try:
            claim = await self._confirmed(claim)
            whole = await self._found_in_spool(claim.job.id) or await self._download(claim, part)
            image = await self._verified(claim, whole)
            name = await self._spool.keep(whole.path, claim.job.id, image)
            self._failpoint("spooled")
            if await persist(lambda: self._ledger.fetched(claim, image, name), log):
                self.left_behind.pop(claim.job.id, None)
                self._failpoint("fetched")
                log.info("fetched", job=claim.job.id, bytes=image.bytes, sha256=image.sha256)
        except _SuspectError as suspect:
            await self._suspected(claim, suspect)
        except (UrlError, FetchError, SpoolError, ProviderError) as error:
            await self._not_fetched(claim, error)
        finally:
            await self._discard(part)

    async def _confirmed(self, claim: Claim) -> Claim:
        """What the provider itself says replaces what was delivered, where the settings want it so.

        Raises:
            ProviderError: it does not say so, or says nothing.
        """
        believed = claim.job.confirmed_at is not None or not self._plan.confirm
        if believed and claim.job.image_url is not None:
            return claim
        if self._provider is None:  # it was asked when the job came, and the settings have changed
            raise ProviderError("provider.unavailable", "XIMILAR_API_TOKEN is not set, so it cannot confirm.")
        said, deadline = await self._ask(claim, "confirm")
        if said.failure is not None:
            raise ProviderError(said.failure.reason, said.failure.detail)
        confirmed = await self._ledger.confirmed(claim, said, deadline)
        if confirmed is None:
            raise UnavailableError("The claim ended while the provider was asked.")
        log.info("confirmed", job=claim.job.id)
        return confirmed

    async def _found_in_spool(self, job_id: str) -> Whole | None:
        name = self.left_behind.get(job_id)
        if name is None:
            return None
        whole = await self._spool.check(name)
        if whole is None:
            await self._spool.remove(self._spool.path(name))
            del self.left_behind[job_id]
        return whole

    async def _download(self, claim: Claim, part: Path) -> Whole:
        assert claim.job.image_url is not None
        # The URL's end is no limit here: it is looked at when a request comes, and a body that flows by then
        # flows on. A job whose time is over before its first attempt is tried all the same.
        seconds = self._plan.longest.total_seconds()
        with self._step("fetch", claim) as step:
            step.url = claim.job.image_url
            got = await self._fetcher.fetch(claim.job.image_url, part, seconds=seconds)
            step.bytes = got.bytes
        return Whole(got.path, got.bytes, got.sha256)

    async def _verified(self, claim: Claim, whole: Whole) -> Image:
        promise = ExpectedSize(claim.job.promised_width, claim.job.promised_height)
        try:
            with self._step("verify", claim) as step:
                step.bytes = whole.bytes
                found = await self._verifier.verify(whole.path, promise)
        except ImageError as error:
            raise _SuspectError(error, whole) from error
        return Image(found.format, found.width, found.height, whole.bytes, whole.sha256)

    # What became of it.

    async def _suspected(self, claim: Claim, suspect: _SuspectError) -> None:
        """Bytes came, but not the promised image. The same bytes twice are no accident of the network."""
        whole, cause = suspect.whole, suspect.cause
        self._instrumentation.on_failed_attempt("fetch", cause.reason)
        try:
            await self._spool.set_aside(whole.path, claim.job.id, whole.sha256)
        except SpoolError as error:
            # Kept for a look alone: what becomes of the job does not depend on it.
            log.warning("not kept aside", job=claim.job.id, reason=error.reason, detail=error.detail)
        tries = UNDECODABLE_TRIES if cause.reason == "image.undecodable" else 2
        again = whole.sha256 == claim.job.suspect and claim.job.attempts >= tries
        if cause.reason in HOPELESS or again:
            await self._reject(claim, cause)
        else:
            await self._try_later(claim, cause, suspect=whole.sha256)

    async def _not_fetched(
        self, claim: Claim, error: UrlError | FetchError | SpoolError | ProviderError
    ) -> None:
        self._instrumentation.on_failed_attempt("fetch", error.reason)
        if isinstance(error, UrlError) or error.reason in HOPELESS or _is_final_word(error):
            await self._reject(claim, error)
            return
        if error.reason == "fetch.gone":
            try:
                if await self._took_fresh_url(claim):
                    return
            except ProviderError as silence:
                log.warning("no fresh URL", job=claim.job.id, reason=silence.reason, detail=silence.detail)
        await self._try_later(claim, error)

    async def _discard(self, part: Path) -> None:
        try:
            await self._spool.remove(part)
        except SpoolError as error:
            # The job's outcome is recorded by now, and stands; the next start removes the file.
            log.warning("left in the spool", file=part.name, reason=error.reason, detail=error.detail)

    async def _reject(self, claim: Claim, error: ReceiverError) -> None:
        if await persist(lambda: self._ledger.rejected(claim, error), log):
            log.warning("rejected", job=claim.job.id, reason=error.reason, detail=error.detail)

    async def _try_later(self, claim: Claim, error: ReceiverError, *, suspect: str | None = None) -> None:
        job = claim.job
        assert job.deadline is not None
        wait = error.retry_after if isinstance(error, FetchError | ProviderError) else None
        at = backoff.fetch_retry_at(self._now(), job.attempts, job.deadline, self._jitter, wait)
        if await persist(lambda: self._ledger.retry_later(claim, at, error, suspect=suspect), log):
            log.warning(
                "not fetched", job=job.id, reason=error.reason, detail=error.detail, attempt=job.attempts
            )

    async def _broke(self, claim: Claim, bug: Exception) -> None:
        error = FetchError("fetch.unexpected", f"{type(bug).__name__}: see the log.")
        self._instrumentation.on_failed_attempt("fetch", error.reason)
        await self._try_later(claim, error)

    # Asking the provider.

    async def _claim_dead(self, hands: int) -> list[Claim]:
        return await self._ledger.claim_past_deadline(hands, lease=self._lease())

    async def _ask_once_more(self, claim: Claim) -> None:
        """The job's time is over: it expires, unless the provider has another URL for it."""
        assert claim.job.deadline is not None
        try:
            if await self._took_fresh_url(claim):
                return
        except ProviderError as error:
            log.warning("no fresh URL", job=claim.job.id, reason=error.reason, detail=error.detail)
            if error.reason in SILENCE and self._now() < claim.job.deadline + _ms(ASK_ON):
                await self._ask_later(claim, error)
                return
        if await persist(lambda: self._ledger.expired(claim), log):
            log.error("expired", job=claim.job.id, reason="fetch.expired")

    async def _ask_later(self, claim: Claim, silence: ProviderError) -> None:
        at = backoff.upload_retry_at(self._now(), claim.job.attempts, self._jitter)
        if await persist(lambda: self._ledger.retry_later(claim, at, silence), log):
            log.warning(
                "not expired yet; the provider is asked again",
                job=claim.job.id,
                reason=silence.reason,
                detail=silence.detail,
            )

    async def _took_fresh_url(self, claim: Claim) -> bool:
        """Asks the provider for the job's present URL, and takes it where it is another.

        Raises:
            ProviderError: it does not say.
        """
        if self._provider is None:
            return False
        said, deadline = await self._ask(claim, "ask")
        if said.image_url is None or said.image_url == claim.job.image_url:
            return False
        # Soon, but the later the more URLs were named: a provider may name another dead one each time.
        now, times = self._now(), claim.job.refreshes + 1
        if deadline > now:
            at = backoff.fetch_retry_at(now, times, deadline, self._jitter)
        else:
            at = backoff.upload_retry_at(now, times, self._jitter)
        taken = await persist(lambda: self._ledger.url_refreshed(claim, said, deadline, at), log)
        if taken:
            log.info("fresh URL", job=claim.job.id)
        return taken

    async def _ask(self, claim: Claim, why: Literal["confirm", "ask"]) -> tuple[Completion, int]:
        """What the provider itself says of the job, and its image URL's deadline, ms since the epoch.

        Raises:
            ProviderError: it does not answer, does not know the job, or the job has not ended.
        """
        assert self._provider is not None
        with self._step(why, claim):
            seconds = self._plan.asking.total_seconds()
            try:
                # The client bounds each of its attempts, and makes several.
                async with asyncio.timeout(seconds):
                    report = await self._provider.get(claim.job.id)
            except TimeoutError as error:
                raise UnavailableError(f"The provider's answer was not whole after {seconds:g} s.") from error
        if report.completion is None:
            raise UnavailableError(f"The provider's answer: status is {report.status}, which is no end.")
        return report.completion, report.deadline(now=self._now(), lifetime=self._plan.url_lifetime)

    def _step(self, name: StepName, claim: Claim) -> Step:
        job = claim.job
        return self._instrumentation.step(name, job.id, job.received_at, attempt=job.attempts)

    def _lease(self) -> int:
        return _ms(self._plan.longest + LEASE_SLACK)


def _is_final_word(error: ReceiverError) -> bool:
    return error.reason in {"provider.unknown_job", "provider.job_failed", "provider.record_failed"}


def _ms(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)
