"""``receiver prune``."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

import typer

from receiver.cli import output
from receiver.cli.common import AsJson, progress_bar
from receiver.cli.maintenance import load_checked_config, print_counts
from receiver.config import duration
from receiver.core.clock import wall_clock
from receiver.ledger import Ledger, LedgerReader
from receiver.operations.retention import Pruner, count_prunable

NAMES = {
    "history": "lines of the history of archived jobs",
    "bodies": "raw bodies of archived jobs",
    "unread": "deliveries that could not be read",
    "tickets": "tickets that are accepted no more",
    "submissions": "submissions whose job is known",
    "notifications": "notifications that were given up",
    "archived_by_hour": "counts of archived images that the page no longer shows",
    "failed_by_day": "counts of failures that the page no longer shows",
}


def prune(
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
    keep = config.keep_history if older_than is None else _duration(older_than)

    async def run() -> Mapping[str, int]:
        if dry_run:
            async with await LedgerReader.open(config.ledger_location) as reader:
                return await count_prunable(reader, keep, wall_clock())
        async with await Ledger.open_beside(config.ledger_location, make=False) as ledger:
            with progress_bar("rows removed", quiet=as_json) as on_progress:
                pruner = Pruner(ledger=ledger, keep=keep, now=ledger.now)
                return await pruner.round(lambda removed: on_progress(sum(removed.values())))

    removed = asyncio.run(run())
    if as_json:
        output.print_json({"dry_run": dry_run, "rows": {name: removed.get(name, 0) for name in NAMES}})
    else:
        print_counts((removed.get(name, 0), what) for name, what in NAMES.items())


def _duration(text: str) -> timedelta:
    try:
        return duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
