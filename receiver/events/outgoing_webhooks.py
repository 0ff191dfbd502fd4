"""Outgoing webhooks: a Standard Webhooks POST (standardwebhooks.com) for each job that becomes final.

Notifications are taken from the history and kept in the ledger until the endpoint has accepted them, so a
restart loses and repeats nothing. Only a crash between the endpoint's answer and its record, or another
receiver that takes over in that moment, sends one twice, under the same id. Each waits on its own: one that
is refused delays only later ones of its own job.
"""

import asyncio
import json
import uuid
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self

import httpx
import structlog
from standardwebhooks import Webhook

from receiver.core import retry_after, serializers
from receiver.core.backoff import Jitter, notification_retry_at
from receiver.core.clock import Clock
from receiver.core.concurrency import cancel, persist, run_forever, set_within
from receiver.core.jobs import FINAL, Event, Job
from receiver.events.feed import Feed
from receiver.ledger import Ledger, Notification

log = structlog.get_logger("receiver.notify")

CONCURRENCY = 4
"""Notifications in progress at a time."""

TOTAL_SECONDS = 15.0
"""How long one may take altogether; the scheme recommends 15 to 30."""

GIVE_UP_AFTER_MS = 24 * 60 * 60 * 1000
"""An attempt that fails so long after the job became final was the last."""

MAX_SLEEP_SECONDS = 1.0
"""The longest that the end of a wait goes unnoticed."""

GRACE_SECONDS = 1.0
"""How long notifications in progress may go on at a stop."""

MARK_EVERY = 10_000
"""Lines of the history without a final state, after which the place is recorded all the same."""

MAX_ANSWER_BYTES = 64 * 1024
"""Of an answer's body, which is read only so that the connection can be used again."""

_NAMESPACE = uuid.UUID("6f1c7a52-1d0e-5b8e-9c55-5f9f6b6c0a3d")


@dataclass(kw_only=True, eq=False)
class OutgoingWebhooks:
    """Queues a notification for each job that becomes final, and sends it, until it is stopped.

    The secret that signs is ``whsec_`` and base64. The URL is the operator's choice, and may be any address.
    """

    ledger: Ledger
    feed: Feed
    url: str
    secret: str = field(repr=False)
    user_agent: str
    now: Clock
    jitter: Jitter

    def __post_init__(self) -> None:
        self._signer = Webhook(self.secret)
        self._client = httpx.AsyncClient(
            headers={"Content-Type": "application/json", "User-Agent": self.user_agent},
            timeout=TOTAL_SECONDS,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=CONCURRENCY),
        )
        self._place = 0
        self._wake = asyncio.Event()
        self._gone = False
        self._running: dict[asyncio.Task[None], int] = {}
        self._loops: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Begin. Raise `LedgerError` where the ledger cannot be used."""
        self._place = await self.ledger.start_notifications()
        loops = (
            run_forever(self._queue, log, retry=MAX_SLEEP_SECONDS),
            run_forever(self._send_due, log, retry=MAX_SLEEP_SECONDS),
        )
        self._loops = [asyncio.create_task(loop) for loop in loops]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Begin nothing more, and give what is in progress a short grace."""
        await cancel(self._loops)
        if self._running:
            await asyncio.wait(self._running, timeout=GRACE_SECONDS)
        await cancel(self._running)
        await self._client.aclose()

    async def _queue(self) -> None:
        queued = self._place
        async with aclosing(self.feed.subscribe(queued)) as batches:
            async for batch in batches:
                ended = any(change.transition.event.after in FINAL for change in batch.changes)
                if ended or batch.until - queued >= MARK_EVERY:
                    await self.ledger.enqueue_notifications(until=batch.until, render=_render)
                    self._place = queued = batch.until
                    self._wake.set()

    async def _send_due(self) -> float:
        """Start what is due, then wait until something else is."""
        self._wake.clear()
        await self._start_due()
        due = await self.ledger.next_notification_at()
        wait: float | None = None
        if due is not None:
            left = (due - self.now()) / 1000
            wait = min(MAX_SLEEP_SECONDS, left) if left > 0 else MAX_SLEEP_SECONDS
        await set_within(self._wake, wait)
        return 0

    async def _start_due(self) -> None:
        if self._gone:
            if await self.ledger.give_up_old_notifications(before=self.now() - GIVE_UP_AFTER_MS):
                log.error("notifications given up", detail="The endpoint wants none.")
            return
        in_progress = set(self._running.values())
        if len(in_progress) >= CONCURRENCY:
            return
        limit = CONCURRENCY + len(in_progress)
        for notification in await self.ledger.notifications_due(by=self.now(), limit=limit):
            if notification.seq not in in_progress and len(self._running) < CONCURRENCY:
                task = asyncio.create_task(self._deliver(notification), name=f"notify-{notification.seq}")
                self._running[task] = notification.seq
                task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("unexpected error", exc_info=error)

    async def _deliver(self, notification: Notification) -> None:
        wait: float | None = None
        try:
            async with asyncio.timeout(TOTAL_SECONDS):
                answer = await self._post(notification)
            detail = f"The endpoint answers {answer.status_code}."
            wait = retry_after.parse(answer.headers.get("retry-after", ""))
        except (httpx.HTTPError, TimeoutError, OSError) as error:
            # The error's own words may hold the address, and with it a secret of its operator.
            answer, detail = None, f"The endpoint does not answer ({type(error).__name__})."
        except Exception as bug:
            # A bug is a failure like any other: the notification waits, and is not sent again at once.
            log.exception("unexpected error", job=notification.job)
            answer, detail = None, f"{type(bug).__name__}: see the log."
        if answer is not None and answer.is_success:
            await persist(lambda: self.ledger.notification_sent(notification.seq), log)
            log.info("notified", job=notification.job, attempts=notification.attempts + 1)
            return
        now = self.now()
        failed = {"job": notification.job, "attempts": notification.attempts + 1, "detail": detail}
        gone = answer is not None and answer.status_code == 410
        if gone and not self._gone:
            self._gone = True
            log.error("the endpoint wants no more notifications; none is sent until the next start")
        at = None
        if not gone and now - notification.at < GIVE_UP_AFTER_MS:
            at = notification_retry_at(now, notification.attempts + 1, self.jitter, wait)
        await persist(lambda: self.ledger.notification_failed(notification.seq, detail, at=at), log)
        if at is None:
            log.error("notification given up", **failed)
        else:
            log.warning("not notified", **failed, next_attempt_at=serializers.time(at))

    async def _post(self, notification: Notification) -> httpx.Response:
        at = datetime.fromtimestamp(self.now() // 1000, UTC)
        # The same for each attempt, and no other notification's. It holds no full stop.
        name = f"{notification.job}/{notification.seq}/{notification.at}"
        message_id = f"msg_{uuid.uuid5(_NAMESPACE, name).hex}"
        headers = {
            "webhook-id": message_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": self._signer.sign(message_id, at, notification.body.decode()),
        }
        async with self._client.stream(
            "POST", self.url, content=notification.body, headers=headers
        ) as answer:
            with suppress(httpx.HTTPError, TimeoutError):  # which change nothing, since the status is known
                async with asyncio.timeout(GRACE_SECONDS):
                    async for _ in answer.aiter_raw():
                        if answer.num_bytes_downloaded > MAX_ANSWER_BYTES:
                            break
        return answer


def _render(job: Job, event: Event) -> bytes:
    document = {
        "type": f"job.{event.after}",
        "timestamp": serializers.time(event.at),
        "data": serializers.job(job),
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
