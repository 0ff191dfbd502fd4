"""What uvicorn leaves open on a connection: its silence, the size of a head, the rest of an unread body."""

import asyncio
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from receiver.problem import problem

HEAD_SECONDS = 10
"""How long a new connection may take to bring the head of its first request."""

KEEP_ALIVE_SECONDS = 75
"""From an answer to the whole head of the next request: longer than common proxies keep a connection, because
one that is closed under a proxy's hands can cost a delivery."""


MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
"""Of one request, its trailers included. A provider's has a dozen headers."""


class ImpatientProtocol(HttpToolsProtocol):
    """uvicorn's parser, but it takes no head that is too long, or too long in coming.

    uvicorn alone waits for ever for a first head, and for the rest of any other. So many connections as it
    takes at all, opened and left alone, would keep every sender out. And it gathers a head of any size.
    """

    head_seconds: float = HEAD_SECONDS
    idle_seconds: float = KEEP_ALIVE_SECONDS
    _patience: asyncio.TimerHandle | None = None
    _in_head = True
    _head_bytes = 0
    _head_too_large = False

    def data_received(self, data: bytes) -> None:
        """Counts what an unfinished head has brought."""
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._head_too_large = True
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Refuses one header too many; the parser makes a 400 of the error."""
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._head_too_large = True
            raise ValueError("too many headers")

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own form of it
        """Answers a head that cannot be taken, in the form of every refusal."""
        refusal = problem("body.head_too_large" if self._head_too_large else "body.bad_request")
        phrase = HTTPStatus(refusal.status_code).phrase
        head = [f"HTTP/1.1 {refusal.status_code} {phrase}".encode()]
        head += [name + b": " + value for name, value in refusal.raw_headers]
        self.transport.write(b"\r\n".join([*head, b"connection: close", b"", bytes(refusal.body)]))
        self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Waits for the first head."""
        super().connection_made(transport)
        self._wait(self.head_seconds)

    def on_headers_complete(self) -> None:
        """Waits no longer: how long a body may take is the affair of who reads it."""
        self._wait(None)
        self._in_head = False
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Waits for the next head, unless it is there already."""
        super().on_response_complete()
        if self.cycle.response_complete:
            self._wait(self.idle_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no longer."""
        self._wait(None)
        super().connection_lost(exc)

    def _wait(self, seconds: float | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None if seconds is None else self.loop.call_later(seconds, self.transport.close)


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
