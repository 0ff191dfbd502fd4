"""Commands that keep the ledger: ``backup``, ``ledger-copy`` and ``prune``."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from receiver import config as settings
from receiver.cli import output
from receiver.cli.common import AsJson, fail, print_message, progress_bar
from receiver.cli.maintenance import FromStart, load_checked_config
from receiver.core.clock import wall_clock
from receiver.core.errors import ConfigError, LedgerError
from receiver.ledger import FILE_NAME, Ledger, LedgerReader, back_up
from receiver.operations.checkpoint import record_end
from receiver.operations.retention import count_prunable
from receiver.operations.retention import prune as prune_ledger

PRUNED = {
    "history": "lines of the history of archived jobs",
    "bodies": "raw bodies of archived jobs",
    "unread": "deliveries that could not be read",
    "tickets": "tickets that are accepted no more",
    "submissions": "submissions whose job is known",
    "notifications": "notifications that were given up",
    "archived_by_hour": "counts of archived images that the page no longer shows",
    "failed_by_day": "counts of failures that the page no longer shows",
}


async def backup(
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
        copy = await back_up(config.data_dir / FILE_NAME, file, overwrite=force, on_progress=on_progress)
    try:  # so that its age is known; the copy is good also where that fails
        async with await Ledger.open_beside(config.ledger_location, make=False) as ledger:
            await record_end(ledger, "backup", ledger.now())
    except LedgerError as error:
        print_message(f"the time of this backup is not recorded: {error.detail}")
    if as_json:
        output.print_json(
            {"file": str(copy.path), "version": copy.version, "jobs": copy.jobs, "bytes": copy.bytes}
        )
    else:
        typer.echo(
            f"{copy.path}: {copy.jobs} jobs, {copy.bytes} bytes, ledger version {copy.version}; checked"
        )


def ledger_copy(
    *,
    target: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="URL",
            help="The database, postgresql://user@host/database; else that of RECEIVER_LEDGER.",
        ),
    ] = None,
    restart: FromStart = False,
    as_json: AsJson = False,
) -> None:
    """Copy the ledger of the data directory into a PostgreSQL database that has none.

    It refuses while a serve runs on the data directory: what would be delivered meanwhile would be missing.
    A copy that was cut off goes on when it is begun again. Every row is read again and compared; only when
    all are does a serve find the ledger. The file stays as it is. Then set RECEIVER_LEDGER, keep the data
    directory and RECEIVER_INSTANCE, since images that wait for the archive are in its spool, and start serve.
    """
    config, _ = load_checked_config()
    location = config.ledger_location
    if target is not None:
        try:
            location = replace(location, url=settings.load({"RECEIVER_LEDGER": target}).ledger_location.url)
        except ConfigError as error:
            raise typer.BadParameter(str(error).partition(": ")[2], param_hint="--to") from None
    if location.url is None:
        raise ConfigError("--to: says into which database; so does RECEIVER_LEDGER")
    try:
        from receiver.ledger.postgres.copy import copy_ledger  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigError(
            "--to: needs psycopg, which `pip install upscale-receiver[postgres]` brings"
        ) from None
    with progress_bar("rows copied and compared", quiet=as_json) as on_progress:
        copied = copy_ledger(location, restart=restart, on_progress=on_progress)
    if as_json:
        output.print_json({"resumed": copied.resumed, "rows": copied.rows})
        return
    output.print_counts((rows, name) for name, rows in copied.rows.items())
    typer.echo("All rows were compared. Set RECEIVER_LEDGER, and start serve with this data directory.")


async def prune(
    *,
    older_than: Annotated[
        str | None,
        typer.Option(help="Remove what is older, such as 30d; else as RECEIVER_KEEP_HISTORY says."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove history and raw bodies of archived jobs, and other old records. The jobs themselves stay.

    A running serve does the same by itself once an hour.
    """
    config, _ = load_checked_config()
    try:
        keep = config.keep_history if older_than is None else settings.duration(older_than)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if dry_run:
        async with await LedgerReader.open(config.ledger_location) as reader:
            removed = await count_prunable(reader, keep, wall_clock())
    else:
        async with await Ledger.open_beside(config.ledger_location, make=False) as ledger:
            with progress_bar("rows removed", quiet=as_json) as on_progress:
                removed = await prune_ledger(ledger, keep, lambda rows: on_progress(sum(rows.values())))
    if as_json:
        output.print_json({"dry_run": dry_run, "rows": {name: removed.get(name, 0) for name in PRUNED}})
    else:
        output.print_counts((removed.get(name, 0), what) for name, what in PRUNED.items())
