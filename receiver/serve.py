"""Serves a receiver over HTTP until it is told to stop."""

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Mapping

import structlog
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from receiver.app import check, open_receiver
from receiver.config import Config
from receiver.cuts import Cut, from_environment
from receiver.ledger import SAFE_SQLITE

log = structlog.get_logger("receiver.serve")

DRAIN_SECONDS = 3
"""How long requests under way may go on after SIGTERM; the worker's own grace comes on top."""

STOP_SECONDS = 9
"""How long a stop may take altogether; those who stop processes commonly wait for 10."""

MAX_CONNECTIONS = 2_000

HEAD_SECONDS = 10
"""How long a new connection may take to bring the head of its first request."""

KEEP_ALIVE_SECONDS = 30
"""How long a connection may take from an answer to the whole head of its next request."""


class _Server(uvicorn.Server):
    """uvicorn, but it says when it takes connections, and leaves signals alone.

    uvicorn raises the signals that it caught again at its end, and the process would die of them.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[int], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen, then tells the port."""
        await super().startup(sockets)
        if self.started:
            self._ready(self.servers[0].sockets[0].getsockname()[1])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `serve`."""
        yield


class ImpatientProtocol(HttpToolsProtocol):
    """uvicorn's parser, but it closes connections that bring no whole head of a request in their time.

    uvicorn alone waits for ever for a first head, and for the rest of any other. So many connections as it
    takes at all, opened and left alone, would keep every sender out.
    """

    head_seconds: float = HEAD_SECONDS
    idle_seconds: float = KEEP_ALIVE_SECONDS
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Waits for the first head."""
        super().connection_made(transport)
        self._wait(self.head_seconds)

    def on_headers_complete(self) -> None:
        """Waits no longer: how long a body may take is the affair of who reads it."""
        self._wait(None)
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


def serve(config: Config, environ: Mapping[str, str], *, ready: Callable[[str], None]) -> None:
    """Opens the receiver and serves until SIGTERM or SIGINT; then drains and returns.

    Args:
        config: the settings.
        environ: where the AWS SDK's variables are looked up.
        ready: called with the address once deliveries are accepted.

    Raises:
        ConfigError: a setting is wrong.
        ReceiverError: the ledger or the spool cannot be used.
        OSError: the address cannot be listened on.
    """
    config.check_serve()
    check(config)
    cut = from_environment(environ)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(config, environ, cut, ready))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - not to be had on Windows

    return uvloop.new_event_loop


async def _serve(config: Config, environ: Mapping[str, str], cut: Cut, ready: Callable[[str], None]) -> None:
    os.umask(0o077)  # whatever is made here is the owner's alone
    loop = asyncio.get_running_loop()

    def announce(port: int) -> None:
        address = f"http://{f'[{config.host}]' if ':' in config.host else config.host}:{port}"
        log.info("serving", address=address)
        ready(address)

    async with open_receiver(config, environ, cut) as receiver:
        _say_what_is_amiss(config)
        server = _Server(
            uvicorn.Config(
                CloseUnread(receiver.app),
                host=config.host,
                port=config.port,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=True,
                proxy_headers=False,
                http=ImpatientProtocol,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            ),
            announce,
        )

        def stop() -> None:
            log.info("stopping")
            receiver.stopping.set()
            server.should_exit = True
            _leave_after(STOP_SECONDS)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        await server.serve()
    log.info("stopped")


def _say_what_is_amiss(config: Config) -> None:
    for name in config.unknown:
        log.warning("setting unknown", setting=name)
    if config.ximilar_api_token is None:
        log.warning(
            "XIMILAR_API_TOKEN is not set: nothing is asked of the provider, missed webhooks stay missed"
        )
    if sqlite3.sqlite_version_info < SAFE_SQLITE:
        log.warning(
            "SQLite is older than the version that is free of the WAL-reset fault",
            found=sqlite3.sqlite_version,
            wanted=".".join(map(str, SAFE_SQLITE)),
        )


def _leave_after(seconds: float) -> None:
    """Ends the process if it is still there by then.

    A thread that waits for an archive which does not answer can be neither cancelled nor left behind. What
    was acknowledged is on the disk by then, as it would be if the process were killed.
    """

    def leave() -> None:
        log.warning("still not stopped; leaving all the same", seconds=seconds)
        os._exit(0)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
