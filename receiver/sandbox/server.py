"""Runs the sandbox on a port of this machine."""

import logging
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import uvicorn

from receiver.sandbox.fal import Fal
from receiver.sandbox.freepik import Freepik
from receiver.sandbox.jobs import Clock
from receiver.sandbox.loopback import is_loopback
from receiver.sandbox.options import Options, ProviderName
from receiver.sandbox.replicate import Replicate
from receiver.sandbox.standin import StandIn
from receiver.sandbox.ximilar import Ximilar

_STAND_INS: Mapping[ProviderName, Callable[[Options, Clock], StandIn[Any]]] = {
    ProviderName.XIMILAR: Ximilar,
    ProviderName.REPLICATE: Replicate,
    ProviderName.FAL: Fal,
    ProviderName.FREEPIK: Freepik,
}


def stand_in(options: Options, clock: Clock = time.time) -> StandIn[Any]:
    """Return a provider's stand-in without jobs; its application's lifespan can run once.

    The clock is for timestamps and the life of URLs, not for the delays.

    Raises:
        ValueError: a secret is none of the provider's.
    """
    return _STAND_INS[options.provider](options, clock)


class Server(uvicorn.Server):
    """A server that calls ``on_ready``, on the event loop, when it accepts connections."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


def print_address(url: str, secrets: Sequence[str]) -> None:
    print(f"sandbox listens on {url}", flush=True)  # noqa: T201 - the line that programs wait for
    for secret in secrets:
        print(f"it signs with {secret}", flush=True)  # noqa: T201


def run(
    options: Options,
    host: str = "127.0.0.1",
    port: int = 8090,
    *,
    on_ready: Callable[[str, Sequence[str]], None] = print_address,
) -> None:
    """Serve until SIGINT or SIGTERM; port 0 is any free one.

    Once it accepts connections, ``on_ready`` is called with its URL, without a trailing slash, and with the
    secrets that it made.

    Raises:
        ValueError: the host is not loopback, or a secret is none of the provider's.
        OSError: the port is taken.
    """
    if not is_loopback(host):
        raise ValueError(f"the sandbox listens on loopback only, and {host} is elsewhere")
    provider = stand_in(options)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            provider.app(),
            log_config=None,
            access_log=False,
            proxy_headers=False,
            # Slow results and held answers would delay the stop for as long as they last.
            timeout_graceful_shutdown=1,
        )
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        logging.getLogger("uvicorn.error").addFilter(_is_unexpected)
        # uvicorn ends gracefully and then raises the signal again, which must not end the process.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            Server(config, lambda: on_ready(url, provider.secrets)).run(sockets=[listener])


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Drop uvicorn's error about results that are cut short on purpose."""
    return "without completing response" not in record.getMessage()
