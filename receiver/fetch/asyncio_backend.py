"""A network backend of httpcore over asyncio's own transports.

The one over AnyIO takes three times as long for a read.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable
from typing import Any, cast

import httpcore

_READ_AHEAD = 256 * 1024
"""Bytes that wait to be read before the peer is no longer listened to."""


class AsyncioBackend(httpcore.AsyncNetworkBackend):
    """Opens TCP connections on one event loop. Unix sockets stay refused, the interface's default."""

    def __init__(self) -> None:
        # Takes what comes on any connection, and is copied at once. The event loop would else allocate 256
        # KiB for each TLS record of 16.
        self._buffer = memoryview(bytearray(_READ_AHEAD))

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,  # noqa: ARG002 - as above
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002 - as above
    ) -> httpcore.AsyncNetworkStream:
        """Raise `httpcore.ConnectError` or `httpcore.ConnectTimeout` where the address does not answer."""
        try:
            async with asyncio.timeout(timeout):
                _, stream = await asyncio.get_running_loop().create_connection(
                    lambda: _Stream(self._buffer), host, port
                )
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout from exc
        except OSError as exc:
            raise httpcore.ConnectError(str(exc)) from exc
        return stream


class _Stream(asyncio.BufferedProtocol, httpcore.AsyncNetworkStream):
    """A connection that one task at a time reads, and to which it writes no more than a request."""

    def __init__(self, buffer: memoryview) -> None:
        self._transport: asyncio.Transport
        self._buffer = buffer
        self._received: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's interface
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._received.append(bytes(self._buffer[:nbytes]))
        self._size += nbytes
        if self._size >= _READ_AHEAD:
            self._transport.pause_reading()
        self._changed.set()

    def eof_received(self) -> None:
        self._ended = True
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._error = exc
        self._changed.set()

    # Called by httpcore's users.

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        if not self._received and not self._ended:
            self._changed.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
            except TimeoutError as exc:
                raise httpcore.ReadTimeout from exc
        if not self._received:
            if self._error is not None:
                raise httpcore.ReadError(str(self._error)) from self._error
            return b""
        data = self._received.popleft()
        if len(data) > max_bytes:
            self._received.appendleft(data[max_bytes:])
            data = data[:max_bytes]
        if self._size >= _READ_AHEAD > self._size - len(data):
            self._transport.resume_reading()
        self._size -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002, ASYNC109 - httpcore's
        """Hand a short request to the transport, which takes it whole."""
        self._transport.write(buffer)

    async def aclose(self) -> None:
        self._transport.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                transport = await asyncio.get_running_loop().start_tls(
                    self._transport, self, ssl_context, server_hostname=server_hostname
                )
        except BaseException as exc:
            self._transport.abort()  # if it was cancelled, too
            if isinstance(exc, TimeoutError):
                raise httpcore.ConnectTimeout from exc
            if isinstance(exc, OSError | ValueError):  # of SSL, and a name that no certificate can prove
                raise httpcore.ConnectError(str(exc)) from exc
            raise
        if transport is None:
            raise httpcore.ConnectError("the connection ended during the handshake")
        # Of what waits encrypted while nobody reads, the event loop would else hold four times as much.
        cast("Any", transport).set_read_buffer_limits(_READ_AHEAD // 4)
        self._transport = transport
        return self

    def get_extra_info(self, info: str) -> Any:
        return bool(self._received) or self._ended if info == "is_readable" else None
