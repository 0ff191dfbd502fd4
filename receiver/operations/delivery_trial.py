"""Sends a test delivery the whole way: through the public address into the archive, step by step.

The delivery is proved like the provider's, so it takes the provider's way with the installation's own
secrets. Its picture is at the webhook's own address, which every proxy passes on, under a ticket that nobody
can guess and that ends after minutes. The job's id begins with ``test-``. A trial is kept in the ledger,
where all receivers and commands on it find it.
"""

import asyncio
import contextlib
import hmac
import ipaddress
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from typing import Literal
from urllib.parse import urlsplit

import httpx

from receiver.core.errors import REASONS, LedgerError
from receiver.core.jobs import Job, State
from receiver.core.paths import webhook_path
from receiver.fetch.network_guard import system_resolver
from receiver.ledger import Ledger, LedgerReader
from receiver.providers.base import Output, OwnDelivery, Providers
from receiver.web.reachability import Answer, ask, explain, origin, tls_remedy, why_not

TICKET_MS = 10 * 60 * 1000
"""How long the picture can be had, and the life of its URL."""
POLL_SECONDS = 0.2
STEP_SECONDS = 60.0
"""How long the picture may take to be fetched, and again to be archived."""
SILENT_MS = int(STEP_SECONDS + 15) * 1000
"""Another trial may begin so long after the last step was recorded: whoever took it was killed."""
PICTURE_SIZE = (640, 426)

STEPS = {
    "make": "Make a delivery that proves itself",
    "reach": "Read the picture at the public address",
    "deliver": "Deliver to the webhook",
    "record": "Find the job in the ledger",
    "fetch": "Fetch and verify the picture",
    "archive": "Archive the picture",
}
"""What is done, in this order: each by the method of `_Work` with this name, in words for people."""

_CHECKPOINT = "test delivery"
_LOOK = "Look at DNS, firewall and proxy."
_UNDER_WAY = "A test delivery is under way; wait for its end."


@dataclass(slots=True)
class Step:
    """One step, and what came of it; ``remedy`` says what to do about a failure."""

    name: str
    state: Literal["running", "ok", "failed"] = "running"
    detail: str = ""
    remedy: str = ""

    @property
    def title(self) -> str:
        return STEPS[self.name]


@dataclass(slots=True)
class Trial:
    """One test delivery. Times are ms since the epoch."""

    provider: str
    job: str
    ticket: str = field(repr=False)
    began_at: int
    recorded_at: int = 0
    steps: list[Step] = field(default_factory=list)
    ended_at: int | None = None

    @property
    def worked(self) -> bool:
        return len(self.steps) == len(STEPS) and all(step.state == "ok" for step in self.steps)

    def is_running(self, now: int) -> bool:
        return self.ended_at is None and now - self.recorded_at < SILENT_MS


class _Failed(Exception):  # noqa: N818 - the end of a step
    """Has what came of the step, and what to do."""


@cache
def picture() -> bytes:
    """Return the picture, a JPEG of `PICTURE_SIZE`."""
    return resources.files(__package__).joinpath("test-picture.jpg").read_bytes()


async def read_trial(ledger: LedgerReader) -> Trial | None:
    """Return the last trial."""
    return _read(await ledger.checkpoint(_CHECKPOINT))


async def is_ticket(ledger: LedgerReader, ticket: str, now: int) -> bool:
    """Return whether the last trial's picture may be had with this ticket."""
    trial = await read_trial(ledger) if len(ticket) == len(_new_ticket()) and ticket.isascii() else None
    if trial is None or now - trial.began_at >= TICKET_MS:
        return False
    return hmac.compare_digest(trial.ticket, ticket)


