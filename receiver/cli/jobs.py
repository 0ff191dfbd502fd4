"""``receiver jobs`` and ``job``, and what gives up jobs: ``forget`` and ``disk-lost``."""

from typing import Annotated

import typer
from rich.console import Console

from receiver.api.params import MAX_LIMIT
from receiver.cli import output
from receiver.cli.common import AsJson, Yes, can_ask, confirm, fail, load_config, on_ledger, print_message
from receiver.cli.options import whole
from receiver.cli.selection import JobId, Provider, Reason, Ref, Since, States, Until, find_job, job_filter
from receiver.core import serializers
from receiver.core.errors import LedgerError
from receiver.core.jobs import State
from receiver.ledger import Ledger, LedgerReader

LIMIT = 20
PAGE = 500
"""Jobs in one query of ``--all``, so that no query takes long beside a running server."""


async def jobs(
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

    async with await LedgerReader.open(config.ledger_location) as reader:
        listing = output.JobList(as_json=as_json)
        before = window.before
        while True:
            page = await reader.jobs(wanted, before=before, limit=size)
            listing.page(page.jobs)
            if (before := page.next) is None or not all_of_them:
                break
        listing.end(before, incomplete=page.incomplete)


async def job(job_id: JobId, *, as_json: AsJson = False) -> None:
    """Show one job and its history."""
    config, _ = load_config()
    try:
        async with await LedgerReader.open(config.ledger_location) as reader:
            meant = await find_job(reader, job_id)
            found = await reader.job_with_history(meant.id)
    except LedgerError as error:
        fail(error.detail if error.reason == "ledger.unknown_job" else str(error))
    assert found is not None, "jobs are never removed"
    output.job(*found, as_json=as_json)


def forget(job_id: JobId, *, yes: Yes = False, as_json: AsJson = False) -> None:
    """Give up a job of which nothing was received, such as one that was announced under a mistyped id.

    It is shown first, and given up after a yes; in a pipe only with --yes. It is `failed` then, and no longer
    overdue or asked for. Its completion is taken all the same, should it come.
    """
    config, _ = load_config()
    job = on_ledger(LedgerReader.open(config.ledger_location), lambda ledger: find_job(ledger, job_id))
    if job.state is State.SUBMITTED and not yes:  # others are refused below
        if can_ask():
            output.facts(serializers.job(job), Console(stderr=True, soft_wrap=True))
        confirm("Give this job up? [y/N] ")
    job = on_ledger(Ledger.open_beside(config.ledger_location), lambda ledger: ledger.forget(job.id))
    if as_json:
        output.print_json(serializers.job(job))
    print_message(f"job {job.id} is given up")


def disk_lost(
    name: Annotated[str, typer.Argument(help="The receiver's RECEIVER_INSTANCE.", show_default=False)],
    *,
    yes: Yes = False,
) -> None:
    """Give up the disk of a receiver that will not come back, of several on one ledger.

    Images that only that disk has are fetched again. Those whose URL lives no more become `expired`, unless
    the provider names another one. It asks first; in a pipe it needs --yes.
    """
    config, _ = load_config()
    if not yes:
        confirm(f"Give up the disk of {name} for good? [y/N] ")
    jobs = on_ledger(Ledger.open_beside(config.ledger_location), lambda ledger: ledger.give_up_disk(name))
    if jobs is None:
        fail(f"no receiver named {name} is dead; one that is killed is noticed after a minute")
    print_message(f"the images of {len(jobs)} jobs are fetched again, as far as their URLs live")
