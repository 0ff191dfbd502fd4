"""Which jobs are meant: the options and arguments that say so, and help where they say it wrongly."""

import asyncio
import contextlib
import difflib
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from starlette.datastructures import QueryParams

from receiver.api import params
from receiver.cli.common import opened
from receiver.cli.options import SUGGESTED, choice
from receiver.config import Config
from receiver.core.clock import wall_clock
from receiver.core.errors import REASONS, BodyError, LedgerError
from receiver.core.jobs import Job, State, overdue_cutoff
from receiver.ledger import Filter, LedgerReader

LEAST_PREFIX = 4
"""Characters of an id that may stand for the whole."""

LOOKED_AT = 50
COMPLETED = 50

_AGO = re.compile(r"(\d{1,18})\s*([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def complete_id(incomplete: str) -> Iterator[str]:
    """Ids for the shell: those that begin so; the newest where nothing was typed yet."""
    with contextlib.suppress(Exception):  # a shell shows nothing rather than our trouble
        yield from asyncio.run(_ids(opened()[0], incomplete))


def moment(text: str) -> str:
    """A time as the API reads it; ``2h`` is two hours ago.

    Raises:
        typer.BadParameter: it is none.
    """
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
Reason = Annotated[
    str | None,
    choice("--reason", list(REASONS), "Only jobs with this reason, such as fetch.gone.", "REASON"),
]
Since = Annotated[
    str | None,
    typer.Option(
        parser=moment,
        metavar="TIME",
        help="Only jobs first heard of then or later: 2026-11-23T09:30:00Z, or 2h for 2 h ago.",
    ),
]
Until = Annotated[
    str | None, typer.Option(parser=moment, metavar="TIME", help="Only jobs first heard of before then.")
]


def chosen(
    config: Config,
    states: Sequence[State] | None,
    *,
    since: str | None,
    until: str | None,
    overdue: bool | None = None,
    **parameters: str | None,
) -> tuple[Filter, params.Window]:
    """Options as ``GET /jobs`` reads them.

    Raises:
        typer.BadParameter: as it refuses them.
    """
    given = [("state", state.value) for state in states or ()]
    given += [(name, text) for name, text in (("since", since), ("until", until)) if text is not None]
    given += [("overdue", str(overdue).lower())] if overdue is not None else []
    given += [(name, value) for name, value in parameters.items() if value is not None]
    overdue_before = overdue_cutoff(wall_clock(), config.overdue_after)
    try:
        return params.jobs(QueryParams(given), overdue_before=overdue_before)
    except BodyError as error:
        raise typer.BadParameter(error.detail) from None


async def the_job(view: LedgerReader, text: str) -> Job:
    """The job that is meant by an id, or by the beginning of one.

    Raises:
        LedgerError: ``ledger.unknown_job``, with what may have been meant.
    """
    if not text or not text.isprintable():
        raise LedgerError("ledger.unknown_job", "there is no job of this id")
    for spelling in dict.fromkeys((text, text.lower())):
        if (job := await view.job(spelling)) is not None:
            return job
        if len(spelling) < LEAST_PREFIX:
            continue
        found = await view.jobs_with_prefix(spelling, SUGGESTED + 1)
        if len(found) == 1:
            return found[0]
        if found:
            raise LedgerError(
                "ledger.unknown_job", f"{text} begins several jobs: {_named(found)}; type more of the id"
            )
    near = _nearest(text, await view.similar_jobs(text, LOOKED_AT))
    if near:
        raise LedgerError("ledger.unknown_job", f"there is no job {text}; did you mean {_named(near)}?")
    least = f"; the first {LEAST_PREFIX} characters of an id are enough" if len(text) < LEAST_PREFIX else ""
    raise LedgerError("ledger.unknown_job", f"there is no job {text}{least}")


def _nearest(text: str, jobs: Sequence[Job]) -> Sequence[Job]:
    """Those that look most like the text; a job with exactly this reference looks like it the most."""

    def likeness(job: Job) -> float:
        by_id = difflib.SequenceMatcher(None, text.lower(), job.id[: len(text)].lower()).ratio()
        by_ref = difflib.SequenceMatcher(None, text, (job.ref or "")[: len(text)]).ratio()
        return max(by_id, by_ref)

    alike = sorted({job.id: job for job in jobs}.values(), key=likeness, reverse=True)
    return [job for job in alike if likeness(job) >= 0.6][:SUGGESTED]


def _named(jobs: Sequence[Job]) -> str:
    names = [
        f"{job.id} ({job.state}{f', reference {job.ref}' if job.ref else ''})" for job in jobs[:SUGGESTED]
    ]
    more = ["others"] if len(jobs) > SUGGESTED else []
    return " or ".join([*names, *more])


async def _ids(config: Config, incomplete: str) -> list[str]:
    view = await LedgerReader.open(config.data_dir)
    try:
        if incomplete:
            return [job.id for job in await view.jobs_with_prefix(incomplete, COMPLETED)]
        return [job.id for job in (await view.jobs(Filter(), limit=COMPLETED)).jobs]
    finally:
        await view.close()
