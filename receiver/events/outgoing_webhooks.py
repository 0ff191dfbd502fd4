"""Tells another program of each job that became final, by the Standard Webhooks (standardwebhooks.com).

What is to be told is taken from the history and kept in the ledger until it was taken, so a restart loses
and repeats nothing; only a crash between the endpoint's answer and its record sends something twice, under
the same id. Each waits on its own, so that one which is refused delays none but later ones of its own job.
"""

import asyncio
import json
import uuid
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Self

import httpx
import structlog
from standardwebhooks import Webhook

from receiver.core import retry_after, serializers
from receiver.core.backoff import notification_retry_at
from receiver.core.concurrency import persist
from receiver.core.errors import LedgerError
from receiver.core.jobs import FINAL, Event, Job
from receiver.events.feed import Feed
from receiver.ledger import Ledger, Notification

log = structlog.get_logger("receiver.notify")

HANDS = 4
"""Notifications under way at a time."""

SECONDS = 15.0
"""How long one may take altogether; the scheme recommends 15 to 30."""

GIVE_UP_AFTER_MS = 24 * 60 * 60 * 1000
"""An attempt that fails so long after the job became final was the last."""

TICK_SECONDS = 1.0
"""The longest that the end of a wait goes unnoticed."""

GRACE_SECONDS = 1.0
"""How long what is under way may go on at a stop."""

MARK_EVERY = 10_000
"""Lines of the history without an end, after which the place is noted all the same."""

MAX_ANSWER_BYTES = 64 * 1024
"""Of an answer's body, which is read only so that the connection can be used again."""

_NAMESPACE = uuid.UUID("6f1c7a52-1d0e-5b8e-9c55-5f9f6b6c0a3d")


