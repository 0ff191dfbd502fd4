"""``receiver backup``."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from receiver.cli import output
from receiver.cli.common import AsJson, fail, print_message, progress_bar
from receiver.cli.maintenance import load_checked_config
from receiver.config import Config
from receiver.core.errors import LedgerError
from receiver.ledger import FILE_NAME, Ledger, back_up
from receiver.operations.checkpoint import record_end


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy, in a folder that exists.")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy the ledger to FILE, as it is at one moment, while a serve runs or without one.

    The copy is checked, and has its name only once it is whole and on the disk. It does NOT hold the images:
    neither those of the folder archive, nor those of `fetched` jobs, which wait on this disk for the archive.

    To restore: stop serve, move the data directory's ledger.sqlite3, ledger.sqlite3-wal and
    ledger.sqlite3-shm away, copy FILE to ledger.sqlite3, run `receiver rebuild` for what was archived since,
    and start serve.
    """
    config, _ = load_checked_config()
    if config.ledger is not None:
        fail(
            "The ledger is in PostgreSQL, and its own tools copy it: pg_dump --schema=upscale_receiver, or"
            " pg_basebackup with archived WAL. docs/operations/backup-and-restore.md says how."
        )
    with progress_bar("bytes copied", quiet=as_json) as on_progress:
        copy = asyncio.run(
            back_up(config.data_dir / FILE_NAME, file, overwrite=force, on_progress=on_progress)
        )
    asyncio.run(_record_end(config))
    if as_json:
        output.print_json(
            {"file": str(copy.path), "version": copy.version, "jobs": copy.jobs, "bytes": copy.bytes}
        )
    else:
        typer.echo(
            f"{copy.path}: {copy.jobs} jobs, {copy.bytes} bytes, ledger version {copy.version}; checked"
        )


async def _record_end(config: Config) -> None:
    """Record the end of a backup, so that its age is known. The copy is good also where that fails."""
    try:
        async with await Ledger.open_beside(config.ledger_location, make=False) as ledger:
            await record_end(ledger, "backup", ledger.now())
    except LedgerError as error:
        print_message(f"the time of this backup is not recorded: {error.detail}")
