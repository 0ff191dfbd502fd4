"""Runs the sandbox on a port of this machine."""

import logging
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from receiver.sandbox.app import create_app
from receiver.sandbox.loopback import is_loopback
from receiver.sandbox.options import Options


class Server(uvicorn.Server):
    """A server that says when it takes connections.

    Args:
        config: uvicorn's.
        ready: called once, on the event loop, when a client can connect.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the lifespan and the listener, then calls ``ready``."""
        await super().startup(sockets)
        self._ready()


def say(url: str) -> None:
    """Prints the address as the one line that programs wait for."""
    print(f"sandbox listens on {url}", flush=True)  # noqa: T201 - this line is the command's output


def run(
    options: Options, host: str = "127.0.0.1", port: int = 8090, *, announce: Callable[[str], None] = say
) -> None:
    """Serves until SIGINT or SIGTERM, and then returns.

    Args:
        options: how the sandbox behaves.
        host: a loopback address, or localhost.
        port: 0 for any free one.
        announce: called with the sandbox's URL, without a slash at its end, once it takes connections.

    Raises:
        ValueError: the host is not loopback.
        OSError: the port is taken.
    """
    if not is_loopback(host):
        raise ValueError(f"the sandbox listens on loopback only, and {host} is elsewhere")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            create_app(options),
            log_config=None,
            access_log=False,
            proxy_headers=False,
            # Drips and held answers would keep a stop waiting for as long as they last.
            timeout_graceful_shutdown=1,
        )
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        logging.getLogger("uvicorn.error").addFilter(_not_on_purpose)
        # uvicorn ends gracefully and then raises the signal again: both shall mean a return from here.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            Server(config, lambda: announce(url)).run(sockets=[listener])


def _not_on_purpose(record: logging.LogRecord) -> bool:
    """Drops uvicorn's complaint about results that were cut short on purpose."""
    return "without completing response" not in record.getMessage()
