"""``receiver rebuild``: the ledger from the archive alone."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Annotated

import typer

from receiver.archive.base import open_archive
from receiver.bootstrap.factories import make_data_dir
from receiver.cli.common import counting
from receiver.cli.maintenance import FromStart, Rate, opened, print_counts, print_findings, print_lines, turns
from receiver.config import Config
from receiver.core.clock import wall_clock
from receiver.core.errors import ConfigError
from receiver.ledger import Ledger, Rebuilt
from receiver.operations.archive_scan import Walk, be_there
from receiver.operations.checkpoint import Journal
from receiver.operations.rebuild import Rebuilder

BECAME = {
    Rebuilt.KNOWN: "known already",
    Rebuilt.ADDED: "jobs added",
    Rebuilt.MOVED: "known jobs taken to archived",
    Rebuilt.BUSY: "left alone, since their job is being worked on; run it again",
}
UNUSED = {
    "archive.altered": "refused: other bytes than their metadata say",
    "archive.mislabelled": "refused: metadata that are not those of an archived image, or of another one",
    "archive.duplicate": "left aside: further objects of a job",
    "archive.foreign": "left aside: they name no job",
}


def rebuild(
    *,
    rate: Rate = None,
    from_start: FromStart = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON line for each object not used, and the sum.")
    ] = False,
) -> None:
    """Add to the ledger every job that the archive's objects name. Known jobs are not overwritten.

    It works on an empty data directory, and beside a running serve. A known job that has not been archived,
    and whose object is there and proved, is taken to archived. Exit 1 if an object was refused or left, or
    if nothing lies in the archive.
    """
    config, environ = opened()
    if not asyncio.run(_rebuild(config, environ, rate, from_start=from_start, as_json=as_json)):
        raise typer.Exit(1)


async def _rebuild(
    config: Config, environ: Mapping[str, str], rate: float | None, *, from_start: bool, as_json: bool
) -> bool:
    async with contextlib.AsyncExitStack() as stack:
        archive = open_archive(config.archive_uri, uploads=config.uploads, environ=environ)
        stack.push_async_callback(archive.aclose)
        if not await be_there(archive):
            # A mistyped place would pass for a rebuild, and an empty ledger for the restored
            # one, by Litestream as well as by an operator.
            raise ConfigError(f"RECEIVER_ARCHIVE: nothing lies in {archive.uri} to rebuild a ledger from")
        make_data_dir(config)
        ledger = await Ledger.open_beside(config.data_dir)
        stack.push_async_callback(ledger.close)
        await ledger.release_orphans(config.data_dir)
        plan = {"archive": config.archive_uri}
        journal = stack.enter_context(
            await Journal.open(
                ledger, config.data_dir, "rebuild", plan=plan, now=wall_clock(), from_start=from_start
            )
        )
        walk = Walk(
            ledger=ledger,
            archive=archive,
            journal=journal,
            hands=config.uploads,
            turn=turns(rate),
            now=wall_clock,
        )
        if journal.resumed and not as_json:
            typer.echo(f"Going on after {journal.counts['objects']} objects.", err=True)
        with counting("objects", quiet=as_json) as told:
            await Rebuilder(walk).run(lambda done: told(done, None))
        counts = journal.counts
        if as_json:
            print_lines(journal.findings())
            names = {what.value: counts[what] for what in BECAME}
            unused = {reason: counts[reason] for reason in UNUSED}
            print_lines([{"summary": {**plan, "objects": counts["objects"], **names, "unused": unused}}])
        else:
            print_findings(journal.findings())
            print_counts([(counts["objects"], "objects")])
            print_counts((counts[what], text) for what, text in BECAME.items() if counts[what])
            print_counts((counts[what], text) for what, text in UNUSED.items() if counts[what])
        return not (counts["archive.altered"] or counts["archive.mislabelled"] or counts[Rebuilt.BUSY])
