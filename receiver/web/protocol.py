"""What uvicorn leaves open on a connection: its silence, the size of a head, the rest of an unread body."""

import asyncio
from collections import deque
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from receiver.web.problem import problem
from receiver.web.refusals import Refused, untold

HEAD_SECONDS = 10
"""How long a new connection may take to bring the head of its first request."""

KEEP_ALIVE_SECONDS = 75
"""From an answer to the whole head of the next request: longer than common proxies keep a connection, because
one that is closed under a proxy's hands can cost a delivery."""

TAKE_SECONDS = 30
TAKE_BYTES = 16 * 1024
"""So much of an answer that waits for its peer must be taken in so many seconds."""

MAX_HEAD_BYTES = 64 * 1024
"""Of one request, all that is not its body: its head, the framing of its chunks, its trailers."""

MAX_HEADERS = 100
"""Of one request, its trailers included. A provider's has a dozen headers."""

MAX_WAITING = 16
"""Requests that may wait on a connection for the answer to another; hardly a client sends even one."""


class ImpatientProtocol(HttpToolsProtocol):
    """uvicorn's parser, but it takes no head that is too long, or too long in coming.

    And where there are as many connections as there may be, the one that has been silent the longest makes
    room for a new one: idle strangers shall not keep a sender out.

    uvicorn alone waits for ever for a first head, for the rest of any other, and for a peer to take its
    answer. So many connections as it takes at all, opened and left alone, would keep every sender out. And it
    gathers heads and trailers of any size, and any number of requests that are sent at once.

    Connections end by ``abort`` where a peer's time is over: ``close`` first waits until all is taken.
    """

    head_seconds: float = HEAD_SECONDS
    idle_seconds: float = KEEP_ALIVE_SECONDS
    refused: Refused = staticmethod(untold)
    take_seconds: float = TAKE_SECONDS
    _patience: asyncio.TimerHandle | None = None
    _untaken: asyncio.TimerHandle | None = None
    silent_since: float | None = None
    _head_bytes = 0
    _head_too_large = False
    _unanswered: deque[RequestResponseCycle]

    def data_received(self, data: bytes) -> None:
        """Counts what is no body."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._head_too_large = True
            self.send_400_response("")

    def on_body(self, body: bytes) -> None:
        """The size of a body is the affair of who reads it."""
        # Not below zero: where requests follow each other at once, some of this was not counted here.
        self._head_bytes = max(self._head_bytes - len(body), 0)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """What follows is another request."""
        self._head_bytes = 0
        super().on_message_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Refuses one header too many; the parser makes a 400 of the error."""
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._head_too_large = True
            raise ValueError("too many headers")

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own form of it
        """Answers a head that cannot be taken, in the form of every refusal."""
        reason = "body.head_too_large" if self._head_too_large else "body.bad_request"
        self.refused(reason)
        refusal = problem(reason)
        self._give_up()
        phrase = HTTPStatus(refusal.status_code).phrase
        head = [f"HTTP/1.1 {refusal.status_code} {phrase}".encode()]
        head += [name + b": " + value for name, value in refusal.raw_headers]
        self.transport.write(b"\r\n".join([*head, b"connection: close", b"", bytes(refusal.body)]))
        self._wait(self.take_seconds)
        self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Waits for the first head."""
        self._unanswered = deque()
        super().connection_made(transport)
        self._wait(self.head_seconds)
        self._make_room()

    def on_headers_complete(self) -> None:
        """Waits no longer: how long a body may take is the affair of who reads it."""
        self._wait(None)
        super().on_headers_complete()
        self._unanswered.append(self.cycle)
        if len(self._unanswered) > 1 + MAX_WAITING:
            raise ValueError("too many requests at once")

    def on_response_complete(self) -> None:
        """Waits for the next head, unless it is there already."""
        self._unanswered.popleft()
        super().on_response_complete()
        if not self._unanswered:
            self._wait(self.idle_seconds)

    def pause_writing(self) -> None:
        """The peer takes nothing more for now; it is not waited for without end."""
        super().pause_writing()
        self._expect_less(self.transport.get_write_buffer_size() - TAKE_BYTES)

    def resume_writing(self) -> None:
        """It does again."""
        self._is_taken()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no longer."""
        self._wait(None)
        self._is_taken()
        self._give_up()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        """Tells all who answer that nobody listens; uvicorn alone tells the last of them, and too late."""
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()

    def _make_room(self) -> None:
        most = self.config.limit_concurrency
        if most is None or len(self.connections) < most:
            return
        silent = [
            other
            for other in self.connections
            if isinstance(other, ImpatientProtocol) and other is not self and other.silent_since is not None
        ]
        if silent:
            longest = min(silent, key=lambda other: other.silent_since or 0.0)
            self.connections.discard(longest)  # at once, since uvicorn counts them before it is gone
            longest.transport.abort()

    def _expect_less(self, than: int) -> None:
        def look() -> None:
            left = self.transport.get_write_buffer_size()
            if left > than:
                self.transport.abort()
            else:
                self._expect_less(left - TAKE_BYTES)

        self._untaken = self.loop.call_later(self.take_seconds, look)

    def _is_taken(self) -> None:
        if self._untaken is not None:
            self._untaken.cancel()
            self._untaken = None

    def _wait(self, seconds: float | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self.silent_since = None if seconds is None else self.loop.time()
        self._patience = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


class AnswerStopped:
    """Answers a request that a stop cuts off, such as one whose body does not come, as any other refusal.

    uvicorn cancels what is still under way when its patience ends, and alone would answer with a bare 500.

    Args:
        app: what may be cut off.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on, and answers 503 in the place of what was cancelled before it answered."""
        begun = False

        async def answering(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, answering)
        except asyncio.CancelledError:
            if begun:
                raise
            # Not raised again: nothing else waits for this task, and uvicorn would log it as a bug.
            await problem("ledger.stopping")(scope, receive, send)


def telling(refused: Refused) -> type[ImpatientProtocol]:
    """The protocol, but it tells what it refuses; uvicorn makes its objects itself, and takes a class."""
    return type("TellingProtocol", (ImpatientProtocol,), {"refused": staticmethod(refused)})


class CloseUnread:
    """Ends the connection behind an answer that comes before the request's body is whole (RFC 9112, 9.3).

    uvicorn alone would read on and drop what comes, for as long as the sender likes.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on, and adds ``Connection: close`` where it is due."""
        headers = dict(scope["headers"])
        unread = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"

        async def reading() -> Message:
            nonlocal unread
            message = await receive()
            unread = message.get("more_body", False)
            return message

        async def answering(message: Message) -> None:
            if unread and message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._app(scope, reading, answering)
