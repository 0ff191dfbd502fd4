"""``receiver serve``."""

import json
from typing import Annotated

import structlog
import typer

from receiver.bootstrap.serve import serve as serve_until_stopped
from receiver.cli.common import DOTENV, INVOCATION, exit_now, load_config
from receiver.config import hidden
from receiver.telemetry import logs

log = structlog.get_logger("receiver.serve")


def serve(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Announce the address as JSON on stdout.")] = False,
) -> None:
    """Accept deliveries, archive images and answer questions, until SIGTERM."""
    config, environ = load_config()
    logs.configure(config.log)
    for name in hidden(INVOCATION.get().environ, DOTENV):
        log.warning("setting differs from .env", setting=name)

    def ready(address: str) -> None:
        if as_json:
            print(json.dumps({"address": address}), flush=True)  # noqa: T201 - for the program that started it

    try:
        serve_until_stopped(config, environ, on_ready=ready)
        exit_now(0)  # without waiting for threads
    except SystemExit:  # uvicorn could not listen, and has logged why
        raise typer.Exit(1) from None
