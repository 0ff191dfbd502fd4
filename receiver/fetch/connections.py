"""Connections to the hosts of images. Some are kept for the next image, since a new one costs handshakes."""

import asyncio
import ssl
from dataclasses import dataclass, field

from receiver.fetch.http1 import Connection
from receiver.fetch.network_guard import NetworkGuard
from receiver.fetch.sources import Target

MAX_IDLE = 32

IDLE_SECONDS = 4.0
"""Fewer than servers keep a connection, which most do for 5 or more."""


@dataclass(eq=False)
class Connections:
    """Opens connections through the guard, and keeps idle ones for ``idle_seconds``.

    A kept connection is no way around the guard: each time the name is resolved and its addresses are checked
    anew, and only a connection of the same scheme, host and port to one of these addresses is used.
    ``seconds`` are for TCP, and again for TLS.
    """

    guard: NetworkGuard
    ssl_context: ssl.SSLContext
    seconds: float
    idle_seconds: float = IDLE_SECONDS
    _idle: dict[Connection, asyncio.TimerHandle] = field(default_factory=dict, init=False)
    _closing: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.ssl_context.set_alpn_protocols(["http/1.1"])

    async def open(self, target: Target, *, fresh: bool = False) -> Connection:
        """Return a kept connection, unless a fresh one is needed; `release` must get it.

        Raise url.address, fetch.resolve or fetch.connect, and `httpcore.ConnectError` where TLS fails.
        """
        addresses = await self.guard.addresses(target.host, target.port, confined=bool(target.confined))
        for connection in [] if fresh else list(self._idle):
            if connection.origin == target.origin and connection.address in addresses:
                self._idle.pop(connection).cancel()
                if connection.reusable:
                    return connection
                await connection.aclose()
        stream, address = await self.guard.connect(target.host, target.port, addresses, self.seconds)
        if target.scheme == "https":
            stream = await stream.start_tls(self.ssl_context, target.host, self.seconds)
        return Connection(stream, target.origin, address)

    async def release(self, connection: Connection) -> None:
        """Keep a connection whose answer was read to its end, and close any other."""
        if not connection.reusable or len(self._idle) >= MAX_IDLE:
            await connection.aclose()
            return
        loop = asyncio.get_running_loop()
        self._idle[connection] = loop.call_later(self.idle_seconds, self._expire, connection)

    def _expire(self, connection: Connection) -> None:
        del self._idle[connection]
        task = asyncio.get_running_loop().create_task(connection.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        for connection in list(self._idle):
            self._idle[connection].cancel()
            self._expire(connection)
        await asyncio.gather(*self._closing)
