"""Limits on a connection that uvicorn does not set: idle time, the size of a head, an unread body."""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from receiver.core.headers import RawHeaders
from receiver.web.clients import UnfinishedBodies, client_of
from receiver.web.direct import Direct, Exchange, rendered
from receiver.web.problem import problem
from receiver.web.refusals import OnRefusal

WHOLE = "receiver.body_is_whole"
"""In the scope of a request, as soon as its body has come whole."""

HEAD_SECONDS = 10
"""From a new connection to the whole head of its first request."""

KEEP_ALIVE_SECONDS = 75
"""From an answer to the whole head of the next request: longer than common proxies keep a connection, because
one that is closed while a proxy uses it can cost a delivery."""

WRITE_SECONDS = 30
WRITE_BYTES = 16 * 1024
"""The least that a peer must take of an answer that waits for it, and in how many seconds."""

MAX_HEAD_BYTES = 64 * 1024
"""Of one request, all that is not its body: its head, the framing of its chunks, its trailers."""

MAX_HEADERS = 100
"""Of one request, its trailers included. A provider's has a dozen headers."""

MAX_PIPELINED = 16
"""Requests that may wait on a connection for the answer to another; hardly a client sends even one."""

REST_SECONDS = 1.0
"""How long the rest of a body may take for an answer past ASGI; many clients send head and body apart."""

UNREAD_BYTES = 16 * 1024 * 1024
UNREAD_SECONDS = 20
UNREAD_PAUSE_SECONDS = 1
"""How much of a body is read behind an early answer, for how long in all, and for how long if nothing comes.
A proxy whose connection ends while it still sends answers 502 or 504 instead of the receiver's own status."""


SHARE_OF_CLIENT = 0.5
"""Of all connections, those of one client that may be idle: beyond them, a new one ends the longest idle
one. A proxy is a client too, so this is more than common ones keep."""

