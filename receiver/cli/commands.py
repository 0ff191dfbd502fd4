"""All commands by their names, and how each of them ends."""

import contextlib
import logging
import os
import sys
from importlib import metadata
from typing import Annotated

import typer

from receiver import logs
from receiver.cli.audit import audit
from receiver.cli.backup import backup
from receiver.cli.common import fail
from receiver.cli.demo import demo
from receiver.cli.doctor import doctor
from receiver.cli.init import init
from receiver.cli.jobs import job, jobs
from receiver.cli.migrate import archive_migrate
from receiver.cli.prune import prune
from receiver.cli.rebuild import rebuild
from receiver.cli.reconcile import reconcile
from receiver.cli.retry import retry
from receiver.cli.serve import serve
from receiver.cli.submit import submit
from receiver.errors import ConfigError, ReceiverError
from receiver.sandbox.command import sandbox

app = typer.Typer(
    name="receiver",
    help="The webhook target for Ximilar's Upscaler: fetches, verifies and archives each upscaled image.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

RUNNING = "The receiver"
JOBS = "Jobs, beside a running serve or without one"
KEEPING = "Ledger and archive"
TRYING = "Trying it out"

app.command(rich_help_panel=RUNNING)(serve)
app.command(rich_help_panel=RUNNING)(init)
app.command(rich_help_panel=RUNNING)(doctor)
app.command(rich_help_panel=JOBS)(submit)
app.command(rich_help_panel=JOBS)(jobs)
app.command(rich_help_panel=JOBS)(job)
app.command(rich_help_panel=JOBS)(retry)
app.command(rich_help_panel=JOBS)(reconcile)
app.command(rich_help_panel=KEEPING)(backup)
app.command(rich_help_panel=KEEPING)(audit)
app.command(rich_help_panel=KEEPING)(rebuild)
app.command(rich_help_panel=KEEPING)(prune)
app.command("archive-migrate", rich_help_panel=KEEPING)(archive_migrate)
app.command(rich_help_panel=TRYING)(demo)
app.command(rich_help_panel=TRYING)(sandbox)


def _version(asked: bool) -> None:  # noqa: FBT001 - the form that Typer calls
    if asked:
        typer.echo(f"upscale-receiver {metadata.version('upscale-receiver')}")
        raise typer.Exit


@app.callback()
def receiver(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """The webhook target for Ximilar's Upscaler: fetches, verifies and archives each upscaled image."""


def run() -> None:
    """Runs the command; every error that was foreseen becomes one line and exit code 1."""
    logs.configure("auto", least=logging.CRITICAL)
    try:
        try:
            app(prog_name="receiver")
        finally:
            sys.stdout.flush()  # here, where a reader that has gone can still be told from an error
    except (ConfigError, ReceiverError) as error:
        fail(str(error))
    except BrokenPipeError:
        # Whoever read has seen enough. The interpreter would complain that the rest could not be written.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:  # such as a full disk behind the output
        fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
