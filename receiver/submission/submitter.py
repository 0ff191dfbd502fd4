"""Submits one image after the other, each exactly once as far as that can be known.

A submission is billed, and cannot be taken back. So the ledger durably holds an intent before anything is
sent; and where the answer was lost, the provider is asked for the job before it is asked for another.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from receiver.core.backoff import DoublingWait
from receiver.core.concurrency import set_within
from receiver.core.errors import (
    InvalidRequestError,
    LedgerError,
    NoCreditsError,
    ProviderError,
    RateLimitedError,
    ReceiverError,
    TokenRefusedError,
    UnavailableError,
)
from receiver.core.jobs import Job
from receiver.core.rate_limit import RateLimiter
from receiver.ledger import Intent, Ledger
from receiver.providers.ximilar.client import Ximilar
from receiver.providers.ximilar.request import Options, Upscale
from receiver.submission.images import Item
from receiver.submission.settlement import GRACE_MS
from receiver.submission.webhook_template import WebhookTemplate

PATIENCE = timedelta(minutes=5)
"""How long one image waits for a provider that is away or asks to slow down."""

LAG = timedelta(seconds=10)
"""Between two answers that there is no such job, before both are believed: a list may lag, and the provider's
server may still be at work after its client gave up."""

FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
"""Seconds to wait where the provider does not say for how long."""

_TRANSIENT = (RateLimitedError, UnavailableError)


class Fate(StrEnum):
    """The state of an image's submission."""

    SUBMITTED = "submitted"
    """The provider has taken it, and the ledger has its job."""
    KNOWN = "known"
    """An earlier run has submitted it."""
    REFUSED = "refused"
    """The provider has certainly not taken it."""
    OPEN = "open"
    """The provider may have taken it. The ledger remembers it, and `settle` or the next run finds out."""
    UNSENT = "unsent"
    """The run ended before its turn."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an image's submission, with the provider's id of its job.

    ``job`` is the ledger's last state of it; ``None`` where it was not read.
    """

    image: str
    ref: str | None
    fate: Fate
    id: str | None = None
    error: ReceiverError | None = None
    job: Job | None = None

    @property
    def ends_the_run(self) -> bool:
        """Return whether the next image would fail for the same reason."""
        return isinstance(self.error, (*_TRANSIENT, TokenRefusedError, NoCreditsError, LedgerError))


class _StoppedError(Exception):
    """The run was stopped."""


@dataclass(frozen=True, slots=True)
class Submitter:
    """Submits images through the provider, and records them in the ledger.

    Once ``stopping`` is set, no image is begun and no wait goes on, but the answers to what was sent are
    awaited. ``on_wait`` is called with the error that an image waits out, ``on_taken`` with the id of a job
    and its image. ``clock`` gives monotonic seconds.
    """

    ledger: Ledger
    provider: Ximilar
    template: WebhookTemplate
    options: Options
    rate_limiter: RateLimiter = field(default_factory=RateLimiter)
    patience: timedelta = PATIENCE
    lag: timedelta = LAG
    clock: Callable[[], float] = time.monotonic
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    on_wait: Callable[[ProviderError], None] = lambda _: None
    on_taken: Callable[[str, str | Path | bytes], None] = lambda _id, _image: None

    async def submit(self, item: Item) -> Outcome:
        """Submit one image, unless an earlier run has done it.

        Cancelled while its answer is awaited, it leaves an open intent in the ledger.
        """
        submission = _Submission(self, item)
        try:
            return await submission.run()
        except ReceiverError as error:
            fate = Fate.OPEN if submission.lost else Fate.REFUSED
            return Outcome(item.name, item.ref, fate, error=error)
        except _StoppedError:
            return Outcome(item.name, item.ref, Fate.OPEN if submission.lost else Fate.UNSENT)


