"""``receiver jobs`` and ``receiver job``: what the ledger knows."""

import asyncio
import contextlib
from typing import Annotated

import typer

from receiver.api.params import MAX_LIMIT
from receiver.cli import output
from receiver.cli.common import AsJson, fail, opened
from receiver.cli.options import whole
from receiver.cli.selection import Reason, Ref, Since, States, Until, chosen, complete_id, the_job
from receiver.core.errors import LedgerError
from receiver.ledger import LedgerReader

LIMIT = 20
PAGE = 500
"""Jobs that are read at a time where all are listed: a server beside is held up by no long look."""


def jobs(
    *,
    state: States = None,
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
    config, _ = opened()
    wanted, window = chosen(
        config,
        state,
        ref=ref,
        reason=reason,
        since=since,
        until=until,
        overdue=overdue,
        limit=str(size),
        cursor=cursor,
    )

    async def ask() -> None:
        view = await LedgerReader.open(config.data_dir)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(view.close)
            shown = output.Jobs(as_json=as_json)
            before = window.before
            while True:
                page = await view.jobs(wanted, before=before, limit=size)
                shown.page(page.jobs)
                before = page.next
                if before is None or not all_of_them:
                    break
            shown.end(before)

    asyncio.run(ask())


def job(
    job_id: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="The job's id, or its first four characters or more.",
            autocompletion=complete_id,
        ),
    ],
    *,
    as_json: AsJson = False,
) -> None:
    """Show one job and its history."""
    config, _ = opened()

    async def ask() -> None:
        view = await LedgerReader.open(config.data_dir)
        try:
            meant = await the_job(view, job_id)
            found = await view.job_with_history(meant.id)
        finally:
            await view.close()
        assert found is not None, "nobody removes a job"
        output.job(*found, as_json=as_json)

    try:
        asyncio.run(ask())
    except LedgerError as error:
        fail(error.detail if error.reason == "ledger.unknown_job" else str(error))
