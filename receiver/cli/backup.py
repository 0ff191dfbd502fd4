"""``receiver backup``."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from receiver.cli import output
from receiver.cli.common import progress_bar
from receiver.cli.maintenance import load_checked_config
from receiver.ledger import FILE_NAME, Copy, back_up


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy, in a folder that exists.")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Copy the ledger to FILE, as it is at one moment, while a serve runs or without one.

    The copy is checked, and has its name only once it is whole and on the disk. It does NOT hold the images:
    neither those of the folder archive, nor those of `fetched` jobs, which wait on this disk for the archive.

    To restore: stop serve, move the data directory's ledger.sqlite3, ledger.sqlite3-wal and
    ledger.sqlite3-shm away, copy FILE to ledger.sqlite3, run `receiver rebuild` for what was archived since,
    and start serve.
    """
    config, _ = load_checked_config()
    copy = asyncio.run(_backup(config.data_dir / FILE_NAME, file, force=force, quiet=as_json))
    if as_json:
        output.print_json(
            {"file": str(copy.path), "version": copy.version, "jobs": copy.jobs, "bytes": copy.bytes}
        )
    else:
        typer.echo(
            f"{copy.path}: {copy.jobs} jobs, {copy.bytes} bytes, ledger version {copy.version}; checked"
        )


async def _backup(ledger: Path, file: Path, *, force: bool, quiet: bool) -> Copy:
    with progress_bar("bytes copied", quiet=quiet) as on_progress:
        return await back_up(ledger, file, overwrite=force, on_progress=on_progress)