class OutgoingWebhooks:
    """Notes what is to be told, and sends it, until it is stopped.

    Args:
        ledger: keeps what is to be told.
        feed: tells what happens.
        url: the endpoint: the operator's own choice, so that it may be anywhere.
        secret: signs; ``whsec_`` and base64.
        user_agent: how we introduce ourselves.
        now: the wall clock, ms since the epoch.
        jitter: gives a number in [0, 1).
        transport: for tests.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        feed: Feed,
        url: str,
        secret: str,
        user_agent: str,
        now: Callable[[], int],
        jitter: Callable[[], float],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._ledger = ledger
        self._feed = feed
        self._url = url
        self._signer = Webhook(secret)
        self._now = now
        self._jitter = jitter
        self._client = httpx.AsyncClient(
            headers={"Content-Type": "application/json", "User-Agent": user_agent},
            timeout=SECONDS,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=HANDS),
            transport=transport,
        )
        self._place = 0
        self._collected = False
        self._wake = asyncio.Event()
        self._gone = False
        self._running: dict[asyncio.Task[None], int] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Begins.

        Raises:
            LedgerError: ``ledger.unavailable``.
        """
        self._place = await self._ledger.start_notifications()
        self._tasks = [asyncio.create_task(self._collect()), asyncio.create_task(self._send_on())]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Begins nothing more, and gives what is under way a short grace."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._running:
            await asyncio.wait(self._running, timeout=GRACE_SECONDS)
        left = list(self._running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._client.aclose()

    async def _collect(self) -> None:
        """Notes what is to be told, until the server is to end."""
        while not self._collected:
            try:
                await self._note()
                self._collected = True
            except LedgerError as error:
                if error.reason == "ledger.stopping":
                    return
                log.error("ledger cannot be used", reason=error.reason, detail=error.detail)  # noqa: TRY400 - no bug of ours
                await asyncio.sleep(TICK_SECONDS)
            except Exception:
                log.exception("unexpected error")  # a bug of ours must not end the telling
                await asyncio.sleep(TICK_SECONDS)

    async def _note(self) -> None:
        noted = self._place
        async with aclosing(self._feed.listen(noted)) as listening:
            async for news in listening:
                ended = any(change.transition.event.after in FINAL for change in news.changes)
                if ended or news.until - noted >= MARK_EVERY:
                    await self._ledger.enqueue_notifications(until=news.until, render=_render)
                    self._place = noted = news.until
                    self._wake.set()

    async def _send_on(self) -> None:
        """Sends what is due, as it becomes due."""
        while True:
            self._wake.clear()
            wait: float | None = TICK_SECONDS
            try:
                await self._begin_due()
                due = await self._ledger.next_notification_at()
                if due is None:
                    wait = None
                elif due > self._now():
                    wait = min(wait or 0, (due - self._now()) / 1000)
            except LedgerError as error:
                if error.reason == "ledger.stopping":
                    return
                log.error("ledger cannot be used", reason=error.reason, detail=error.detail)  # noqa: TRY400 - no bug of ours
            except Exception:
                log.exception("unexpected error")  # a bug of ours must not end the telling
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _begin_due(self) -> None:
        if self._gone:
            if await self._ledger.give_up_old_notifications(before=self._now() - GIVE_UP_AFTER_MS):
                log.error("notifications given up", detail="The endpoint wants none.")
            return
        under_way = set(self._running.values())
        if len(under_way) >= HANDS:
            return
        for notification in await self._ledger.notifications_due(
            by=self._now(), limit=HANDS + len(under_way)
        ):
            if notification.seq not in under_way and len(self._running) < HANDS:
                task = asyncio.create_task(self._tell(notification), name=f"notify-{notification.seq}")
                self._running[task] = notification.seq
                task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("unexpected error", exc_info=error)

    async def _tell(self, notification: Notification) -> None:
        """Sends one, and records what became of it."""
        wait: float | None = None
        try:
            async with asyncio.timeout(SECONDS):
                answer = await self._post(notification)
            met = f"The endpoint answers {answer.status_code}."
            wait = retry_after.parse(answer.headers.get("retry-after", ""))
        except (httpx.HTTPError, TimeoutError, OSError) as error:
            # The error's own words may hold the address, and that a secret of its operator's.
            answer, met = None, f"The endpoint does not answer ({type(error).__name__})."
        except Exception as bug:
            # A bug of ours is a failure like any other: it waits, and does not come again at once.
            log.exception("unexpected error", job=notification.job)
            answer, met = None, f"{type(bug).__name__}: see the log."
        if answer is not None and answer.is_success:
            await persist(lambda: self._ledger.notification_sent(notification.seq), log)
            log.info("notified", job=notification.job, attempts=notification.attempts + 1)
            return
        now = self._now()
        said = {"job": notification.job, "attempts": notification.attempts + 1, "detail": met}
        gone = answer is not None and answer.status_code == 410
        if gone and not self._gone:
            self._gone = True
            log.error("the endpoint wants no more notifications; none is sent until the next start")
        if gone or now - notification.at >= GIVE_UP_AFTER_MS:
            await persist(lambda: self._ledger.give_up_notification(notification.seq, met), log)
            log.error("notification given up", **said)
            return
        at = notification_retry_at(now, notification.attempts + 1, self._jitter, wait)
        await persist(lambda: self._ledger.notification_failed(notification.seq, met, at=at), log)
        log.warning("not notified", **said, next_attempt_at=serializers.time(at))

    async def _post(self, notification: Notification) -> httpx.Response:
        at = datetime.fromtimestamp(self._now() // 1000, UTC)
        name = message_id(notification)
        headers = {
            "webhook-id": name,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": self._signer.sign(name, at, notification.body.decode()),
        }
        request = self._client.build_request("POST", self._url, content=notification.body, headers=headers)
        answer = await self._client.send(request, stream=True)
        try:
            await _drain(answer)
        finally:
            await answer.aclose()
        return answer


def message_id(notification: Notification) -> str:
    """The name of a notification: the same for each attempt, and no other's. It holds no full stop."""
    said = f"{notification.job}/{notification.seq}/{notification.at}"
    return f"msg_{uuid.uuid5(_NAMESPACE, said).hex}"


def _render(job: Job, event: Event) -> bytes:
    document = {
        "type": f"job.{event.after}",
        "timestamp": serializers.time(event.at),
        "data": serializers.job(job),
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


async def _drain(answer: httpx.Response) -> None:
    """Reads a short body; what becomes of it changes nothing, since the status is known."""
    size = 0
    try:
        async with asyncio.timeout(GRACE_SECONDS):
            async for chunk in answer.aiter_raw():
                size += len(chunk)
                if size > MAX_ANSWER_BYTES:
                    return
    except (httpx.HTTPError, TimeoutError):
        return
