"""``receiver demo``."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from receiver.cli import demo_run, output
from receiver.cli.common import AsJson, fail
from receiver.cli.interruption import INTERRUPTED
from receiver.cli.options import choice, whole
from receiver.providers.registry import ENTRIES
from receiver.sandbox.options import ProviderName
from receiver.sandbox.trials import TRIALS, Trial

_PROVIDERS = [name for name in ProviderName if name in {entry.name for entry in ENTRIES}]


def demo(
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMAGE", help="Your own pictures.")] = None,
    *,
    provider: Annotated[
        ProviderName, choice("--provider", _PROVIDERS, "The provider whose sandbox is used.")
    ] = ProviderName.XIMILAR,
    folder: Annotated[Path, typer.Option(help="The folder for ledger and images.")] = Path("receiver-demo"),
    port: Annotated[int, whole("The receiver's port; 0 for any free one.", 0, 65535)] = 8080,
    leave: Annotated[bool, typer.Option("--exit", help="End when all images are archived.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run sandbox, receiver and folder archive on this machine, with a few images through all of it."""
    try:
        pictures = demo_run.read_pictures(images or [])
        run = _demo(TRIALS[provider](), pictures, folder, port, leave=leave, as_json=as_json)
        archived = asyncio.run(demo_run.until_signal(run))
    except demo_run.DemoError as error:
        fail(str(error))
    if archived is None:
        raise typer.Exit(INTERRUPTED)
    if not archived:
        raise typer.Exit(1)


async def _demo(
    trial: Trial, pictures: Sequence[demo_run.Picture], folder: Path, port: int, *, leave: bool, as_json: bool
) -> bool:
    async with demo_run.running_demo(trial, folder, port) as running:
        with _live_jobs(quiet=as_json) as show:
            archived = await running.run(demo_run.send(running, pictures, show))
        if as_json:
            fields = {"archive": str(running.archive), "address": running.address, "token": running.token}
            output.print_json({"archived": archived, **fields})
        else:
            typer.echo("\nAll images are archived." if archived else "\nNot all images are archived.")
            typer.echo(f"The files:   {running.archive}")
        if not leave:
            if not as_json:
                typer.echo(f"The page:    {running.address}/   (any user name, password {running.token})")
                typer.echo("Ctrl-C ends the demo.")
            with contextlib.suppress(asyncio.CancelledError):  # a signal ends it
                await running.wait_for_exit()
    return archived


@contextlib.contextmanager
def _live_jobs(*, quiet: bool) -> Iterator[demo_run.Show]:
    """Yield a function that shows jobs: in a live table on a terminal, else as a line for each change."""
    console = Console()
    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda jobs: live.update(output.job_table(jobs), refresh=True)
    else:
        states: dict[str, str] = {}

        def show(jobs: Sequence[output.JobDocument]) -> None:
            for job in jobs:
                if states.get(job["id"]) != job["state"]:
                    states[job["id"]] = job["state"]
                    output.print_line(output.job_row(job), flush=True)

        yield show