PROVED_SHARE = 1.25
"""Of the limit on connections, what proved senders may fill: ended requests still count for a moment."""


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits on time and size.

    uvicorn alone waits without end for a first head, for the rest of any other, and for a peer to take its
    answer, and it gathers heads, trailers and pipelined requests of any size. As many idle connections as it
    accepts at all would keep every sender out: where there are that many, or half as many idle ones of one
    client, one is closed for a new one. Where all are taken, that is one whose request is unproved and whose
    body is not whole; else the longest idle one of the client with the most idle ones, which may have just
    been opened.

    A peer whose time is over is cut off by ``abort``, because ``close`` first waits until all is taken.

    An offered upgrade is declined: Java's HttpClient and ``curl --http2`` offer ``h2c`` with every first
    request, and httptools alone drops the body of such a request.
    """

    on_refusal: OnRefusal = staticmethod(lambda _: None)
    unfinished = UnfinishedBodies()
    head_seconds: float = HEAD_SECONDS
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    write_seconds: float = WRITE_SECONDS
    rest_seconds: float = REST_SECONDS
    idle_since: float | None = None
    _idle_until = 0.0
    _idle_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None
    client_name = ""
    direct: Mapping[bytes, Direct] = {}
    """What is answered past ASGI, by path, where the request comes in one piece."""
    _head_bytes = 0
    _body_expected = False
    _head_too_large = False
    _parts: list[bytes] | None = None
    """What has come of the body of a request that is answered past ASGI if the rest comes in one more."""
    _rest_timer: asyncio.TimerHandle | None = None
    _cycles: deque[RequestResponseCycle | Exchange]
    """The requests without a whole answer, oldest first."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Begin to wait for the first head."""
        self._cycles = deque()
        super().connection_made(transport)
        self.client_name = client_of(self.peer, (), ())
        self._expect_head_within(self.head_seconds)
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self.unfinished.discard(self)
        for timer in (self._idle_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._disconnect_cycles()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count all bytes; `on_body` takes those of the body off again."""
        self._head_bytes += len(data)
        try:
            self._parse(data)
        except HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("")
            return
        if self._rest_timer is not None:
            self._leave_to_asgi()
        elif self._parts is not None and not self.transport.is_closing():
            self._rest_timer = self.loop.call_later(self.rest_seconds, self._leave_to_asgi)
        if self._body_expected:
            self._body_expected = False
            self.unfinished.add(self, self.peer, self.headers)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._head_too_large = True
            self.send_400_response("")

    def on_body(self, body: bytes) -> None:
        """Leave the size of a body to the route."""
        # Not below zero: where requests follow each other at once, some of this was not counted here.
        self._head_bytes = max(self._head_bytes - len(body), 0)
        if self._parts is not None:
            self._parts.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Begin to count the next request."""
        if self._offers_upgrade():
            return
        self._head_bytes = 0
        self._body_expected = False
        if self._parts is not None:
            self._start_direct(b"".join(self._taken_parts()))
            return
        self.scope[WHOLE] = True  # type: ignore[literal-required] # a key of ours
        self.unfinished.discard(self)
        super().on_message_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Refuse one header too many; the parser makes a 400 of the error."""
        name = name.lower()
        if name == b"expect":
            super().on_header(name, value)
        else:
            self.headers.append((name, value))  # as uvicorn does
        if len(self.headers) > MAX_HEADERS:
            self._head_too_large = True
            raise ValueError("too many headers")

    def on_headers_complete(self) -> None:
        """Wait for no head: how long a body may take is up to the route."""
        if self._offers_upgrade():
            return
        self.idle_since = None
        if self._may_be_direct():
            self._parts = []
        else:
            self._begin_cycle()
        self._body_expected = True

    def _taken_parts(self) -> list[bytes]:
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None
        parts, self._parts = self._parts or [], None
        return parts

    def _leave_to_asgi(self) -> None:
        """Begin the request as usual that waits for the rest of its body, if there is one."""
        if self._parts is not None:
            parts = self._taken_parts()
            self._begin_cycle()
            for part in parts:
                super().on_body(part)

    def _begin_cycle(self) -> None:
        limit = self.limit_concurrency
        if self._is_full() and limit is not None and self.unfinished.is_proved(self.headers):
            self.limit_concurrency = int(limit * PROVED_SHARE)
        super().on_headers_complete()
        self.limit_concurrency = limit
        self._cycles.append(self.cycle)
        if len(self._cycles) > 1 + MAX_PIPELINED:
            raise ValueError("too many requests at once")

    def _is_full(self) -> bool:
        limit = self.limit_concurrency
        return limit is not None and max(len(self.connections), len(self.tasks)) >= limit

    def _may_be_direct(self) -> bool:
        """Return whether a head is a plain one, on a connection where no other request is under way."""
        return (
            self.url in self.direct
            and not self._cycles
            and not self.expect_100_continue
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self._is_full()
        )

    def _start_direct(self, body: bytes) -> None:
        exchange = Exchange()
        self.cycle = exchange  # type: ignore[assignment]
        self._cycles.append(exchange)
        answering = self._answer_directly(exchange, self.direct[self.url], self.headers, body)
        task = self.loop.create_task(answering)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _answer_directly(
        self, exchange: Exchange, direct: Direct, headers: RawHeaders, body: bytes
    ) -> None:
        answer: bytes | Response
        try:
            answer = await direct(headers, body)
        except asyncio.CancelledError:
            answer = problem("ledger.stopping")  # as `AnswerCancelled` does
        except Exception:  # a bug: what follows is what uvicorn does
            self.logger.exception("Exception in ASGI application\n")
            answer = Response("Internal Server Error", 500, media_type="text/plain")
            exchange.keep_alive = False
        if self.flow.write_paused and not exchange.disconnected:
            await self.flow.drain()
        if exchange.disconnected:
            return
        more = self.server_state.default_headers
        if not exchange.keep_alive:
            more = [*more, (b"connection", b"close")]
        self.transport.write(rendered(answer, more))
        exchange.response_complete = True
        if not exchange.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def shutdown(self) -> None:
        """Let a request under way be answered, and close the connection."""
        self._leave_to_asgi()
        super().shutdown()

    def end(self) -> None:
        """Cut the peer off, and count the connection no more."""
        self.connections.discard(self)  # at once, since uvicorn counts them before it is gone
        self.transport.abort()

    def _parse(self, data: bytes) -> None:
        """Parse data; a request that offers an upgrade once more without the offer.

        The connection ends behind the answer to such a request.
        """
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            method, version = self.parser.get_method(), self.parser.get_http_version()
            if method == b"CONNECT":
                self._unsupported_upgrade_warning()
                return
            lines = [b"%s %s HTTP/%s" % (method, self.url, version.encode()), b"connection: close"]
            lines += [b"%s: %s" % it for it in self.headers if it[0] not in (b"connection", b"upgrade")]
            self.parser = HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
            self._parse(b"\r\n".join([*lines, b"", data[upgrade.args[0] :]]))

    def on_response_complete(self) -> None:
        """Begin to wait for the next head, unless it is there already."""
        self._cycles.popleft()
        if self._cycles or self.transport.is_closing():
            super().on_response_complete()
        else:  # the same without uvicorn's own timer
            self.server_state.total_requests += 1
            self.flow.resume_reading()
        if not self._cycles:
            self._expect_head_within(self.keep_alive_seconds)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own form of it
        """Answer a head that cannot be taken, in the form of every refusal."""
        reason = "body.head_too_large" if self._head_too_large else "body.bad_request"
        self.on_refusal(reason)
        self._disconnect_cycles()
        self.transport.write(rendered(problem(reason), [(b"connection", b"close")]))
        self._expect_head_within(self.write_seconds)
        self.transport.close()

    def pause_writing(self) -> None:
        """Begin to watch whether the peer takes its answer."""
        super().pause_writing()
        self._expect_buffer_below(self.transport.get_write_buffer_size() - WRITE_BYTES)

    def resume_writing(self) -> None:
        """Stop watching: the peer takes its answer."""
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().resume_writing()

    def _offers_upgrade(self) -> bool:
        """Return whether a head asks for another protocol; CONNECT, which does too, is left to the routes."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _disconnect_cycles(self) -> None:
        """End every request under way; uvicorn alone ends the last of them, and too late."""
        self._leave_to_asgi()
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()

    @property
    def peer(self) -> str:
        return self.client[0] if self.client else ""

    def _make_room(self) -> None:
        limit = self.config.limit_concurrency
        if limit is None or len(self.connections) <= limit * SHARE_OF_CLIENT:
            return
        full = len(self.connections) >= limit
        if full and self.unfinished.end_one():
            return
        idle = [
            other
            for other in self.connections
            if isinstance(other, LimitedProtocol) and other is not self and other.idle_since is not None
        ]
        of_client = Counter(other.client_name for other in idle)
        if not full:  # one that listens, or whose request is being answered, is not idle
            if of_client[self.client_name] < limit * SHARE_OF_CLIENT:
                return
            idle = [other for other in idle if other.client_name == self.client_name]
        if idle:
            min(idle, key=lambda other: (-of_client[other.client_name], other.idle_since or 0.0)).end()

    def _expect_buffer_below(self, limit: int) -> None:
        def check() -> None:
            left = self.transport.get_write_buffer_size()
            if left > limit:
                self.transport.abort()
            else:
                self._expect_buffer_below(left - WRITE_BYTES)

        self._write_timer = self.loop.call_later(self.write_seconds, check)

    def _expect_head_within(self, seconds: float) -> None:
        """Cut the peer off after this time, unless `idle_since` becomes ``None`` first.

        A timer that ends earlier is left to run, and then looks again: a new one for each request costs more.
        """
        self.idle_since = self.loop.time()
        self._idle_until = self.idle_since + seconds
        if self._idle_timer is not None and self._idle_timer.when() > self._idle_until:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_at(self._idle_until, self._end_if_idle)

    def _end_if_idle(self) -> None:
        self._idle_timer = None
        if self.idle_since is None:
            return
        if self.loop.time() >= self._idle_until:
            self.transport.abort()
        else:
            self._idle_timer = self.loop.call_at(self._idle_until, self._end_if_idle)


def limited_protocol(
    on_refusal: OnRefusal, unfinished: UnfinishedBodies, direct: Mapping[bytes, Direct]
) -> type[LimitedProtocol]:
    """Return the protocol with what its objects share; uvicorn takes a class, and makes them itself."""
    shared = {"on_refusal": staticmethod(on_refusal), "unfinished": unfinished, "direct": direct}
    return type("LimitedProtocol", (LimitedProtocol,), shared)


@dataclass(frozen=True, slots=True)
class AnswerCancelled:
    """Answers a request that a stop cancels, such as one whose body does not come, with a 503.

    uvicorn cancels what is still under way when its grace period ends, and alone would answer a bare 500.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError as cancelled:
            # Not raised again: nothing else waits for this task, and uvicorn would log it as a bug.
            try:
                await problem("ledger.stopping")(scope, receive, send)
            except RuntimeError:  # uvicorn's: the answer has begun
                raise cancelled from None


@dataclass(frozen=True, slots=True)
class CloseUnread:
    """Ends the connection behind an answer that comes before the request's body is whole (RFC 9112, 9.3).

    Before that it reads on, up to a bound: a proxy or client that still sends when the connection ends may
    never read the answer. uvicorn alone would read on and drop what comes, for as long as the sender likes.

    Attributes:
        max_bytes: of a body, its first part included.
        max_seconds: from the answer to the end.
        max_pause: seconds in which nothing comes.
    """

    app: ASGIApp
    max_bytes: int = UNREAD_BYTES
    max_seconds: float = UNREAD_SECONDS
    max_pause: float = UNREAD_PAUSE_SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if WHOLE in scope:
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        unread = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        left = self.max_bytes
        closing = False

        async def receive_and_note() -> Message:
            nonlocal unread, left
            message = await receive()
            unread = message.get("more_body", False)
            left -= len(message.get("body", b""))
            return message

        async def read_on() -> None:
            # A stop cancels it; the answer is out, and the connection ends in order.
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(self.max_seconds):
                    while unread and left > 0:
                        await asyncio.wait_for(receive_and_note(), self.max_pause)

        async def send_and_close(message: Message) -> None:
            nonlocal closing
            if unread and message["type"] == "http.response.start":
                closing = True
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            if closing and message["type"] == "http.response.body" and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await read_on()
                message = {"type": "http.response.body"}
            await send(message)

        await self.app(scope, receive_and_note, send_and_close)
