"""Asks the provider about a claimed job: to confirm what was delivered, and for a fresh URL."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import structlog

from receiver.core.backoff import Jitter
from receiver.core.clock import Clock
from receiver.core.completion import Completion
from receiver.core.concurrency import persist
from receiver.core.errors import ProviderError, UnavailableError
from receiver.core.instrumentation import Instrumentation
from receiver.core.jobs import Job
from receiver.ledger import Claim, Ledger
from receiver.pipeline import outcomes
from receiver.providers.ximilar.client import Ximilar

log = structlog.get_logger("receiver.worker")


class RunningError(UnavailableError):
    """The provider says that the job has not ended."""


@dataclass(kw_only=True, eq=False)
class ProviderQuestions:
    """Asks the provider, and records what it says. Refusals are raised as `ProviderError`.

    ``provider`` is ``None`` where there is no token. With ``confirm``, each delivery must be confirmed.
    ``asking`` is how long one question may take.
    """

    ledger: Ledger
    provider: Ximilar | None
    confirm: bool
    url_lifetime: timedelta
    asking: timedelta
    now: Clock
    jitter: Jitter
    instrumentation: Instrumentation

    def is_hint(self, job: Job) -> bool:
        """Return whether the provider must confirm what was delivered, and has not done so yet."""
        return self.confirm and job.confirmed_at is None

    async def confirmed(self, claim: Claim) -> Claim:
        """Return the job with the provider's own answer in place of the delivery, if settings require it."""
        if not self.is_hint(claim.job) and claim.job.image_url is not None:
            return claim
        if self.provider is None:  # it was asked when the job came, and the settings have changed
            raise ProviderError("provider.unavailable", "XIMILAR_API_TOKEN is not set, so it cannot confirm.")
        completion, deadline = await self._ask(self.provider, claim, "confirm")
        if completion.failure is not None:
            raise ProviderError(completion.failure.reason, completion.failure.detail)
        confirmed = await self.ledger.confirmed(claim, completion, deadline)
        if confirmed is None:
            raise UnavailableError("The claim ended while the provider was asked.")
        log.info("confirmed", job=claim.job.id)
        return confirmed

    async def refresh_url(self, claim: Claim) -> bool:
        """Record the URL that the provider names now, if it is another. Raise the provider's refusal."""
        assert self.provider is not None
        try:
            completion, deadline = await self._ask(self.provider, claim, "ask")
        except ProviderError as refusal:
            log.warning("no fresh URL", job=claim.job.id, reason=refusal.reason, detail=refusal.detail)
            raise
        known = None if self.is_hint(claim.job) else claim.job.image_url
        if completion.image_url is None or completion.image_url == known:
            return False
        at = outcomes.fresh_url_at(claim.job, deadline, self.now(), self.jitter)
        refreshed = await persist(lambda: self.ledger.url_refreshed(claim, completion, deadline, at), log)
        if refreshed:
            log.info("fresh URL", job=claim.job.id)
        return refreshed

    async def _ask(
        self, provider: Ximilar, claim: Claim, why: Literal["confirm", "ask"]
    ) -> tuple[Completion, int]:
        """Return the provider's own completion of the job, and its URL's deadline, ms since the epoch."""
        job = claim.job
        with self.instrumentation.step(why, job.id, job.received_at, attempt=job.attempts):
            seconds = self.asking.total_seconds()
            try:
                # The client bounds each of its attempts, and makes several.
                async with asyncio.timeout(seconds):
                    report = await provider.get(job.id)
            except TimeoutError as error:
                raise UnavailableError(f"The provider's answer was not whole after {seconds:g} s.") from error
        if report.completion is None:
            raise RunningError(f"The provider's answer: status is {report.status}, which is no end.")
        return report.completion, report.deadline(now=self.now(), lifetime=self.url_lifetime).at
