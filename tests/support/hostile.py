"""Hostile HTTP servers on loopback, and a network backend that shows what was really dialled."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

import httpcore

from receiver.fetch.asyncio_backend import AsyncioBackend


@dataclass
class Peer:
    """One accepted connection, as the hostile side sees it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    sent: int = 0

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()
        self.sent += len(data)

    async def send_forever(self, data: bytes) -> None:
        while True:
            await self.send(data)

    async def drip(self, data: Iterable[bytes]) -> None:
        for piece in data:
            await self.send(piece)
            await asyncio.sleep(0.002)

    async def stall(self) -> None:
        await asyncio.Event().wait()


Behaviour = Callable[[Peer], Awaitable[None]]


@dataclass
class Server:
    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    """The request heads that came, one for each connection that sent one."""
    peers: list[Peer] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@contextlib.asynccontextmanager
async def serve(
    behaviour: Behaviour, *, context: ssl.SSLContext | None = None, waits_for_head: bool = True
) -> AsyncIterator[Server]:
    """A server that answers each connection by ``behaviour``, and closes it when that returns."""
    server = Server()
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        peer = Peer(reader, writer)
        server.peers.append(peer)
        try:
            # The client hangs up whenever it has seen enough; a hostile server does not mind.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                if waits_for_head:
                    server.heads.append(await reader.readuntil(b"\r\n\r\n"))
                await behaviour(peer)
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
            tasks.discard(task)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()


def says(*pieces: bytes) -> Behaviour:
    """Sends these bytes and closes."""

    async def behave(peer: Peer) -> None:
        for piece in pieces:
            await peer.send(piece)

    return behave


def answer(body: bytes = b"", *headers: str, status: int = 200, length: int | None = None) -> bytes:
    """A whole HTTP/1.1 answer with a Content-Length, or a lie in its place."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    return answer(b"", f"Location: {location}", status=status)


class Recorder(httpcore.AsyncNetworkBackend):
    """Records each dial, and leads dials of (address, port) in ``routes`` to ports on loopback.

    An address without a route refuses the connection: nothing leaves this machine.
    """

    def __init__(self, routes: Mapping[tuple[str, int], int] | None = None) -> None:
        self.dialled: list[tuple[str, int]] = []
        self.timeouts: list[float | None] = []
        self._routes = dict(routes or {})
        self._inner = AsyncioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.dialled.append((host, port))
        self.timeouts.append(timeout)
        if (host, port) not in self._routes:
            raise httpcore.ConnectError("no route")
        return await self._inner.connect_tcp(
            "127.0.0.1", self._routes[host, port], timeout, local_address, socket_options
        )