@dataclass(kw_only=True, eq=False)
class DeliveryTrials:
    """Runs test deliveries, one at a time.

    Attributes:
        address: the public one; empty without ``RECEIVER_PUBLIC_URL``.
        confirm: whether the provider is asked about each delivery.
        patience: seconds, at most ``STEP_SECONDS``, for the picture to be fetched, and again to be archived.
    """

    ledger: Ledger
    providers: Providers
    address: str
    confirm: bool
    patience: float = STEP_SECONDS

    async def begin(self, provider: str) -> Trial:
        """Return a new trial. Raise `LedgerError` ``ledger.wrong_state`` while another one runs."""
        now = self.ledger.now()
        text = await self.ledger.checkpoint(_CHECKPOINT)
        last = _read(text)
        if last is not None and last.is_running(now):
            raise LedgerError("ledger.wrong_state", _UNDER_WAY)
        own = self.providers[provider]
        trial = Trial(provider, own.job_id(f"test-{secrets.token_hex(8)}"), _new_ticket(), now)
        await self._save(trial, text)
        if last is not None and last.ended_at is None:
            await self.ledger.end_trial(last.job)
        return trial

    async def run(self, trial: Trial, on_step: Callable[[Step], object] = lambda _: None) -> Trial:
        """Take the steps, up to the first that fails; call ``on_step`` as each begins and ends."""
        work = _Work(self, trial)
        kept = _text(trial)
        try:
            for name in STEPS:
                do: Callable[[], Awaitable[str]] = getattr(work, name)
                step = Step(name)
                trial.steps.append(step)
                kept = await self._save(trial, kept)
                on_step(step)
                try:
                    step.detail, step.state = await do(), "ok"
                except _Failed as failed:
                    step.detail, step.remedy = failed.args
                    step.state = "failed"
                    break
                finally:
                    on_step(step)
        finally:
            # Whose picture cannot be had would expire, and count as a lost image for ever.
            with contextlib.suppress(LedgerError):
                await self.ledger.end_trial(trial.job)
                trial.ended_at = self.ledger.now()
                await self._save(trial, kept)
        return trial

    async def _save(self, trial: Trial, before: str | None) -> str:
        """Record a trial, unless another one was since ``before``, and return what is recorded."""
        trial.recorded_at = self.ledger.now()
        text = _text(trial)
        if not await self.ledger.replace_checkpoint(_CHECKPOINT, before, text):
            raise LedgerError("ledger.wrong_state", _UNDER_WAY)
        return text


