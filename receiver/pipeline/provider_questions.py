"""Asks the provider about a claimed job: to confirm what was delivered, and for a fresh URL."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import structlog

from receiver.core.backoff import Jitter
from receiver.core.clock import Clock
from receiver.core.completion import Completion
from receiver.core.concurrency import persist
from receiver.core.errors import ProviderError, UnavailableError, UrlError
from receiver.core.instrumentation import Instrumentation
from receiver.core.jobs import Job, State, completed_as
from receiver.core.url_expiry import Deadline
from receiver.fetch.download import HeadersFor
from receiver.ledger import Claim, Delivery, Ledger
from receiver.pipeline import outcomes
from receiver.providers.base import NO_FILES, Asked

log = structlog.get_logger("receiver.worker")

_Ended = tuple[Completion, Deadline]


class RunningError(UnavailableError):
    """The provider says that the job has not ended."""


@dataclass(kw_only=True, eq=False)
class ProviderQuestions:
    """Asks a job's provider, and records what it says. Refusals are raised as `ProviderError`.

    ``asked`` are the providers that can be asked, by name. With ``confirm``, each delivery must be confirmed.
    ``asking`` is how long one question may take.
    """

    ledger: Ledger
    asked: Mapping[str, Asked]
    confirm: bool
    asking: timedelta
    now: Clock
    jitter: Jitter
    instrumentation: Instrumentation

    def can_ask(self, job: Job) -> bool:
        return job.provider in self.asked

    def may_revive(self, job: Job) -> bool:
        """Return whether the provider may give a URL that works once the life of the first one is over."""
        return self.can_ask(job) and (self.is_hint(job) or self.asked[job.provider].provider.fresh_urls)

    def file_headers(self, job: Job) -> HeadersFor:
        """Return what the provider's own file hosts want to be sent."""
        files = self.asked[job.provider].provider.files if self.can_ask(job) else NO_FILES
        return files.headers_for

    def life(self, job: Job) -> timedelta:
        """Return the life of the provider's URLs that state no end."""
        return self.asked[job.provider].provider.url_lifetime

    def is_hint(self, job: Job) -> bool:
        """Return whether the provider must confirm what was delivered, and has not done so yet."""
        return self.confirm and job.confirmed_at is None

    async def confirmed(self, claim: Claim) -> Claim:
        """Return the job with the provider's own answer where settings, or a delivery without, require it."""
        if not self.is_hint(claim.job) and (claim.job.image_url is not None or claim.job.promised_type):
            return claim
        (completion, deadline), others = await self._ask(claim, "confirm")
        if others:  # of which the delivery may have said nothing
            await self.ledger.record_together(
                [
                    Delivery(other, b"", end.at, claim.job.ref, endpoint=claim.job.endpoint, found=True)
                    for other, end in others
                ]
            )
        if (failure := completion.failure) is not None:
            if completed_as(failure) is State.REJECTED:
                raise UrlError(failure.reason, failure.detail, final=True)
            raise ProviderError(failure.reason, failure.detail)
        confirmed = await self.ledger.confirmed(claim, completion, deadline.at)
        if confirmed is None:
            raise UnavailableError("The claim ended while the provider was asked.")
        log.info("confirmed", job=claim.job.id)
        return confirmed

    async def refresh_url(self, claim: Claim) -> bool:
        """Record the URL that the provider names now, if it is another. Raise the provider's refusal."""
        try:
            (completion, end), _ = await self._ask(claim, "ask")
        except ProviderError as refusal:
            log.warning("no fresh URL", job=claim.job.id, reason=refusal.reason, detail=refusal.detail)
            raise
        known = None if self.is_hint(claim.job) else claim.job.image_url
        if completion.image_url is None or completion.image_url == known:
            return False
        at = outcomes.fresh_url_at(claim.job, end.at, self.now(), self.jitter)
        refreshed = await persist(lambda: self.ledger.url_refreshed(claim, completion, end.at, at), log)
        if refreshed:
            log.info("fresh URL", job=claim.job.id)
        return refreshed

    async def _ask(self, claim: Claim, why: Literal["confirm", "ask"]) -> tuple[_Ended, list[_Ended]]:
        """Return what the provider itself says came of the job and of its other outputs."""
        job = claim.job
        if not self.can_ask(job):  # it was asked when the job came, and the settings have changed
            raise UnavailableError(f"There is no token to ask {job.provider} with.")
        asked = self.asked[job.provider]
        with self.instrumentation.step(why, job.id, job.received_at, attempt=job.attempts) as step:
            step.provider = job.provider
            seconds = self.asking.total_seconds()
            try:
                # The client bounds each of its attempts, and makes several.
                async with asyncio.timeout(seconds):
                    report = await asked.client.get(job.provider_id, job.endpoint)
            except TimeoutError as error:
                raise UnavailableError(f"The provider's answer was not whole after {seconds:g} s.") from error
        if report.ending is None:
            raise RunningError(f"The provider's answer: status is {report.status}, which is no end.")
        found = asked.provider.completions(report.ending, self.now())
        own = [it for it in found if it[0].id == job.id or report.ending.failure is not None]
        if not own:
            raise ProviderError("provider.no_output")
        return own[0], [it for it in found if it is not own[0]] if job.output == 1 else []
