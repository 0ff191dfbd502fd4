"""``GET /jobs/changes``: the transitions of all jobs as server-sent events (HTML Standard, 9.2).

sse-starlette does not fit. To learn of a stop it replaces a method of uvicorn's server class for the whole
process, or searches the signal handlers for the server, and `receiver serve` sets both itself; and it runs
three tasks for each client.
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
from receiver.events.feed import Batch, Feed
from receiver.ledger import Ledger
from receiver.web.waiter_limit import WaiterLimit

log = structlog.get_logger("receiver.stream")

HEARTBEAT_SECONDS = 15.0
"""The longest silence. Proxies end connections that are idle for a minute, some earlier."""

RETRY_MS = 2_000
"""How long a client is asked to wait before it reconnects."""

TRANSITION, GAP = "transition", "gap"
"""The types of events: a job's transition; history that the client had not seen was removed."""

HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # or nginx would hold events back until they fill a buffer
}


class _EventStream(StreamingResponse):
    """Closes its generator with the connection, not at the next garbage collection."""

    media_type = "text/event-stream"

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self.body_iterator):  # type: ignore[type-var] # it is given a generator below
            await super().stream_response(send)


@dataclass(frozen=True, slots=True)
class ChangeStream:
    """The route; ``heartbeat`` is the longest silence in seconds."""

    ledger: Ledger
    feed: Feed
    waiters: WaiterLimit
    heartbeat: float = HEARTBEAT_SECONDS

    def route(self) -> Route:
        return Route("/jobs/changes", self.changes, methods=["GET"])

    async def changes(self, request: Request) -> Response:
        wanted = params.changes(request.query_params, request.headers.getlist("last-event-id"))
        last = await self.ledger.last_history_seq()
        if wanted.after is not None and wanted.after > last:
            raise BodyError(
                "body.invalid_query",
                f"{wanted.after_source} is {wanted.after}, ahead of the ledger, whose last line is {last}.",
            )
        self.waiters.check()
        if request.method == "HEAD":
            return Response(media_type=_EventStream.media_type, headers=HEADERS)
        return _EventStream(self._events(wanted, last), headers=HEADERS)

    async def _events(self, wanted: params.Changes, last: int) -> AsyncIterator[str]:
        after = last if wanted.after is None else wanted.after
        # The client learns its position before the first event, and returns to it when it is cut off.
        yield f"retry: {RETRY_MS}\nid: {after}\n\n"
        until = None if wanted.wait is None else asyncio.get_running_loop().time() + wanted.wait
        with self.waiters.waiting():
            batches = self.feed.subscribe(after, heartbeat=lambda: self._heartbeat_within(until))
            try:
                async with aclosing(batches):
                    async for batch in batches:
                        yield _rendered(batch, wanted, after)
                        after = batch.until
                        over = until is not None and until <= asyncio.get_running_loop().time()
                        if over and batch.until >= last:
                            return
            except LedgerError as error:
                # The client reconnects by itself, and gets a 503 with the reason if that lasts.
                log.error("stream ended", reason=error.reason, detail=error.detail)  # noqa: TRY400 - not a bug

    def _heartbeat_within(self, until: float | None) -> float:
        if until is None:
            return self.heartbeat
        return min(self.heartbeat, max(until - asyncio.get_running_loop().time(), 0))


def _rendered(batch: Batch, wanted: params.Changes, after: int) -> str:
    """Return the wanted transitions as events. The last id is sent anyway, so that the position moves."""
    sent = [change for change in batch.changes if wanted.takes(change.transition)]
    events = [f"id: {it.transition.seq}\nevent: {TRANSITION}\ndata: {it.json}\n\n" for it in sent]
    if batch.gap is not None:
        events.insert(0, f"event: {GAP}\ndata: {json.dumps({'after': after, 'until': batch.gap})}\n\n")
    if not sent or sent[-1].transition.seq < batch.until:
        events.append(f":\nid: {batch.until}\n\n")
    return "".join(events)