class _Work:
    """The `STEPS` of one trial. Each returns what came of it, or raises `_Failed`."""

    def __init__(self, trials: DeliveryTrials, trial: Trial) -> None:
        self._trials, self._trial = trials, trial
        self._url = trials.address + webhook_path(trial.provider)
        expires = (trial.began_at + TICKET_MS) // 1000
        self._picture_url = f"{self._url}?expires={expires}&signature={trial.ticket}"
        self._delivery: OwnDelivery | None = None

    async def make(self) -> str:
        provider = self._trials.providers[self._trial.provider]
        if not self._trials.address:
            raise _Failed(
                "RECEIVER_PUBLIC_URL is not set",
                "Set it to the address by which the provider reaches this receiver, and restart.",
            )
        output = Output(self._picture_url, *PICTURE_SIZE, len(picture()), "image/jpeg")
        own_id = self._trial.job.rpartition(":")[2]
        self._delivery = provider.own_delivery(own_id, output)
        if self._delivery is None:
            raise _Failed(
                f"{provider.title} signs with a key that only it has, so no delivery of its can be made here",
                f"Run a job at {provider.title} with the webhook {self._url}.",
            )
        return f"{self._trial.job}, proved as {provider.title} proves it"

    async def reach(self) -> str:
        answer, took = await self._ask()
        if answer.status == 200 and answer.body == picture():
            return f"{origin(self._url)} gives the picture, in {took} ms"
        if answer.status == 405:
            raise _Failed(
                f"{origin(self._url)} leads to a receiver, but not to this one, or without the URL's query",
                "Correct RECEIVER_PUBLIC_URL or the proxy's target; restart serve if it is an older version.",
            )
        raise self._stranger(answer)

    async def deliver(self) -> str:
        assert self._delivery is not None
        answer, took = await self._ask(self._delivery)
        if answer.status == 200 and self._trial.job.encode() in answer.body:
            return f"acknowledged in {took} ms"
        if answer.reason == "auth.refused":
            names = " and ".join(self._delivery.headers)
            raise _Failed(
                f"the receiver answers 401: {REASONS['auth.refused']}",
                f"Let the proxy pass {names} on, which `receiver doctor` looks at. Restart serve if a secret"
                " was changed since its start. Look whether its environment or this one has another secret"
                " than .env: the environment comes first.",
            )
        raise self._stranger(answer)

    async def record(self) -> str:
        if (job := await self._trials.ledger.job(self._trial.job)) is None:
            raise _Failed(
                "the delivery was acknowledged, and is not in this ledger: another installation took it",
                "Correct RECEIVER_PUBLIC_URL or the proxy's target, or RECEIVER_DATA_DIR here.",
            )
        return f"{job.state}"

    async def fetch(self) -> str:
        if self._trials.confirm:
            raise _Failed(
                "RECEIVER_CONFIRM is on: each URL must be confirmed by the provider, which knows no test",
                "Nothing: all before this works. Run a real job for the rest.",
            )
        job = await self._wait({State.FETCHED, State.ARCHIVED}, {"url", "image"})
        problem = job.problem
        if job.state in (State.FETCHED, State.ARCHIVED):
            return "the bytes are the picture's, and safe on this disk"
        if problem is None:
            raise _Failed("no attempt has ended in time", "Does serve run? `/readyz` says what fails.")
        raise _Failed(f"{problem.reason}: {problem.detail}", await self._remedy(problem.reason))

    async def archive(self) -> str:
        job = await self._wait({State.ARCHIVED}, {"archive"})
        if job.state is State.ARCHIVED and job.stored is not None:
            return job.stored.uri
        problem = job.problem
        raise _Failed(
            f"{problem.reason}: {problem.detail}" if problem else "nothing was archived in time",
            "While the archive refuses, uploads pause. Repair it, which `receiver doctor` looks at; the"
            " picture is safe on this disk, and archived by itself then.",
        )

    async def _ask(self, delivery: OwnDelivery | None = None) -> tuple[Answer, int]:
        """Return the answer of the public address, and the milliseconds that it took."""
        began = time.monotonic()
        try:
            if delivery is None:
                answer = await ask(self._picture_url, {}, max_bytes=2 * len(picture()))
            else:
                headers = {"Content-Type": b"application/json", **delivery.headers}
                answer = await ask(self._url, headers, content=delivery.body, seconds=30)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _Failed(
                f"{origin(self._url)} is not reached from here: {explain(error)}",
                tls_remedy(error)
                or f"Does serve run? {_LOOK} If only this machine cannot reach it (a router that leads"
                " nothing back inside), real deliveries may still come.",
            ) from None
        return answer, int((time.monotonic() - began) * 1000)

    def _stranger(self, answer: Answer) -> _Failed:
        """Return the failure of an answer that is not the wanted one."""
        if (why := why_not(answer, self._url)) is not None:
            return _Failed(*why)
        if answer.reason in REASONS:
            return _Failed(
                f"the receiver answers {answer.status}: {answer.reason}: {REASONS[answer.reason]}",
                "The log says more.",
            )
        path = webhook_path(self._trial.provider)
        return _Failed(
            f"something else than this receiver answers at {origin(self._url)}{path} ({answer.status})",
            f"Correct RECEIVER_PUBLIC_URL, or let the proxy pass GET and POST of {path} on.",
        )

    async def _wait(self, wanted: set[State], families: set[str]) -> Job:
        """Return the job once it has a wanted state, is final, or has failed for what stays."""
        until = time.monotonic() + self._trials.patience
        while True:
            job = await self._trials.ledger.job(self._trial.job)
            if job is None:
                raise _Failed("the job is gone from the ledger", "Was another ledger restored meanwhile?")
            stays = job.problem is not None and job.problem.reason.partition(".")[0] in families
            is_open = job.state in (State.RECEIVED, State.FETCHED)
            if job.state in wanted or not is_open or stays or time.monotonic() > until:
                return job
            await asyncio.sleep(POLL_SECONDS)

    async def _remedy(self, reason: str) -> str:
        family = reason.partition(".")[0]
        if reason in ("url.source", "url.port"):
            return (
                f"Real images come from elsewhere, so that may be right. For a test, add {self._url} to"
                " RECEIVER_IMAGE_SOURCES, and restart."
            )
        if reason == "url.userinfo":
            return "Nothing: all before this works, and no image is fetched with a password. Run a real job."
        if family == "url":
            if networks := await self._private_networks():
                return f"For a test, add {', '.join(networks)} to RECEIVER_IMAGE_NETWORKS, and restart."
            return "Put TLS in front, and set RECEIVER_PUBLIC_URL to the https address."
        if family == "image":
            return "Let the proxy pass images on as they are."
        return f"serve must reach its own public address to fetch this picture. {_LOOK}"

    async def _private_networks(self) -> list[str]:
        try:
            found = await system_resolver(urlsplit(self._url).hostname or "", 0)
        except OSError:
            return []
        addresses = {ipaddress.ip_address(address.partition("%")[0]) for address in found}
        return sorted(str(ipaddress.ip_network(it)) for it in addresses if not it.is_global)


def _text(trial: Trial) -> str:
    return json.dumps(asdict(trial))


def _read(text: str | None) -> Trial | None:
    if text is None:
        return None
    kept = json.loads(text)
    return Trial(**{**kept, "steps": [Step(**step) for step in kept["steps"]]})


def _new_ticket() -> str:
    return secrets.token_urlsafe(32)
