"""Serves a receiver over HTTP until it is stopped."""

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack

import structlog
import uvicorn
import uvloop

from receiver.bootstrap.app import open_receiver
from receiver.bootstrap.factories import bind, check_settings
from receiver.bootstrap.secrets import weak_secrets
from receiver.config import Config
from receiver.core.failpoints import from_environment
from receiver.ledger.sqlite.schema import SAFE_SQLITE, unsafe_sqlite
from receiver.providers.base import Providers
from receiver.web.protocol import KEEP_ALIVE_SECONDS, AnswerCancelled, CloseUnread, limited_protocol

log = structlog.get_logger("receiver.serve")

DRAIN_SECONDS = 3
"""How long requests under way may go on after SIGTERM; the worker's own grace comes on top."""

STOP_SECONDS = 9
"""How long a stop may take altogether; service managers commonly wait for 10."""

MAX_CONNECTIONS = 2_000
"""Beyond these, idle ones are closed; where none is idle, uvicorn itself answers a plain 503."""

SHARE_OF_WAITERS = 0.6
"""Of the connections: clients that wait for changes must never keep a sender out."""

YOUNG_OBJECTS = 10_000
"""New objects between two garbage collections, instead of 700: a burst of deliveries makes thousands that all
live until their commit, and leaves no cycle behind."""


MALLOC_ARENAS = 2
"""Of glibc, which else gives each thread its own, up to 8 per core. Python's threads compute one at a time,
and what they free stays in their arenas: 10 MB."""
_M_ARENA_MAX = -8  # malloc.h


SWITCH_SECONDS = 0.001
"""How long a thread waits for the interpreter while another computes, instead of 5 ms: the ledger's thread
asks for it several times in each commit, and all who deliver wait for that."""


class _Server(uvicorn.Server):
    """uvicorn with a callback when it listens, and without signal handlers.

    uvicorn raises the signals that it caught again at its end, and the process would die of them.
    """

    def __init__(self, config: uvicorn.Config, on_listen: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listen = on_listen

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_listen()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(config: Config, environ: Mapping[str, str], *, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, with the arguments and errors of `serve_until`."""
    os.umask(0o077)  # whatever is made here is the owner's alone
    sys.setswitchinterval(SWITCH_SECONDS)
    limit_malloc_arenas()
    stopping = asyncio.Event()

    def stop() -> None:
        stopping.set()
        timer = threading.Timer(STOP_SECONDS, _exit_now)
        timer.daemon = True
        timer.start()

    def on_open() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        freeze_startup_objects()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_until(stopping, config, environ, on_open=on_open, on_ready=on_ready))


async def serve_until(
    stopping: asyncio.Event,
    config: Config,
    environ: Mapping[str, str],
    *,
    on_open: Callable[[], None] = lambda: None,
    on_ready: Callable[[str], None],
) -> None:
    """Serve until the event is set; then drain and return. The process itself is left as it is.

    The event is set on the running event loop. In ``environ`` the AWS SDK's variables are looked up.
    ``on_open`` is called once the receiver is open, before it listens; ``on_ready`` with the address once
    deliveries are accepted. Raise `ConfigError` for a wrong setting, `ReceiverError` if the ledger or the
    spool cannot be used.
    """
    config.check_serve()
    check_settings(config, environ)
    failpoint = from_environment(environ)

    def announce() -> None:
        port = listener.getsockname()[1]
        address = f"http://{f'[{config.host}]' if ':' in config.host else config.host}:{port}"
        log.info("serving", address=address)
        on_ready(address)

    connections = _max_connections()
    max_waiters = int(connections * SHARE_OF_WAITERS)
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(bind(config))
        receiver = await stack.enter_async_context(
            open_receiver(config, environ, failpoint, max_waiters=max_waiters)
        )
        _log_settings(config, receiver.providers)
        server = _Server(
            uvicorn.Config(
                AnswerCancelled(CloseUnread(receiver.app)),
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=True,
                proxy_headers=False,
                http=limited_protocol(receiver.on_refusal, receiver.unfinished, receiver.direct),
                ws="none",
                limit_concurrency=connections,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            ),
            announce,
        )

        async def stop() -> None:
            await stopping.wait()
            log.info("stopping")
            receiver.stopping.set()
            server.should_exit = True

        on_open()
        stop_when_asked = asyncio.create_task(stop())
        try:
            await server.serve(sockets=[listener])
        finally:
            stop_when_asked.cancel()
    log.info("stopped")


def limit_malloc_arenas() -> None:
    """Keep threads from holding free memory each. It concerns arenas that are not yet there."""
    with contextlib.suppress(AttributeError):  # musl has no arenas
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, MALLOC_ARENAS)


def freeze_startup_objects() -> None:
    """Exempt what the start has made from garbage collection, and collect less often from here on.

    Modules, settings and routes stay until the end. To walk through all of them takes tens of milliseconds,
    in which nothing is answered, and happened several times a second under load. Nothing is collected before:
    of the 120,000 objects of a start one in a hundred is garbage.
    """
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    gc.enable()


def _max_connections() -> int:
    """Return the limit of connections: half of the file descriptors at most, since downloads need some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MAX_CONNECTIONS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft // 2)


def _log_settings(config: Config, providers: Providers) -> None:
    log.info("providers that are on", providers=list(providers))
    for provider in providers.values():
        if not provider.has_token:
            log.warning(
                "without a token nothing is asked of the provider",
                provider=provider.name,
                setting=provider.token_setting,
            )
    for name in config.unknown:
        log.warning("setting unknown", setting=name)
    for setting, as_none, why in weak_secrets(config):
        if as_none:
            log.warning("secret can be guessed", setting=setting, detail=why)
    for header in config.webhook_headers:
        if "_" in header or "." in header:
            log.warning("proxies may drop this header", header=header)
    if (old := unsafe_sqlite()) is not None:
        log.warning(
            "SQLite is older than the version that is free of the WAL-reset fault",
            found=old,
            wanted=".".join(map(str, SAFE_SQLITE)),
        )


def _exit_now() -> None:
    """End the process, because it still runs `STOP_SECONDS` after it was asked to stop.

    A thread that waits for an archive which does not answer can be neither cancelled nor left behind. What
    was acknowledged is on the disk by then, as it would be if the process were killed.
    """
    log.warning("still not stopped; leaving all the same", seconds=STOP_SECONDS)
    os._exit(0)
