"""Submits one image after the other, each exactly once as far as that can be known.

A submission is billed, and cannot be taken back. So before anything is sent, the ledger durably holds what is
about to be; and where the answer was lost, the provider is asked for the job before it is asked for another.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

import structlog

from receiver.core.clock import wall_clock
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
from receiver.intake.authentication import SUBMISSION_HEADER
from receiver.ledger import Intent, Ledger
from receiver.providers.ximilar import Ximilar
from receiver.submission.images import Item, Options
from receiver.submission.webhook_template import WebhookTemplate

log = structlog.get_logger("receiver.submitting")

PATIENCE = timedelta(minutes=5)
"""How long one image waits for a provider that is away or asks to slow down."""

LAG = timedelta(seconds=10)
"""Between two answers that there is no such job, before both are believed: a list may lag, and a server that
we gave up on may still be at work."""

LONG_AGO = timedelta(minutes=20)
"""After which one such answer is believed: longer than the provider's client ever waits for an answer."""

FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
"""Seconds to wait where the provider does not say for how long; doubled each time."""

MOST_OPEN = 1000
"""Open submissions that are looked at in one go."""

_GRACE = int(LONG_AGO.total_seconds() * 1000)

_PASSING = (RateLimitedError, UnavailableError)


class Fate(StrEnum):
    """What became of an image."""

    SUBMITTED = "submitted"
    """The provider has taken it, and the ledger has its job."""
    KNOWN = "known"
    """So it had in an earlier run."""
    REFUSED = "refused"
    """It was certainly not taken."""
    OPEN = "open"
    """It may have been taken. The ledger remembers it, and `settle` or the next run finds out."""
    UNSENT = "unsent"
    """The run ended before its turn."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an image.

    Attributes:
        image: as it was named.
        ref: the submitter's own reference.
        fate: see `Fate`.
        id: the provider's id of the job.
        error: why there is none.
        job: as the ledger had it last; ``None`` where it was not looked at.
    """

    image: str
    ref: str | None
    fate: Fate
    id: str | None = None
    error: ReceiverError | None = None
    job: Job | None = None

    @property
    def ends_the_run(self) -> bool:
        """Whether the next image would meet the same."""
        return isinstance(self.error, (*_PASSING, TokenRefusedError, NoCreditsError, LedgerError))


class _StoppedError(Exception):
    """The run is to end."""


class _Patience:
    """How long one image may go on waiting; it begins with the first trouble.

    Args:
        seconds: in which it ends. Waits that the provider itself asks for do not count.
        clock: seconds that nobody sets.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._until: float | None = None
        self._wait = FIRST_WAIT

    def wait_after(self, error: ProviderError) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            ProviderError: the error, where waiting does not help or there is no patience left.
        """
        now = self._clock()
        if self._until is None:
            self._until = now + self._seconds
        if not isinstance(error, _PASSING) or now >= self._until:
            raise error
        if error.retry_after is not None:
            self._until += error.retry_after
            return error.retry_after
        wait, self._wait = self._wait, min(self._wait * 2, LONGEST_WAIT)
        return min(wait, self._until - now)


@dataclass(frozen=True, slots=True)
class Submitter:
    """Submits images through the provider, and notes them in the ledger.

    Attributes:
        ledger: this program's own.
        provider: of one account.
        template: makes the webhooks.
        options: how images are to be upscaled.
        rate_limiter: of the submissions.
        patience: how long one image waits for a provider that is away.
        lag: between two answers that there is no such job.
        clock: seconds that nobody sets.
        now: the time, ms since the epoch.
        stopping: set it, and nothing more is begun; what waits gives up, and what was sent is still answered.
        notice: called with what an image waits out, so that somebody can be told.
    """

    ledger: Ledger
    provider: Ximilar
    template: WebhookTemplate
    options: Options
    rate_limiter: RateLimiter = field(default_factory=RateLimiter)
    patience: timedelta = PATIENCE
    lag: timedelta = LAG
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], int] = wall_clock
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    notice: Callable[[ProviderError], None] = lambda _: None

    async def submit(self, item: Item) -> Outcome:
        """Submits one image, unless an earlier run has done it.

        Cancelled while its answer is awaited, it leaves an open intent in the ledger.
        """
        one = _One(self, item)
        try:
            return await one.submit()
        except ReceiverError as error:
            return Outcome(item.name, item.ref, Fate.OPEN if one.lost else Fate.REFUSED, error=error)
        except _StoppedError:
            return Outcome(item.name, item.ref, Fate.OPEN if one.lost else Fate.UNSENT)


