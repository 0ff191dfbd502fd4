"""A network backend of httpcore over non-blocking sockets, which threads can read as well.

The one over AnyIO takes three times as long for a read. A transport of asyncio reads ahead, and its TLS can
be handed to no thread.
"""

import asyncio
import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import httpcore

_T = TypeVar("_T")

_READ = 256 * 1024

_GATHER_SECONDS = 0.002
"""For which a thread lets more bytes come than the first: a line of 1 Gbit/s brings 250 KB, and else a few KB
would be taken at a time."""

_TLS_READ = 64 * 1024
_TLS_WINDOW = 128 * 1024
"""Encrypted bytes of which three quarters must be data, or the handshake be done. Else a host could keep the
event loop busy with tickets or with records of one byte, and no delivery would be acknowledged meanwhile."""

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantWriteError)


class AsyncioBackend(httpcore.AsyncNetworkBackend):
    """Opens TCP connections on one event loop. Unix sockets stay refused, the interface's default."""

    def __init__(self) -> None:
        # Takes what the event loop reads of any connection, and is copied at once.
        self._buffer = memoryview(bytearray(_READ))

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,  # noqa: ARG002 - as above
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002 - as above
    ) -> httpcore.AsyncNetworkStream:
        """Raise `httpcore.ConnectError` or `httpcore.ConnectTimeout` where the address does not answer."""
        with contextlib.ExitStack() as failed:
            try:
                # It fails where the system has no IPv6, and without a free descriptor.
                connection = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
                failed.callback(connection.close)  # if it is cancelled, too
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                async with asyncio.timeout(timeout):
                    await asyncio.get_running_loop().sock_connect(connection, (host, port))
            except TimeoutError as exc:
                raise httpcore.ConnectTimeout from exc
            except OSError as exc:
                raise httpcore.ConnectError(str(exc)) from exc
            failed.pop_all()
        return SocketStream(connection, self._buffer)


class SocketStream(httpcore.AsyncNetworkStream):
    """A connection that one task or thread at a time reads, and to which a task writes."""

    def __init__(self, connection: socket.socket, buffer: memoryview) -> None:
        self._socket = connection
        self._buffer = buffer
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._unsent = b""
        self._encrypted = self._decrypted = 0
        self._end: Exception | None = None
        self._lock = threading.Lock()
        self._wanted = select.POLLIN

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        buffer = self._buffer[:max_bytes]
        try:
            return await self._when_ready(lambda: bytes(buffer[: self._receive(buffer)]), timeout)
        except TimeoutError as exc:
            raise httpcore.ReadTimeout from exc
        except OSError as exc:
            raise httpcore.ReadError(str(exc)) from exc

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's
        try:
            (self._tls or self._outgoing).write(buffer)
            await self._when_ready(self._flush, timeout)
        except TimeoutError as exc:
            raise httpcore.WriteTimeout from exc
        except OSError as exc:
            raise httpcore.WriteError(str(exc)) from exc

    async def aclose(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # it ends the wait of a thread
        with self._lock:
            self._end = EOFError()
            self._socket.close()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
    ) -> httpcore.AsyncNetworkStream:
        try:
            self._tls = ssl_context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
            handshake = self._tls.do_handshake
            await self._when_ready(lambda: self._over_tls(handshake), timeout)
            await self._when_ready(self._flush, timeout)
            self._encrypted = 0
        except BaseException as exc:
            self._socket.close()  # if it was cancelled, too
            if isinstance(exc, TimeoutError):
                raise httpcore.ConnectTimeout from exc
            if isinstance(exc, OSError | ValueError):  # of SSL, and a name that no certificate can prove
                raise httpcore.ConnectError(str(exc)) from exc
            raise
        return self

    def get_extra_info(self, info: str) -> Any:
        if info != "is_readable":
            return None
        try:
            # TLS may read what is no data. If it is data, the connection is used no more.
            self._receive(self._buffer[:1])
        except _WOULD_BLOCK:
            return False
        except (OSError, httpcore.RemoteProtocolError):
            pass
        return True

    # Called in a thread, which `aclose` stops.

    def receive(self, buffer: memoryview) -> int | None:
        """Return how many bytes have come, 0 at the end, or None: then `wait`. Raise `httpcore.ReadError`."""
        with self._lock:
            try:
                return self._receive(buffer)
            except _WOULD_BLOCK:
                return None
            except OSError as exc:
                raise httpcore.ReadError(str(exc)) from exc

    def wait(self, seconds: float) -> None:
        """Wait until more has come, or so many seconds. Raise `httpcore.ReadTimeout`."""
        with self._lock:  # nobody else gets the socket's number meanwhile
            if self._end is None:
                poll = select.poll()
                poll.register(self._socket, self._wanted)
                if seconds <= 0 or not poll.poll(seconds * 1000):
                    raise httpcore.ReadTimeout
        time.sleep(_GATHER_SECONDS)

    def _receive(self, buffer: memoryview) -> int:
        """Fill a buffer with what has come; TLS gives one record of 16 KiB at a time."""
        size = 0
        try:
            while size < len(buffer) and self._end is None:
                received = self._receive_once(buffer[size:])
                if not received:
                    self._end = EOFError()
                size += received
        except _WOULD_BLOCK as exc:
            self._wanted = select.POLLOUT if isinstance(exc, ssl.SSLWantWriteError) else select.POLLIN
            if not size:
                raise
        except OSError as exc:
            # It is raised once the bytes before it are taken. Many hosts end TCP without ending TLS.
            self._end = EOFError() if isinstance(exc, ssl.SSLEOFError) else exc
        if not size and isinstance(self._end, OSError):
            raise self._end
        return size

    def _receive_once(self, buffer: memoryview) -> int:
        if self._tls is None:
            return self._socket.recv_into(buffer)
        # It returns a number where a buffer is given, any that can be written to.
        size = self._over_tls(cast("Callable[..., int]", self._tls.read), len(buffer), buffer)
        self._decrypted += size
        return size

    def _over_tls(self, operation: Callable[..., _T], *args: object) -> _T:
        """Give TLS what comes until an operation of it is done. Its own reads of the socket have no bound."""
        while True:
            try:
                return operation(*args)
            except ssl.SSLWantReadError:
                self._flush()  # such as the answer to a key update
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()  # the alert
                raise
            if self._encrypted >= _TLS_WINDOW:
                if self._decrypted < self._encrypted * 3 // 4:
                    raise httpcore.RemoteProtocolError("TLS carries hardly any data")
                self._encrypted = self._decrypted = 0
            if data := self._socket.recv(_TLS_READ):
                self._encrypted += self._incoming.write(data)
            else:
                self._incoming.write_eof()

    def _flush(self) -> None:
        """Send what waits to be sent."""
        self._unsent += self._outgoing.read()
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError as exc:
            raise ssl.SSLWantWriteError from exc

    async def _when_ready(self, operation: Callable[[], _T], seconds: float | None) -> _T:
        """Repeat an operation of the socket until it need not wait. Raise `OSError` or `TimeoutError`."""
        loop = asyncio.get_running_loop()
        end = None if seconds is None else loop.time() + seconds
        while True:
            try:
                return operation()
            except _WOULD_BLOCK as exc:
                writes = isinstance(exc, ssl.SSLWantWriteError)
            add, remove = (
                (loop.add_writer, loop.remove_writer) if writes else (loop.add_reader, loop.remove_reader)
            )
            ready = asyncio.Event()
            add(self._socket, ready.set)
            try:
                async with asyncio.timeout_at(end):
                    await ready.wait()
            finally:
                remove(self._socket)
