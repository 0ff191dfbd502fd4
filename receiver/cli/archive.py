"""Commands that compare the ledger with the archive, and move images: ``audit``, ``rebuild``,
``archive-migrate`` and ``archive-move``.
"""

import itertools
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from receiver.archive.base import Depth, Inventory
from receiver.archive.factory import open_archive
from receiver.archive.locator import ArchiveLocator
from receiver.bootstrap.factories import make_data_dir
from receiver.cli.common import print_message, progress_bar
from receiver.cli.maintenance import FromStart, load_checked_config
from receiver.cli.options import decimal
from receiver.cli.output import print_counts, print_line, table
from receiver.config import Config
from receiver.core import serializers
from receiver.core.errors import ConfigError
from receiver.core.jobs import State
from receiver.core.rate_limit import RateLimiter
from receiver.ledger import Ledger, Rebuilt, holder
from receiver.operations.archive_scan import ArchiveScan, has_objects
from receiver.operations.audit import Auditor
from receiver.operations.checkpoint import Checkpoint, Finding
from receiver.operations.migrate import Migrator
from receiver.operations.rebuild import rebuild as rebuild_from
from receiver.operations.relocate import SAMPLE, Relocator, move

MAX_ROWS = 200
"""Findings in a table on a terminal; a pipe and JSON get all of them."""

WRONG = {
    "archive.missing": "archived images that are not there",
    "archive.unreadable": "files and folders that cannot be read, or archived images in them",
    "archive.altered": "that hold other bytes",
    "archive.unproved": "that nothing proves",
    "archive.mislabelled": "whose metadata are others than their job's",
    "archive.duplicate": "objects of a job that is archived elsewhere",
    "archive.foreign": "objects that belong to no job",
}
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
MIGRATED = {
    "moved": "images put, proved and recorded",
    "failed": "images that could not be moved",
    "elsewhere": "archived images that lay elsewhere already",
    "removed": "files removed from the folder",
    "left": "files left in the folder",
}

Rate = Annotated[float | None, decimal("At most so many objects a second.", 0.001, 100_000)]


def _json_lines(each: str) -> Any:
    return typer.Option("--json", help=f"Print a JSON line for each {each}, and the sum.")


async def audit(
    *,
    deep: Annotated[bool, typer.Option("--deep", help="Read all bytes of every object.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Compare size and metadata, and read no file of a folder.")
    ] = False,
    rate: Rate = None,
    from_start: FromStart = False,
    as_json: Annotated[bool, _json_lines("finding")] = False,
) -> bool:
    """Check every archived job against its object, and every object against the ledger.

    The archive is only read, and no job changes its state. If the archive was moved, the new addresses of its
    images are recorded first. A run that was cut off goes on where it was. Exit 1 if anything was found.
    """
    if deep and quick:
        raise typer.BadParameter("--deep and --quick exclude each other")
    depth = Depth.DEEP if deep else Depth.QUICK if quick else Depth.PROVED
    config, environ = load_checked_config()
    plan = {"archive": config.archive_uri, "depth": depth.value}
    async with (
        await Ledger.open_beside(config.ledger_location, make=False) as ledger,
        aclosing(open_archive(config.archive_uri, uploads=config.uploads, environ=environ)) as archive,
        aclosing(ArchiveLocator(archive, environ)) as locator,
        _scan("audit", config, ledger, archive, plan=plan, rate=rate, from_start=from_start) as scan,
    ):
        await _settle_moved_archive(ledger, archive, environ)
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
        _print_report(checkpoint.findings(), lines, summary, as_json=as_json)
        return not any(counts[reason] for reason in WRONG)


async def rebuild(
    *,
    rate: Rate = None,
    from_start: FromStart = False,
    as_json: Annotated[bool, _json_lines("object not used")] = False,
) -> bool:
    """Add to the ledger every job that the archive's objects name. Known jobs are not overwritten.

    It works on an empty data directory, and beside a running serve. A known job that has not been archived,
    and whose object is there and proved, is taken to archived. Exit 1 if an object was refused or left, or
    if nothing lies in the archive.
    """
    config, environ = load_checked_config()
    plan = {"archive": config.archive_uri}
    async with aclosing(open_archive(config.archive_uri, uploads=config.uploads, environ=environ)) as archive:
        if not await has_objects(archive):
            # With a wrong RECEIVER_ARCHIVE, an empty ledger would pass for the rebuilt one.
            raise ConfigError(f"RECEIVER_ARCHIVE: nothing lies in {archive.uri} to rebuild a ledger from")
        make_data_dir(config)
        async with await Ledger.open_beside(config.ledger_location) as ledger:
            await ledger.release_orphans()
            await _settle_moved_archive(ledger, archive, environ)
            async with _scan(
                "rebuild", config, ledger, archive, plan=plan, rate=rate, from_start=from_start
            ) as scan:
                checkpoint, counts = scan.checkpoint, scan.checkpoint.counts
                if checkpoint.resumed and not as_json:
                    typer.echo(f"Going on after {counts['objects']} objects.", err=True)
                with progress_bar("objects", quiet=as_json) as on_progress:
                    await rebuild_from(scan, on_progress)
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
                _print_report(checkpoint.findings(), lines, summary, as_json=as_json)
                return not any(counts[name] for name in (*UNUSED, Rebuilt.BUSY))