class _One:
    """The way of one image.

    Attributes:
        lost: what the provider may have taken, without our knowing.
    """

    def __init__(self, room: Submitter, item: Item) -> None:
        self._room = room
        self._ledger = room.ledger
        self._item = item
        self._patience = _Patience(room.patience.total_seconds(), room.clock)
        self.lost: Intent | None = None

    async def submit(self) -> Outcome:
        """See `Submitter.submit`.

        Raises:
            ReceiverError: it was not submitted; or, where ``lost`` is set, it is unknown whether it was.
            _StoppedError: likewise, because the run is to end.
        """
        noted = (await self._ledger.intents_among([self._item.key])).get(self._item.key)
        mark = secrets.token_urlsafe(16)
        while True:
            if noted is not None:
                if noted.job is not None:
                    job = await self._ledger.job(noted.job)
                    return replace(self._outcome(Fate.KNOWN, noted.job), job=job)
                self.lost = noted
                if found := await self._look(noted):
                    return await self._taken(found)
                await self._ledger.withdraw_intent(self._item.key)
                # Should it be made after all, the next look finds it.
                mark, self.lost = noted.mark, None
            image = await self._image()
            await self._pause(self._room.rate_limiter.reserve())
            noted = await self._ledger.record_intent(self._intent(mark))
            if noted.mark != mark:
                continue  # another process has begun to submit the same
            self.lost = noted
            try:
                webhook = self._room.template.webhook(mark, self._item.ref)
                submitted = await self._room.provider.submit(self._room.options.upscale(image, webhook))
            except ProviderError as error:
                if not error.maybe_sent:
                    await self._ledger.withdraw_intent(self._item.key)
                    self.lost = noted = None
                await self._wait_out(error)
            else:
                return await self._taken(submitted.id)

    async def _look(self, intent: Intent) -> str | None:
        """The id of the job that was submitted with this intent; ``None`` where the provider knows none."""
        absent = self._room.now() - intent.at > _GRACE
        while True:
            noted = (await self._ledger.intents_among([intent.key])).get(intent.key)
            if noted is not None and noted.job is not None:
                return noted.job  # its completion has come, or the server has found it
            try:
                job_id = await find(self._ledger, self._room.provider, intent)
            except ProviderError as error:
                await self._wait_out(error)
                continue
            if job_id is not None:
                return job_id
            if absent:
                return None
            absent = True
            await self._pause(self._room.lag.total_seconds())

    async def _taken(self, job_id: str) -> Outcome:
        await self._ledger.confirm_intent(self._item.key, job_id)
        return self._outcome(Fate.SUBMITTED, job_id)

    def _outcome(self, fate: Fate, job_id: str) -> Outcome:
        return Outcome(self._item.name, self._item.ref, fate, job_id)

    def _intent(self, mark: str) -> Intent:
        return Intent(self._item.key, mark, self._item.ref, self._room.options.endpoint, self._item.url)

    async def _image(self) -> str | bytes:
        if not isinstance(self._item.image, Path):
            return self._item.image
        try:
            return await asyncio.to_thread(self._item.image.read_bytes)
        except OSError as error:
            raise InvalidRequestError(f"{self._item.name}: cannot be read ({error.strerror}).") from None

    async def _wait_out(self, error: ProviderError) -> None:
        wait = self._patience.wait_after(error)
        self._room.notice(error)
        if isinstance(error, RateLimitedError):
            self._room.rate_limiter.hold(wait)
        await self._pause(wait)

    async def _pause(self, seconds: float) -> None:
        stopping = self._room.stopping
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await stopping.wait()
            except TimeoutError:
                return
        if stopping.is_set():
            raise _StoppedError


