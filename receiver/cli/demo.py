"""``receiver demo``: all of it on one machine."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from receiver.cli import INTERRUPTED, output
from receiver.cli import demo_run as demonstration
from receiver.cli.common import AsJson, fail
from receiver.cli.options import whole


def demo(
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMAGE", help="Your own pictures.")] = None,
    *,
    folder: Annotated[Path, typer.Option(help="The folder for ledger and images.")] = Path("receiver-demo"),
    port: Annotated[int, whole("The receiver's port; 0 for any free one.", 0, 65535)] = 8080,
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
        fail(str(error))
    if archived is None:
        raise typer.Exit(INTERRUPTED)
    if not archived:
        raise typer.Exit(1)


async def _demo(
    pictures: Sequence[demonstration.Picture], folder: Path, port: int, *, leave: bool, as_json: bool
) -> bool:
    async with demonstration.running(folder, port) as run:
        with output.live_jobs(quiet=as_json) as show:
            archived = await run.unless_lost(demonstration.send(run, pictures, show))
        output.demo_end(
            run.address, run.token, run.archive, archived=archived, stays=not leave, as_json=as_json
        )
        if not leave:
            with contextlib.suppress(asyncio.CancelledError):  # the signal that it stays up for
                await run.lost()
    return archived
