"""``GET /jobs/changes``: the transitions of all jobs as server-sent events (HTML Standard, 9.2).

sse-starlette was looked at. To learn of a stop it replaces a method of uvicorn's server class for the whole
process, or searches the signal handlers for the server, and ours has its own ways with both; and it runs
three tasks for each client. What is left to do is this one file.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

import structlog
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from receiver.api import params
from receiver.core.errors import BodyError, LedgerError
from receiver.events.feed import Batch, Change, Feed
from receiver.ledger import Ledger
from receiver.web.waiter_limit import WaiterLimit

log = structlog.get_logger("receiver.stream")

HEARTBEAT_SECONDS = 15.0
"""The longest silence: proxies end connections that say nothing for a minute, some earlier."""

RETRY_MS = 2_000
"""How long a client is asked to wait before it comes back."""

TRANSITION, GAP = "transition", "gap"
"""The names of events: a job came or moved; lines of the history that the client did not see were removed."""

HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # or nginx would hold events back until they fill a buffer
}


class _Events(StreamingResponse):
    """Ends its source with the connection, and not when memory is next cleaned up."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        """Sends everything."""
        async with aclosing(self.body_iterator):  # type: ignore[type-var] # it is given a generator below
            await super().stream_response(send)


@dataclass(frozen=True, slots=True)
class Stream:
    """The route.

    Attributes:
        ledger: knows where the history ends.
        feed: of the transitions.
        waiters: caps the clients that wait.
        heartbeat: seconds; the longest silence.
    """

    ledger: Ledger
    feed: Feed
    waiters: WaiterLimit
    heartbeat: float = HEARTBEAT_SECONDS

    def routes(self) -> list[Route]:
        """Before ``/jobs/{id}``, which would take it for a job."""
        return [Route("/jobs/changes", self.changes, methods=["GET"])]

    async def changes(self, request: Request) -> Response:
        """``GET /jobs/changes``: all transitions from the client's last one on, or from now."""
        wanted = params.changes(request.query_params, request.headers.getlist("last-event-id"))
        last = await self.ledger.last_history_seq()
        if wanted.after is not None and wanted.after > last:
            raise BodyError(
                "body.invalid_query",
                f"{wanted.said_by} is {wanted.after}, ahead of the ledger, whose last line is {last}.",
            )
        self.waiters.check()
        if request.method == "HEAD":
            return Response(media_type=_Events.media_type, headers=HEADERS)
        return _Events(self._events(wanted, last), headers=HEADERS)

    async def _events(self, wanted: params.Changes, last: int) -> AsyncIterator[str]:
        after = last if wanted.after is None else wanted.after
        # Even before the first event the client learns its place, and comes back to it when it is cut off.
        yield f"retry: {RETRY_MS}\nid: {after}\n\n"
        until = None if wanted.wait is None else asyncio.get_running_loop().time() + wanted.wait
        with self.waiters.waiting():
            listening = self.feed.subscribe(after, heartbeat=lambda: self._patience(until))
            try:
                async with aclosing(listening):
                    async for news in listening:
                        yield _text(news, wanted, after)
                        after = news.until
                        over = until is not None and until <= asyncio.get_running_loop().time()
                        if over and news.until >= last:
                            return
            except LedgerError as error:
                # The client comes back by itself, and is told why if that lasts.
                log.error("stream ended", reason=error.reason, detail=error.detail)  # noqa: TRY400 - no bug of ours

    def _patience(self, until: float | None) -> float:
        if until is None:
            return self.heartbeat
        return min(self.heartbeat, max(until - asyncio.get_running_loop().time(), 0))


def _text(news: Batch, wanted: params.Changes, after: int) -> str:
    """What is new as events. The last id is told even where nothing is wanted, so that the place moves on."""
    events = [_event(change) for change in news.changes if wanted.takes(change.transition)]
    if news.gap is not None:
        events.insert(0, f"event: {GAP}\ndata: {json.dumps({'after': after, 'until': news.gap})}\n\n")
    if not news.changes or not events or news.changes[-1].transition.seq < news.until or not wanted.takes_all:
        events.append(f":\nid: {news.until}\n\n")
    return "".join(events)


def _event(change: Change) -> str:
    return f"id: {change.transition.seq}\nevent: {TRANSITION}\ndata: {change.json}\n\n"
