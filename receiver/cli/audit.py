"""``receiver audit``: every archived job against its object, and every object against the ledger."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from receiver.archive.base import Depth, open_archive
from receiver.archive.locator import ArchiveLocator
from receiver.cli.common import counting
from receiver.cli.maintenance import FromStart, Rate, opened, print_counts, print_findings, print_lines, turns
from receiver.config import Config
from receiver.core import serializers
from receiver.core.clock import wall_clock
from receiver.core.jobs import State
from receiver.ledger import Ledger
from receiver.operations.archive_scan import Walk
from receiver.operations.audit import Auditor
from receiver.operations.checkpoint import Journal

WRONG = {
    "archive.missing": "archived images that are not there",
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
    rate: Rate = None,
    from_start: FromStart = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON line for each finding, and the sum.")
    ] = False,
) -> None:
    """Check every archived job against its object, and every object against the ledger.

    Nothing in the archive is changed, and no job. A run that was cut off goes on where it was. Exit 1 if
    anything was found.
    """
    if deep and quick:
        raise typer.BadParameter("--deep and --quick exclude each other")
    depth = Depth.DEEP if deep else Depth.QUICK if quick else Depth.PROVED
    config, environ = opened()
    sound = asyncio.run(_audit(config, environ, depth, rate, from_start=from_start, as_json=as_json))
    if not sound:
        raise typer.Exit(1)


async def _audit(
    config: Config,
    environ: Mapping[str, str],
    depth: Depth,
    rate: float | None,
    *,
    from_start: bool,
    as_json: bool,
) -> bool:
    async with contextlib.AsyncExitStack() as stack:
        ledger = await Ledger.open_beside(config.data_dir, make=False)
        stack.push_async_callback(ledger.close)
        plan = {"archive": config.archive_uri, "depth": depth.value}
        journal = stack.enter_context(
            await Journal.open(
                ledger, config.data_dir, "audit", plan=plan, now=wall_clock(), from_start=from_start
            )
        )
        archive = open_archive(config.archive_uri, uploads=config.uploads, environ=environ)
        stack.push_async_callback(archive.aclose)
        places = ArchiveLocator(archive, environ)
        stack.push_async_callback(places.aclose)
        walk = Walk(
            ledger=ledger,
            archive=archive,
            journal=journal,
            hands=config.uploads,
            turn=turns(rate),
            now=wall_clock,
        )
        auditor = Auditor(walk, places, depth)
        jobs = (await ledger.stats(overdue_before=0)).jobs[State.ARCHIVED]
        if journal.resumed and not as_json:
            typer.echo(
                f"Going on after {journal.counts['jobs']} jobs and {journal.counts['objects']} objects.",
                err=True,
            )
        with counting("audited", quiet=as_json) as told:
            await auditor.run(lambda what, done: told(done if what == "jobs" else jobs + done, 2 * jobs))
        counts = journal.counts
        if as_json:
            print_lines(journal.findings())
            print_lines([{"summary": _summary(journal)}])
        else:
            print_findings(journal.findings())
            print_counts(
                [
                    (counts["jobs"], "archived jobs checked"),
                    (counts["objects"], "objects listed"),
                    *((counts[reason], what) for reason, what in WRONG.items() if counts[reason]),
                ]
            )
        return not found(counts)


def found(counts: Counter[str]) -> int:
    """How many things are wrong."""
    return sum(counts[reason] for reason in WRONG)


def _summary(journal: Journal) -> dict[str, Any]:
    return {
        **journal.plan,
        "began_at": serializers.time(journal.began_at),
        "finished_at": serializers.time(journal.finished_at),
        "jobs": journal.counts["jobs"],
        "objects": journal.counts["objects"],
        "found": {reason: journal.counts[reason] for reason in WRONG},
    }
