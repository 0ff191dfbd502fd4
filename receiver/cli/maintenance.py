"""What the maintenance commands share: settings, the scan of the archive, and their report."""

import contextlib
import itertools
import json
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console

from receiver.archive.base import Inventory
from receiver.archive.locator import ArchiveLocator
from receiver.bootstrap.factories import check_settings
from receiver.cli import common
from receiver.cli.options import decimal
from receiver.cli.output import print_line, table
from receiver.config import Config
from receiver.core.rate_limit import RateLimiter
from receiver.ledger import Ledger
from receiver.operations.archive_scan import ArchiveScan
from receiver.operations.checkpoint import Checkpoint, Finding
from receiver.operations.relocate import Relocator

Rate = Annotated[float | None, decimal("At most so many objects a second.", 0.001, 100_000)]
FromStart = Annotated[
    bool, typer.Option("--from-start", help="Begin anew, and not where the last run was cut off.")
]

MAX_ROWS = 200
"""Findings in a table on a terminal; a pipe and JSON get all of them."""


def json_lines(each: str) -> Any:
    """Return the option for JSON lines, each of which is one of these things."""
    return typer.Option("--json", help=f"Print a JSON line for each {each}, and the sum.")


def load_checked_config() -> tuple[Config, Mapping[str, str]]:
    """Return the settings, checked as `serve` checks them, and the environment that they come from.

    Raises:
        ConfigError: one line that names the setting.
    """
    config, environ = common.load_config()
    check_settings(config, environ)
    common.export_library_variables(environ)
    os.umask(0o077)  # whatever is created here is readable by its owner alone
    return config, environ


async def settle_moved_archive(ledger: Ledger, archive: Inventory, environ: Mapping[str, str]) -> None:
    """Record where the images of the archive lie, if it was moved, and tell of it."""
    async with contextlib.aclosing(ArchiveLocator(archive, environ)) as locator:
        if count := await Relocator(ledger, archive, locator).record_moved():
            typer.echo(f"The archive was moved: {count} images are recorded in {archive.uri} now.", err=True)


@contextlib.asynccontextmanager
async def archive_scan(
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
    with await Checkpoint.open(
        ledger, config.data_dir, name, plan=plan, now=ledger.now(), from_start=from_start
    ) as checkpoint:
        yield ArchiveScan(
            ledger=ledger,
            archive=archive,
            checkpoint=checkpoint,
            concurrency=config.uploads,
            throttle=RateLimiter(rate).wait,
            now=ledger.now,
        )


def print_report(
    findings: Iterable[Finding],
    counts: Iterable[tuple[int, str]],
    summary: Mapping[str, Any],
    *,
    as_json: bool,
) -> None:
    """Print findings and counts as text, or findings and summary as JSON lines.

    Findings are a table on a terminal, and tab-separated lines in a pipe.
    """
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


def print_counts(counts: Iterable[tuple[int, str]]) -> None:
    """Print numbers with what they count."""
    for number, what in counts:
        typer.echo(f"{number:>9}  {what}")