async def archive_migrate(
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
    as_json: Annotated[bool, _json_lines("image not moved")] = False,
) -> bool:
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
    async with (
        await Ledger.open_beside(config.ledger_location, make=False) as ledger,
        aclosing(open_archive(folder, uploads=config.uploads)) as origin,
        aclosing(open_archive(config.archive_uri, uploads=config.uploads, environ=environ)) as target,
    ):
        await target.probe()  # finds what the store does not honour, so that puts do without it
        await _settle_moved_archive(ledger, origin, environ)  # or nothing would seem to lie in the folder
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
    counts = migrator.counts
    lines = [(counts[name], text) for name, text in MIGRATED.items() if counts[name] or name == "moved"]
    summary = {
        "from": folder,
        "to": config.archive_uri,
        "bytes": counts["bytes"],
        **{name: counts[name] for name in MIGRATED},
    }
    _print_report(migrator.findings, lines, summary, as_json=as_json)
    return not migrator.findings


async def archive_move(
    former: Annotated[
        str,
        typer.Argument(metavar="FROM", help="Where the images lay: s3://bucket/prefix or file:///folder."),
    ],
    present: Annotated[str, typer.Argument(metavar="TO", help="Where they lie now, under the same keys.")],
    *,
    check_all: Annotated[
        bool, typer.Option("--all", help=f"Look at all images, and not only {SAMPLE}.")
    ] = False,
    as_json: Annotated[bool, _json_lines("image not found")] = False,
) -> bool:
    """Record in the ledger that the images of FROM, an archive that was moved as a whole, lie in TO now.

    It moves no image. It compares a sample of them with the ledger, and records nothing if one is not there
    or holds other bytes. With --all it compares each image, records those that are right, and names the
    others. Exit 1 if one is wrong. A serve that has TO as its RECEIVER_ARCHIVE needs no command if nothing
    is left in FROM: it notices at its start.
    """
    config, environ = load_checked_config()
    source = _opened(former, "FROM", environ)
    target = _opened(present, "TO", environ)
    if source.uri == target.uri:
        raise typer.BadParameter("FROM and TO are the same", param_hint="TO")
    async with (
        await Ledger.open_beside(config.ledger_location, make=False) as ledger,
        aclosing(source),
        aclosing(target),
    ):
        with progress_bar("images", quiet=as_json) as on_progress:
            checked, changed, findings = await move(
                ledger,
                f"{source.uri}/",
                target,
                check_all=check_all,
                concurrency=config.uploads,
                on_progress=on_progress,
            )
        if not checked:
            raise ConfigError(f"FROM: the ledger knows of no image in {source.uri}")
    lines = [(checked, "images looked at"), (changed, "images recorded at their new place")]
    summary = {"from": source.uri, "to": target.uri, "checked": checked, "changed": changed}
    _print_report(findings, lines, summary, as_json=as_json)
    return not findings


def _opened(uri: str, name: str, environ: Mapping[str, str]) -> Inventory:
    try:
        return open_archive(uri, environ=environ)
    except ConfigError as error:
        raise typer.BadParameter(str(error).partition(": ")[2], param_hint=name) from None


async def _settle_moved_archive(ledger: Ledger, archive: Inventory, environ: Mapping[str, str]) -> None:
    """Record where the images of the archive lie, if it was moved, and tell of it."""
    async with aclosing(ArchiveLocator(archive, environ)) as locator:
        if count := await Relocator(ledger, archive, locator).record_moved():
            typer.echo(f"The archive was moved: {count} images are recorded in {archive.uri} now.", err=True)


@asynccontextmanager
async def _scan(
    name: str,
    config: Config,
    ledger: Ledger,
    archive: Inventory,
    *,
    plan: Mapping[str, str],
    rate: float | None,
    from_start: bool,
) -> AsyncIterator[ArchiveScan]:
    """Open the checkpoint of a run, and a scan that continues after it."""
    with await Checkpoint.open(ledger, config.data_dir, name, plan=plan, from_start=from_start) as checkpoint:
        yield ArchiveScan(ledger, archive, checkpoint, config.uploads, RateLimiter(rate).wait)


def _print_report(
    findings: Iterable[Finding],
    counts: Iterable[tuple[int, str]],
    summary: Mapping[str, Any],
    *,
    as_json: bool,
) -> None:
    """Print findings, as a table on a terminal, and counts; or findings and summary as JSON lines."""
    if as_json:
        for document in itertools.chain(findings, [{"summary": summary}]):
            print(json.dumps(document, ensure_ascii=False))  # noqa: T201 - a command's output
        return
    console = Console()
    rows = ([it["job"] or "", it["reason"], it["uri"] or "", it["detail"]] for it in findings)
    if not console.is_terminal:
        for row in rows:
            print_line(row)
    elif first := list(itertools.islice(rows, MAX_ROWS)):
        console.print(table(("job", "reason", "object", "detail"), first))
        if more := sum(1 for _ in rows):
            console.print(f"… and {more} more; --json gives all of them.", style="dim")
    print_counts(counts)
