"""The commands, and how each of them ends."""

import asyncio
import base64
import contextlib
import json
import logging
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from starlette.datastructures import QueryParams

from receiver import config as settings
from receiver import demo as demonstration
from receiver import logs, query, tables
from receiver.cli.audit import audit
from receiver.cli.backup import backup
from receiver.cli.migrate import archive_migrate
from receiver.cli.prune import prune
from receiver.cli.rebuild import rebuild
from receiver.cli.reconcile import reconcile
from receiver.cli.submit import submit
from receiver.config import Config
from receiver.errors import BodyError, ConfigError, ReceiverError
from receiver.ledger import Filter, LedgerView
from receiver.sandbox.command import sandbox
from receiver.serve import serve as serve_until_stopped
from receiver.states import State

app = typer.Typer(
    name="receiver",
    help="The webhook target for Ximilar's Upscaler: fetches, verifies and archives each upscaled image.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(sandbox)
app.command()(submit)
app.command()(reconcile)
app.command()(backup)
app.command()(audit)
app.command()(rebuild)
app.command()(prune)
app.command("archive-migrate")(archive_migrate)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def run() -> None:
    """Runs the command; every error that was foreseen becomes one line and exit code 1."""
    logs.configure("auto", least=logging.CRITICAL)
    try:
        app()
    except (ConfigError, ReceiverError) as error:
        _fail(str(error))
    except OSError as error:  # such as a full disk behind the output
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")


@app.command()
def serve(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Announce the address as JSON on stdout.")] = False,
) -> None:
    """Accept deliveries, archive images and answer questions, until SIGTERM."""
    config, environ = _settings()
    # The AWS SDK reads dozens of variables, some of them late, and all from the process alone.
    os.environ.update({name: value for name, value in environ.items() if name.startswith("AWS_")})
    logs.configure(config.log)

    def ready(address: str) -> None:
        if as_json:
            print(json.dumps({"address": address}), flush=True)  # noqa: T201 - for the program that started it

    try:
        serve_until_stopped(config, environ, ready=ready)
        # Everything is recorded and closed. What may be left is a thread that waits for a store which does
        # not answer: the interpreter would wait for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    except SystemExit:  # uvicorn's way to say that it could not listen; its own line says why
        raise typer.Exit(1) from None


@app.command()
def demo(
    images: Annotated[list[Path] | None, typer.Argument(metavar="[IMAGE]...", help="Your own files.")] = None,
    *,
    folder: Annotated[Path, typer.Option(help="Where ledger and images go.")] = Path("receiver-demo"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The receiver's; 0 for any free one.")] = 8080,
    leave: Annotated[bool, typer.Option("--exit", help="End when all images are archived.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run sandbox, receiver and folder archive on this machine, with a few images through all of it."""
    try:
        pictures = demonstration.read_pictures(images) if images else demonstration.own_pictures()
        archived = asyncio.run(
            demonstration.until_signal(_demo(pictures, folder, port, leave=leave, as_json=as_json))
        )
    except demonstration.DemoError as error:
        _fail(str(error))
    if not archived:
        raise typer.Exit(1)


async def _demo(
    pictures: Sequence[demonstration.Picture], folder: Path, port: int, *, leave: bool, as_json: bool
) -> bool:
    async with demonstration.running(folder, port) as run:
        with tables.live_jobs(quiet=as_json) as show:
            archived = await run.unless_lost(demonstration.send(run, pictures, show))
        tables.demo_end(
            run.address, run.token, run.archive, archived=archived, stays=not leave, as_json=as_json
        )
        if not leave:
            with contextlib.suppress(asyncio.CancelledError):  # the signal that it stays up for
                await run.lost()
    return archived


@app.command()
def init(*, as_json: AsJson = False) -> None:
    """Print a ready .env with fresh secrets.

    They are for your eyes alone: (umask 077; receiver init > .env)
    """
    values = {
        "RECEIVER_WEBHOOK_HEADERS": f'{{"X-Webhook-Secret": "{secrets.token_urlsafe(32)}"}}',
        "RECEIVER_API_TOKENS": secrets.token_urlsafe(32),
        "RECEIVER_NOTIFY_SECRET": f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}",
    }
    if as_json:
        tables.print_json(values)
    else:
        typer.echo(tables.dotenv(values))


@app.command()
def jobs(
    *,
    state: Annotated[list[State] | None, typer.Option(help="Only these; may be given several times.")] = None,
    ref: Annotated[str | None, typer.Option(help="Only those with this reference.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only those with this reason.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest first.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="What the page before gave as next.")] = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    wanted, window = _asked(state or (), ref=ref, reason=reason, limit=str(limit), cursor=cursor)
    config, _ = _settings()

    async def ask() -> None:
        view = await LedgerView.open(config.data_dir)
        try:
            page = await view.jobs(wanted, before=window.before, limit=window.limit)
        finally:
            await view.close()
        tables.jobs(page, as_json=as_json)

    asyncio.run(ask())


def _asked(states: Sequence[State], **parameters: str | None) -> tuple[Filter, query.Window]:
    """Options as ``GET /jobs`` reads them, and refuses them."""
    given = [("state", state.value) for state in states]
    given += [(name, value) for name, value in parameters.items() if value is not None]
    try:
        return query.jobs(QueryParams(given), silent_since=0)
    except BodyError as error:
        raise typer.BadParameter(error.detail) from None


@app.command()
def job(job_id: Annotated[str, typer.Argument(metavar="ID")], *, as_json: AsJson = False) -> None:
    """Show one job and its history."""
    config, _ = _settings()

    async def ask() -> bool:
        view = await LedgerView.open(config.data_dir)
        try:
            found = await view.job_with_history(job_id)
        finally:
            await view.close()
        if found is not None:
            tables.job(*found, as_json=as_json)
        return found is not None

    if not asyncio.run(ask()):
        _fail(f"there is no job {job_id}")


def _settings() -> tuple[Config, Mapping[str, str]]:
    environ = settings.environment(os.environ, Path(".env"))
    return settings.load(environ), environ


def _fail(message: str) -> NoReturn:
    print(f"receiver: {message}", file=sys.stderr)  # noqa: T201 - the command's own last word
    raise SystemExit(1)
