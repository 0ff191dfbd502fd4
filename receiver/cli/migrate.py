"""``receiver archive-migrate``."""

import asyncio
from contextlib import aclosing
from typing import Annotated

import typer

from receiver.archive.factory import open_archive
from receiver.cli.common import print_message, progress_bar
from receiver.cli.maintenance import (
    Rate,
    json_lines,
    load_checked_config,
    print_report,
    settle_moved_archive,
)
from receiver.core.errors import ConfigError
from receiver.core.jobs import State
from receiver.core.rate_limit import RateLimiter
from receiver.ledger import Ledger, holder
from receiver.operations.migrate import Migrator

DONE = {
    "moved": "images put, proved and recorded",
    "failed": "images that could not be moved",
    "elsewhere": "archived images that lay elsewhere already",
    "removed": "files removed from the folder",
    "left": "files left in the folder",
}


def archive_migrate(
    *,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="file:///FOLDER", help="The folder; else the data directory's archive."
        ),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Then remove each file whose image lies in the bucket, proved.")
    ] = False,
    rate: Rate = None,
    as_json: Annotated[bool, json_lines("image not moved")] = False,
) -> None:
    """Move archived images from a folder to the bucket that RECEIVER_ARCHIVE names.

    Each is put, proved and then recorded at its new place; a running serve reads it from wherever it lies.
    A run that was cut off is begun again. Files stay where they are, unless --remove is given. Exit 1 if an
    image could not be moved.
    """
    config, environ = load_checked_config()
    folder = source or (config.data_dir.resolve() / "archive").as_uri()
    if not config.archive_uri.startswith("s3://"):
        raise ConfigError("RECEIVER_ARCHIVE: must name the bucket to move to, s3://bucket/prefix")
    if not folder.startswith("file:///"):
        raise typer.BadParameter("must be file:///folder", param_hint="--from")

    if holder(config.data_dir) is not None:
        print_message(
            "a serve runs here; it reads what is moved from the bucket only with the same AWS_ variables,"
            " and else from the files, until --remove removes them"
        )

    async def run() -> Migrator:
        async with (
            await Ledger.open_beside(config.ledger_location, make=False) as ledger,
            aclosing(open_archive(folder, uploads=config.uploads)) as origin,
            aclosing(open_archive(config.archive_uri, uploads=config.uploads, environ=environ)) as target,
        ):
            await target.probe()  # finds what the store does not honour, so that puts do without it
            await settle_moved_archive(ledger, origin, environ)  # or nothing would seem to lie in the folder
            migrator = Migrator(
                ledger=ledger,
                source=origin,
                target=target,
                concurrency=config.uploads,
                throttle=RateLimiter(rate).wait,
            )
            jobs = (await ledger.stats(overdue_before=0)).jobs[State.ARCHIVED]
            with progress_bar("images", quiet=as_json) as on_progress:
                await migrator.move(lambda done: on_progress(done, jobs))
            if remove:
                with progress_bar("files", quiet=as_json) as on_progress:
                    await migrator.remove(on_progress)
        return migrator

    migrator = asyncio.run(run())
    counts = migrator.counts
    lines = [(counts[name], text) for name, text in DONE.items() if counts[name] or name == "moved"]
    summary = {
        "from": folder,
        "to": config.archive_uri,
        "bytes": counts["bytes"],
        **{name: counts[name] for name in DONE},
    }
    print_report(migrator.findings, lines, summary, as_json=as_json)
    if migrator.findings:
        raise typer.Exit(1)
