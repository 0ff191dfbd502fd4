"""``receiver jobs`` and ``receiver job``."""

import asyncio
from typing import Annotated

import typer

from receiver.api.params import MAX_LIMIT
from receiver.cli import output
from receiver.cli.common import AsJson, fail, load_config
from receiver.cli.options import whole
from receiver.cli.selection import JobId, Provider, Reason, Ref, Since, States, Until, find_job, job_filter
from receiver.core.errors import LedgerError
from receiver.ledger import LedgerReader

LIMIT = 20
PAGE = 500
"""Jobs in one query of ``--all``, so that no query takes long beside a running server."""


def jobs(
    *,
    search: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Only jobs whose id, reference, or host of either URL is this, or begins with it.",
        ),
    ] = None,
    state: States = None,
    provider: Provider = None,
    ref: Ref = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    overdue: Annotated[
        bool | None, typer.Option("--overdue/--no-overdue", help="Only overdue jobs; or all others.")
    ] = None,
    limit: Annotated[
        int | None, whole(f"At most so many, the newest first; else {LIMIT}.", 1, MAX_LIMIT)
    ] = None,
    cursor: Annotated[str | None, typer.Option(help="The `next` of the page before.")] = None,
    all_of_them: Annotated[bool, typer.Option("--all", help="List all jobs, page after page.")] = False,
    as_json: AsJson = False,
) -> None:
    """List jobs, the newest first."""
    if all_of_them and limit is not None:
        raise typer.BadParameter("--all and --limit exclude each other")
    size = PAGE if all_of_them else limit or LIMIT
    config, _ = load_config()
    wanted, window = job_filter(
        config,
        state,
        search=search,
        provider=provider,
        ref=ref,
        reason=reason,
        since=since,
        until=until,
        overdue=None if overdue is None else str(overdue).lower(),
        limit=str(size),
        cursor=cursor,
    )

    async def show() -> None:
        async with await LedgerReader.open(config.ledger_location) as reader:
            listing = output.JobList(as_json=as_json)
            before = window.before
            while True:
                page = await reader.jobs(wanted, before=before, limit=size)
                listing.page(page.jobs)
                before = page.next
                if before is None or not all_of_them:
                    break
            listing.end(before, incomplete=page.incomplete)

    asyncio.run(show())


def job(
    job_id: JobId,
    *,
    as_json: AsJson = False,
) -> None:
    """Show one job and its history."""
    config, _ = load_config()

    async def show() -> None:
        async with await LedgerReader.open(config.ledger_location) as reader:
            meant = await find_job(reader, job_id)
            found = await reader.job_with_history(meant.id)
        assert found is not None, "jobs are never removed"
        output.job(*found, as_json=as_json)

    try:
        asyncio.run(show())
    except LedgerError as error:
        fail(error.detail if error.reason == "ledger.unknown_job" else str(error))
