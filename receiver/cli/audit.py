"""``receiver audit``."""

import asyncio
from contextlib import aclosing
from typing import Annotated

import typer

from receiver.archive.base import Depth
from receiver.archive.factory import open_archive
from receiver.archive.locator import ArchiveLocator
from receiver.cli import maintenance
from receiver.cli.common import progress_bar
from receiver.core import serializers
from receiver.core.jobs import State
from receiver.ledger import Ledger
from receiver.operations.audit import Auditor

WRONG = {
    "archive.missing": "archived images that are not there",
    "archive.unreadable": "files and folders that cannot be read, or archived images in them",
    "archive.altered": "that hold other bytes",
    "archive.unproved": "that nothing proves",
    "archive.mislabelled": "whose metadata are others than their job's",
    "archive.duplicate": "objects of a job that is archived elsewhere",
    "archive.foreign": "objects that belong to no job",
}


def audit(
    *,
    deep: Annotated[bool, typer.Option("--deep", help="Read all bytes of every object.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Compare size and metadata, and read no file of a folder.")
    ] = False,
    rate: maintenance.Rate = None,
    from_start: maintenance.FromStart = False,
    as_json: Annotated[bool, maintenance.json_lines("finding")] = False,
) -> None:
    """Check every archived job against its object, and every object against the ledger.

    The archive is only read, and no job changes its state. If the archive was moved, the new addresses of its
    images are recorded first. A run that was cut off goes on where it was. Exit 1 if anything was found.
    """
    if deep and quick:
        raise typer.BadParameter("--deep and --quick exclude each other")
    depth = Depth.DEEP if deep else Depth.QUICK if quick else Depth.PROVED
    config, environ = maintenance.load_checked_config()
    plan = {"archive": config.archive_uri, "depth": depth.value}

    async def run() -> bool:
        async with (
            await Ledger.open_beside(config.ledger_location, make=False) as ledger,
            aclosing(open_archive(config.archive_uri, uploads=config.uploads, environ=environ)) as archive,
            aclosing(ArchiveLocator(archive, environ)) as locator,
            maintenance.archive_scan(
                "audit", config, ledger, archive, plan=plan, rate=rate, from_start=from_start
            ) as scan,
        ):
            await maintenance.settle_moved_archive(ledger, archive, environ)
            checkpoint, counts = scan.checkpoint, scan.checkpoint.counts
            jobs = (await ledger.stats(overdue_before=0)).jobs[State.ARCHIVED]
            if checkpoint.resumed and not as_json:
                typer.echo(f"Going on after {counts['jobs']} jobs and {counts['objects']} objects.", err=True)
            with progress_bar("audited", quiet=as_json) as on_progress:
                await Auditor(scan, locator, depth).run(
                    lambda unit, done: on_progress(done if unit == "jobs" else jobs + done, 2 * jobs)
                )
            lines = [
                (counts["jobs"], "archived jobs checked"),
                (counts["objects"], "objects listed"),
                *((counts[reason], text) for reason, text in WRONG.items() if counts[reason]),
            ]
            summary = {
                **plan,
                "began_at": serializers.time(checkpoint.began_at),
                "finished_at": serializers.time(checkpoint.finished_at),
                "jobs": counts["jobs"],
                "objects": counts["objects"],
                "found": {reason: counts[reason] for reason in WRONG},
            }
            maintenance.print_report(checkpoint.findings(), lines, summary, as_json=as_json)
            return not any(counts[reason] for reason in WRONG)

    if not asyncio.run(run()):
        raise typer.Exit(1)
