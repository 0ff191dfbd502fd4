"""Options and arguments that select jobs, with suggestions for mistyped ones."""

import asyncio
import contextlib
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from starlette.datastructures import QueryParams

from receiver.api import params
from receiver.cli.common import load_config
from receiver.cli.options import choice
from receiver.config import Config
from receiver.core.clock import wall_clock
from receiver.core.errors import REASONS, BodyError, LedgerError
from receiver.core.jobs import Job, State, overdue_cutoff
from receiver.ledger import Filter, LedgerReader

LEAST_PREFIX = 4
"""Characters of an id that are enough to name a job."""

MAX_NAMED = 3
"""Jobs that are named of those whose ids begin alike."""

MAX_COMPLETIONS = 50

_AGO = re.compile(r"(\d{1,18})\s*([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def complete_id(incomplete: str) -> Iterator[str]:
    """Yield ids for the shell: those with this prefix, or the newest if nothing was typed yet."""
    with contextlib.suppress(Exception):  # a shell must not show errors here
        yield from asyncio.run(_ids(load_config()[0], incomplete))


def parse_time(text: str) -> str:
    """Return a time as the API reads it; ``2h`` is two hours ago. Raise `typer.BadParameter` for no time."""
    try:
        if (ago := _AGO.fullmatch(text.strip())) is not None:
            return (datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})).isoformat()
        params.moment(text)
    except OverflowError:
        raise typer.BadParameter(f"{text} ago was before all time") from None
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time such as 2026-11-23T09:30:00Z, or 2h for 2 h ago"
        ) from None
    return text


JobId = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="The job's id, or its first four characters or more.", autocompletion=complete_id
    ),
]
States = Annotated[
    list[State] | None,
    choice(
        "--state",
        list(State),
        f"Only jobs in this state; may be given several times: {', '.join(State)}.",
        "STATE",
    ),
]
Ref = Annotated[str | None, typer.Option("--ref", metavar="REF", help="Only jobs with this reference.")]
Provider = Annotated[
    str | None, typer.Option("--provider", metavar="NAME", help="Only jobs of this provider.")
]
Reason = Annotated[
    str | None,
    choice("--reason", list(REASONS), "Only jobs with this reason, such as fetch.gone.", "REASON"),
]
Since = Annotated[
    str | None,
    typer.Option(
        parser=parse_time,
        metavar="TIME",
        help="Only jobs first heard of then or later: 2026-11-23T09:30:00Z, or 2h for 2 h ago.",
    ),
]
Until = Annotated[
    str | None, typer.Option(parser=parse_time, metavar="TIME", help="Only jobs first heard of before then.")
]


def job_filter(
    config: Config, states: Sequence[State] | None, **parameters: str | None
) -> tuple[Filter, params.Window]:
    """Return the filter and the page that options select, as ``GET /jobs`` reads them.

    Raise `typer.BadParameter` where it would refuse them.
    """
    given = [("state", state.value) for state in states or ()]
    given += [(name, value) for name, value in parameters.items() if value is not None]
    overdue_before = overdue_cutoff(wall_clock(), config.overdue_after)
    try:
        return params.jobs(QueryParams(given), overdue_before=overdue_before)
    except BodyError as error:
        raise typer.BadParameter(error.detail) from None


async def find_job(reader: LedgerReader, text: str) -> Job:
    """Return the job with an id, or with an id that begins so.

    Raise `LedgerError` ``ledger.unknown_job``, with suggestions, if there is none.
    """
    if not text or not text.isprintable():
        raise LedgerError("ledger.unknown_job", "there is no job of this id")
    for spelling in dict.fromkeys((text, text.lower())):
        if (job := await reader.job(spelling)) is not None:
            return job
        if len(spelling) < LEAST_PREFIX:
            continue
        found = await reader.jobs_with_prefix(spelling, MAX_NAMED + 1)
        if len(found) == 1:
            return found[0]
        if found:
            raise LedgerError(
                "ledger.unknown_job", f"{text} begins several jobs: {_named(found)}; type more of the id"
            )
    least = f"; the first {LEAST_PREFIX} characters of an id are enough" if len(text) < LEAST_PREFIX else ""
    raise LedgerError("ledger.unknown_job", f"there is no job {text}{least}")


def _named(jobs: Sequence[Job]) -> str:
    names = [f"{j.id} ({j.state}{f', reference {j.ref}' if j.ref else ''})" for j in jobs[:MAX_NAMED]]
    return " or ".join(names if len(jobs) <= MAX_NAMED else [*names, "others"])


async def _ids(config: Config, incomplete: str) -> list[str]:
    async with await LedgerReader.open(config.ledger_location) as reader:
        if incomplete:
            return [job.id for job in await reader.jobs_with_prefix(incomplete, MAX_COMPLETIONS)]
        return [job.id for job in (await reader.jobs(Filter(), limit=MAX_COMPLETIONS)).jobs]