class _Submission:
    """The submission of one image. ``lost`` is an intent whose request was sent and not answered."""

    def __init__(self, submitter: Submitter, item: Item) -> None:
        self._submitter = submitter
        self._ledger = submitter.ledger
        self._item = item
        self._backoff = DoublingWait(FIRST_WAIT, LONGEST_WAIT)
        self._give_up_at: float | None = None
        self.lost: Intent | None = None

    async def run(self) -> Outcome:
        """Submit the image.

        After a `ReceiverError`, or a `_StoppedError` where the run is to end, it was not submitted, or it is
        unknown whether it was: then ``lost`` is set.
        """
        noted = (await self._ledger.intents_among([self._item.key])).get(self._item.key)
        mark = secrets.token_urlsafe(16)
        while True:
            if noted is not None:
                if noted.job is not None:
                    job = await self._ledger.job(noted.job)
                    return Outcome(self._item.name, self._item.ref, Fate.KNOWN, noted.job, job=job)
                self.lost = noted
                if found := await self._search(noted):
                    return await self._taken(found)
                await self._ledger.withdraw_intent(self._item.key)
                # The same mark again: should the job be made after all, the next search finds it.
                mark, self.lost = noted.mark, None
            image = await self._image()
            await self._pause(self._submitter.rate_limiter.reserve())
            endpoint = f"upscale_{self._submitter.options.factor}x"
            url = image if isinstance(image, str) else None
            intent = Intent(self._item.key, mark, self._item.ref, endpoint, url)
            noted = await self._ledger.record_intent(intent)
            if noted.mark != mark:
                continue  # another process has begun to submit the same image
            self.lost = noted
            try:
                webhook = self._submitter.template.webhook(mark, self._item.ref)
                upscale = Upscale(image, self._submitter.options, webhook)
                job_id = await self._submitter.provider.submit(upscale)
            except ProviderError as error:
                if not error.maybe_sent:
                    await self._ledger.withdraw_intent(self._item.key)
                    self.lost = noted = None
                await self._wait_out(error)
            else:
                return await self._taken(job_id)

    async def _search(self, intent: Intent) -> str | None:
        """Return the id of the job that was submitted with this intent; ``None`` where there is none."""
        absent = self._ledger.now() - intent.at > GRACE_MS
        while True:
            noted = (await self._ledger.intents_among([intent.key])).get(intent.key)
            if noted is not None and noted.job is not None:
                return noted.job  # its completion has come, or the server has found it
            try:
                job_id = await self._submitter.provider.find(
                    intent.mark,
                    since=datetime.fromtimestamp(intent.at / 1000, UTC),
                    others=await self._ledger.job_ids_submitted_since(intent.at - GRACE_MS),
                )
            except ProviderError as error:
                await self._wait_out(error)
                continue
            if job_id is not None:
                return job_id
            if absent:
                return None
            absent = True
            await self._pause(self._submitter.lag.total_seconds())

    async def _taken(self, job_id: str) -> Outcome:
        await self._ledger.confirm_intent(self._item.key, job_id)
        self._submitter.on_taken(job_id, self._item.image)
        return Outcome(self._item.name, self._item.ref, Fate.SUBMITTED, job_id)

    async def _image(self) -> str | bytes:
        if not isinstance(self._item.image, Path):
            return self._item.image
        try:
            return await asyncio.to_thread(self._item.image.read_bytes)
        except OSError as error:
            raise InvalidRequestError(f"{self._item.name}: cannot be read ({error.strerror}).") from None

    async def _wait_out(self, error: ProviderError) -> None:
        """Wait before the next try; raise the error if that does not help, or the image's patience is over.

        Patience begins with the first error. Waits that the provider itself asks for do not count.
        """
        submitter, now = self._submitter, self._submitter.clock()
        if self._give_up_at is None:
            self._give_up_at = now + submitter.patience.total_seconds()
        if not isinstance(error, _TRANSIENT) or now >= self._give_up_at:
            raise error
        if error.retry_after is None:
            wait = min(self._backoff.grow(), self._give_up_at - now)
        else:
            wait = error.retry_after
            self._give_up_at += wait
        submitter.on_wait(error)
        if isinstance(error, RateLimitedError):
            submitter.rate_limiter.hold(wait)
        await self._pause(wait)

    async def _pause(self, seconds: float) -> None:
        stopping = self._submitter.stopping
        if stopping.is_set() or (seconds > 0 and await set_within(stopping, seconds)):
            raise _StoppedError