async def find(ledger: Ledger, provider: Ximilar, intent: Intent) -> str | None:
    """Asks the provider for the id of an intent's job; ``None`` where there is none.

    Raises:
        ProviderError: the provider does not say.
    """
    return await provider.find(
        SUBMISSION_HEADER,
        intent.mark,
        since=_at(intent.at),
        others=await ledger.job_ids_submitted_since(intent.at - _GRACE),
    )


@dataclass(slots=True)
class SettleProgress:
    """What `settle` has found out so far, kept by its caller.

    Attributes:
        asked: when each submission was looked for last, by its key; ms since the epoch.
        strangers: ids of jobs that are none of them, whose headers need not be asked for again.
    """

    asked: dict[str, int] = field(default_factory=dict)
    strangers: set[str] = field(default_factory=set)

    def due(self, intents: Sequence[Intent], now: int, lifetime: timedelta) -> list[Intent]:
        """Those of all open ones that are to be looked for now, and taken for looked for."""
        keys = {intent.key for intent in intents}
        self.asked = {key: at for key, at in self.asked.items() if key in keys}
        if not keys:
            self.strangers.clear()
        due = [intent for intent in intents if self._is_due(intent, now, lifetime)]
        self.asked |= {intent.key: now for intent in due}
        return due

    def _is_due(self, intent: Intent, now: int, lifetime: timedelta) -> bool:
        last = self.asked.get(intent.key)
        if last is None:
            return True
        wait = _GRACE if intent.at < now - lifetime.total_seconds() * 1000 else last - intent.at
        return now - last >= wait


async def settle(
    ledger: Ledger,
    provider: Ximilar,
    *,
    now: int,
    lifetime: timedelta = timedelta(hours=24),
    progress: SettleProgress | None = None,
) -> int:
    """Finds out what became of submissions whose answer was lost and whose process is gone.

    Those that the provider knows become jobs. Those that it does not know are withdrawn once an image URL's
    life is over, when nothing could be had from a job any more. All are looked for in one pass through the
    jobs since then, which takes a question for each that is not known.

    Args:
        ledger: this program's own.
        provider: of one account.
        now: ms since the epoch.
        lifetime: of an image URL.
        progress: what was found out before; brought up to date here. With it each submission is looked for
            again when it has become twice as old; without, every time.

    Returns:
        How many were settled, the one way or the other.

    Raises:
        ProviderError: the provider does not say.
        LedgerError: the ledger cannot be used.
    """
    progress = progress or SettleProgress()
    # Before that, whoever submitted it is still at it.
    intents = await ledger.open_intents(before=now - _GRACE, limit=MOST_OPEN)
    left = {intent.mark: intent for intent in progress.due(intents, now, lifetime)}
    if not left:
        return 0
    since = min(intent.at for intent in left.values())
    others = progress.strangers | await ledger.job_ids_submitted_since(since - _GRACE)
    settled = 0
    async with contextlib.aclosing(provider.sent_since(_at(since), others)) as jobs:
        async for job_id, headers in jobs:
            mark = _mark(headers or {})
            if mark in left:
                if await ledger.confirm_intent(left.pop(mark).key, job_id):
                    log.info("announced", job=job_id)
                settled += 1
            elif headers is not None:
                progress.strangers.add(job_id)
            if not left:
                break
    over = now - int(lifetime.total_seconds() * 1000)
    for intent in left.values():
        if intent.at < over:
            await ledger.withdraw_intent(intent.key)
            settled += 1
    return settled


def _mark(headers: Mapping[str, str]) -> str | None:
    name = SUBMISSION_HEADER.lower()
    return next((value for key, value in headers.items() if key.lower() == name), None)


def _at(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1000, UTC)
