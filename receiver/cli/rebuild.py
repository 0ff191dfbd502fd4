"""``receiver rebuild``."""

import asyncio
from contextlib import AsyncExitStack, aclosing
from typing import Annotated

import typer

from receiver.archive.factory import open_archive
from receiver.bootstrap.factories import make_data_dir
from receiver.cli import maintenance
from receiver.cli.common import progress_bar
from receiver.core.errors import ConfigError
from receiver.ledger import Ledger, Rebuilt
from receiver.operations.archive_scan import has_objects
from receiver.operations.rebuild import Rebuilder

BECAME: dict[str, str] = {
    Rebuilt.KNOWN: "known already",
    Rebuilt.ADDED: "jobs added",
    Rebuilt.MOVED: "known jobs taken to archived",
    Rebuilt.BUSY: "left alone, since their job is being worked on; run it again",
}
UNUSED = {
    "archive.unreadable": "passed over: files and folders that cannot be read",
    "archive.altered": "refused: other bytes than their metadata say",
    "archive.mislabelled": "refused: metadata that are not those of an archived image, or of another one",
    "archive.duplicate": "left aside: further objects of a job",
    "archive.foreign": "left aside: they name no job",
}


def rebuild(
    *,
    rate: maintenance.Rate = None,
    from_start: maintenance.FromStart = False,
    as_json: Annotated[bool, maintenance.json_lines("object not used")] = False,
) -> None:
    """Add to the ledger every job that the archive's objects name. Known jobs are not overwritten.

    It works on an empty data directory, and beside a running serve. A known job that has not been archived,
    and whose object is there and proved, is taken to archived. Exit 1 if an object was refused or left, or
    if nothing lies in the archive.
    """
    config, environ = maintenance.load_checked_config()
    plan = {"archive": config.archive_uri}

    async def run() -> bool:
        async with AsyncExitStack() as stack:
            archive = open_archive(config.archive_uri, uploads=config.uploads, environ=environ)
            await stack.enter_async_context(aclosing(archive))
            if not await has_objects(archive):
                # With a wrong RECEIVER_ARCHIVE, an empty ledger would pass for the rebuilt one.
                raise ConfigError(f"RECEIVER_ARCHIVE: nothing lies in {archive.uri} to rebuild a ledger from")
            make_data_dir(config)
            ledger = await stack.enter_async_context(await Ledger.open_beside(config.ledger_location))
            await ledger.release_orphans()
            await maintenance.settle_moved_archive(ledger, archive, environ)
            scan = await stack.enter_async_context(
                maintenance.archive_scan(
                    "rebuild", config, ledger, archive, plan=plan, rate=rate, from_start=from_start
                )
            )
            checkpoint, counts = scan.checkpoint, scan.checkpoint.counts
            if checkpoint.resumed and not as_json:
                typer.echo(f"Going on after {counts['objects']} objects.", err=True)
            with progress_bar("objects", quiet=as_json) as on_progress:
                await Rebuilder(scan).run(on_progress)
            lines = [
                (counts["objects"], "objects"),
                *((counts[name], text) for name, text in (BECAME | UNUSED).items() if counts[name]),
            ]
            summary = {
                **plan,
                "objects": counts["objects"],
                **{outcome: counts[outcome] for outcome in BECAME},
                "unused": {reason: counts[reason] for reason in UNUSED},
            }
            maintenance.print_report(checkpoint.findings(), lines, summary, as_json=as_json)
            return not any(counts[name] for name in (*UNUSED, Rebuilt.BUSY))

    if not asyncio.run(run()):
        raise typer.Exit(1)
