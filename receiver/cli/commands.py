"""The table of commands, and how a command is run."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module, metadata
from typing import Annotated, Any

import typer

from receiver.cli.common import INVOCATION, Invocation, exit_process, fail
from receiver.cli.interruption import INTERRUPTED, exit_interrupted, interrupted_line
from receiver.core.errors import ConfigError, ReceiverError

RUNNING = "The receiver"
JOBS = "Jobs, beside a running serve or without one"
KEEPING = "Ledger and archive"
TRYING = "Trying it out"

COMMANDS: Mapping[str, tuple[str, str]] = {
    "serve": (RUNNING, "receiver.cli.serve"),
    "init": (RUNNING, "receiver.cli.init"),
    "doctor": (RUNNING, "receiver.cli.doctor"),
    "alert": (RUNNING, "receiver.cli.trials"),
    "submit": (JOBS, "receiver.cli.submit"),
    "jobs": (JOBS, "receiver.cli.jobs"),
    "job": (JOBS, "receiver.cli.jobs"),
    "retry": (JOBS, "receiver.cli.retry"),
    "forget": (JOBS, "receiver.cli.jobs"),
    "accept": (JOBS, "receiver.cli.accept"),
    "reconcile": (JOBS, "receiver.cli.reconcile"),
    "backup": (KEEPING, "receiver.cli.ledger"),
    "ledger-copy": (KEEPING, "receiver.cli.ledger"),
    "disk-lost": (KEEPING, "receiver.cli.jobs"),
    "audit": (KEEPING, "receiver.cli.archive"),
    "rebuild": (KEEPING, "receiver.cli.archive"),
    "prune": (KEEPING, "receiver.cli.ledger"),
    "archive-migrate": (KEEPING, "receiver.cli.archive"),
    "archive-move": (KEEPING, "receiver.cli.archive"),
    "test-delivery": (TRYING, "receiver.cli.trials"),
    "demo": (TRYING, "receiver.cli.demo"),
    "sandbox": (TRYING, "receiver.cli.sandbox"),
}
"""Each command with its group in the help, and the module of its function."""

SILENT = frozenset({"jobs", "job", "retry", "forget", "disk-lost", "demo", "sandbox"})
"""Commands that run no code that logs by structlog. To import it takes a sixth of the time of a short one."""


def _version(asked: bool) -> None:  # noqa: FBT001 - the form that Typer calls
    if asked:
        typer.echo(f"upscale-receiver {metadata.version('upscale-receiver')}")
        raise typer.Exit


def _misplaced(asked: bool) -> None:  # noqa: FBT001 - the form that Typer calls
    if asked:
        raise typer.BadParameter("options stand behind the command, such as: receiver jobs --json")


def _receiver(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", callback=_misplaced, is_eager=True, hidden=True)] = False,
) -> None:
    """The webhook target for upscaling services: fetches, verifies and archives each upscaled image."""


def commands(typed: str = "") -> typer.Typer:
    """Return the command line with all commands, or only the ``typed`` one: to import all takes longest."""
    app = typer.Typer(
        name="receiver",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    app.callback()(_receiver)
    for name in [typed] if typed in COMMANDS else COMMANDS:
        group, module = COMMANDS[name]
        function = getattr(import_module(module), name.replace("-", "_"))
        app.command(name, rich_help_panel=group)(_synchronous(function))
    return app


def _synchronous(function: Callable[..., Any]) -> Callable[..., None]:
    """Return a command that Typer can call. One that returns ``False`` exits with 1."""

    @wraps(function)
    def command(**arguments: Any) -> None:
        done = function(**arguments)
        if (asyncio.run(done) if asyncio.iscoroutine(done) else done) is False:
            raise typer.Exit(1)

    return command


def start() -> None:
    logging.getLogger().setLevel(logging.CRITICAL)  # commands print their own errors
    if not SILENT.intersection(sys.argv[1:2]):
        from receiver.telemetry import logs  # noqa: PLC0415 - structlog takes long to import

        logs.configure("auto", least=logging.CRITICAL)
    run(sys.argv[1:], Invocation(os.environ, exit_process))


def run(arguments: Sequence[str], invocation: Invocation) -> None:
    """Run a command. Raise `SystemExit` with the exit code, unless that is 0.

    An expected error becomes one line and exit code 1, an interruption one line and `INTERRUPTED`.
    """
    INVOCATION.set(invocation)
    command = commands(next(iter(arguments), ""))
    interruptible = signal.getsignal(signal.SIGINT) is exit_interrupted
    try:
        try:
            if interruptible:
                signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on, cleanup runs
            command(arguments, prog_name="receiver")
        finally:
            sys.stdout.flush()  # here, where a broken pipe is handled
            if interruptible:
                signal.signal(signal.SIGINT, exit_interrupted)
    except KeyboardInterrupt:
        sys.stderr.write(interrupted_line())
        raise SystemExit(INTERRUPTED) from None
    except SystemExit as end:
        if end.code == INTERRUPTED:
            sys.stderr.write(interrupted_line())
        raise
    except (ConfigError, ReceiverError) as error:
        fail(str(error))
    except BrokenPipeError:
        # The reader has gone. At exit the interpreter would report that the rest could not be written.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:  # such as a full disk behind the output
        fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
