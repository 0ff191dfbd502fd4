"""``receiver retry``: jobs that shall be tried again now, by id or by filter."""

import asyncio
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import typer

from receiver import tables
from receiver.cli.common import AsJson, counting, fail, opened, say, until_signal
from receiver.cli.selection import Reason, Ref, Since, States, Until, chosen, complete_id, the_job
from receiver.config import Config
from receiver.errors import LedgerError
from receiver.ledger import Filter, Ledger, LedgerView
from receiver.states import Job, State

RETRIED = (State.RECEIVED, State.FETCHED, State.FAILED, State.REJECTED, State.EXPIRED)
"""States in which there is something to try."""

PAGE = 500
AT_A_TIME = 50
"""Jobs that share a commit. A server beside waits for one commit, and never for all of them."""

SHOWN = 20
"""Rows of a table on a terminal, where the rest is told in numbers."""

NO_IMAGE = "the provider has named no image to fetch"


@dataclass(frozen=True, slots=True)
class _Row:
    """One job, what is wanted of it, and what came of that.

    Attributes:
        id: as it was found, or as it was typed where none was found.
        ref: its reference.
        before: its state, where it was found.
        reason: why it is in it.
        after: its state once it was told to be tried again.
        obstacle: why it cannot be, and what can be done instead.
    """

    id: str
    ref: str | None = None
    before: State | None = None
    reason: str | None = None
    after: State | None = None
    obstacle: str | None = None


def retry(
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ID",
            help="Jobs; the first four characters of an id are enough.",
            show_default=False,
            autocompletion=complete_id,
        ),
    ] = None,
    *,
    state: States = None,
    reason: Reason = None,
    ref: Ref = None,
    since: Since = None,
    until: Until = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show which.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Try jobs again now: those of the ids, or all that the options choose.

    What the options choose is shown first, and done after a yes; in a pipe only with --yes. A running serve
    takes the jobs up within a second; without one, the next start does.
    """
    by_filter = any(value is not None and value != [] for value in (state, reason, ref, since, until))
    if bool(ids) == by_filter:
        raise typer.BadParameter(
            "name jobs by their ids, or choose them with options such as --state rejected"
        )
    for each in state or ():
        if each not in RETRIED:
            raise typer.BadParameter(f"there is nothing to try again of jobs that are {each}")
    config, _ = opened()
    if by_filter:
        wanted, _ = chosen(config, state or RETRIED, ref=ref, reason=reason, since=since, until=until)
        rows = asyncio.run(_matching(config, wanted))
    else:
        rows = asyncio.run(_named(config, ids or ()))
    if dry_run:
        _preview(rows, as_json=as_json)
        raise typer.Exit(0 if _possible(rows) == len(rows) else 1)
    if by_filter and rows and not yes and not _confirmed(rows, as_json=as_json):
        raise typer.Exit(1)
    tried = asyncio.run(_until_signal(config, rows))
    _report(tried, as_json=as_json)
    if any(row.after is None for row in tried):
        raise typer.Exit(1)


# Which ------------------------------------------------------------------------------------------------------


async def _matching(config: Config, wanted: Filter) -> list[_Row]:
    view = await LedgerView.open(config.data_dir)
    try:
        rows: list[_Row] = []
        before: int | None = None
        while True:
            page = await view.jobs(wanted, before=before, limit=PAGE)
            rows += map(_row, page.jobs)
            before = page.next
            if before is None:
                return rows
    finally:
        await view.close()


async def _named(config: Config, ids: Sequence[str]) -> list[_Row]:
    view = await LedgerView.open(config.data_dir)
    try:
        rows: dict[str, _Row] = {}  # by what was found: one job may be named twice, short and whole
        for text in ids:
            try:
                row = _row(await the_job(view, text))
            except LedgerError as error:
                if error.reason != "ledger.unknown_job":
                    raise
                row = _Row(text, obstacle=error.detail)
            rows[row.id] = row
        return list(rows.values())
    finally:
        await view.close()


def _row(job: Job) -> _Row:
    reason = job.problem.reason if job.problem else None
    return _Row(job.id, job.ref, job.state, reason, obstacle=_obstacle(job))


def _obstacle(job: Job) -> str | None:
    if job.state not in RETRIED:
        what = "the provider has not completed it yet; `receiver reconcile` asks about it"
        done = "its image lies in the archive already"
        return f"it is {job.state}: {what if job.state is State.SUBMITTED else done}"
    if job.image_url is None:
        again = f": receiver submit {shlex.quote(job.source_url)}" if job.source_url else ""
        return f"it is {job.state}, and {NO_IMAGE}; submit the picture again{again}"
    return None


def _possible(rows: Sequence[_Row]) -> int:
    return sum(row.obstacle is None for row in rows)


# Whether ----------------------------------------------------------------------------------------------------


def _confirmed(rows: Sequence[_Row], *, as_json: bool) -> bool:
    """Shows what would be done, and asks where somebody can answer."""
    _preview(rows, as_json=as_json)
    if not _possible(rows):
        return False
    if sys.stdin.isatty() and sys.stderr.isatty():
        if typer.confirm(f"Try {_count(_possible(rows))} again?", err=True):
            return True
        say("nothing was done")
        return False
    say("nothing was done; --yes does it")
    return False


def _preview(rows: Sequence[_Row], *, as_json: bool) -> None:
    if as_json:
        tables.print_json({"dry_run": True, "jobs": [_document(row) for row in rows]})
    else:
        _table(("job", "ref", "state", "reason", "obstacle"), rows)
    refused = len(rows) - _possible(rows)
    say(
        f"{_count(_possible(rows))} would be tried again"
        + (f"; {refused} cannot: {_obstacles(rows)}" if refused else "")
    )


# And what came of it ----------------------------------------------------------------------------------------


async def _until_signal(config: Config, rows: Sequence[_Row]) -> list[_Row]:
    try:
        return await until_signal(partial(_retry, config, rows))
    except asyncio.CancelledError:
        fail("cut off; what was committed is tried again, and the same command takes up the rest")


async def _retry(config: Config, rows: Sequence[_Row], stopping: asyncio.Event) -> list[_Row]:
    if not _possible(rows):
        return list(rows)
    ledger = await Ledger.beside(config.data_dir)
    try:
        tried: list[_Row] = []
        with counting("tried again", quiet=len(rows) <= AT_A_TIME) as counted:
            for begin in range(0, len(rows), AT_A_TIME):
                if stopping.is_set():
                    tried += [replace(row, obstacle=row.obstacle or "not begun") for row in rows[begin:]]
                    break
                chunk = rows[begin : begin + AT_A_TIME]
                tried += await asyncio.gather(*(_retry_one(ledger, row) for row in chunk))
                counted(len(tried), len(rows))
        return tried
    finally:
        await ledger.close()


async def _retry_one(ledger: Ledger, row: _Row) -> _Row:
    if row.obstacle is not None:
        return row
    try:
        return replace(row, after=(await ledger.retry(row.id)).state)
    except LedgerError as error:
        if error.reason != "ledger.wrong_state":
            raise
        return replace(row, obstacle=error.detail)  # it has moved on since it was looked at


def _report(rows: Sequence[_Row], *, as_json: bool) -> None:
    done = sum(row.after is not None for row in rows)
    if as_json:
        tables.print_json({"dry_run": False, "jobs": [_document(row) for row in rows]})
    else:
        _table(("job", "ref", "was", "is", "obstacle"), rows)
    left = len(rows) - done
    say(
        f"{_count(done)} {_is(done)} tried again"
        + (f"; {left} {_is(left)} not: {_obstacles(rows)}" if left else "")
    )


def _obstacles(rows: Sequence[_Row]) -> str:
    """Each obstacle once, the commonest first; ids and URLs would make each of them another one."""
    found = Counter(row.obstacle for row in rows if row.obstacle and row.after is None)
    if len(rows) == 1:
        return next(iter(found))
    told = Counter[str]()
    for obstacle, times in found.items():
        told[NO_IMAGE if NO_IMAGE in obstacle else obstacle] += times
    shown = [f"{what} ({times})" if times > 1 else what for what, times in told.most_common(3)]
    return "; ".join(shown) + (f"; {len(told) - 3} other obstacles" if len(told) > 3 else "")


def _table(names: Sequence[str], rows: Sequence[_Row]) -> None:
    terminal = sys.stdout.isatty()
    shown = rows[:SHOWN] if terminal else rows
    if shown:
        tables.table_of(names, [_cells(row, tried="is" in names) for row in shown])
    if len(shown) < len(rows):
        say(f"and {len(rows) - len(shown)} more; --json or a pipe gives all of them")


def _cells(row: _Row, *, tried: bool) -> list[Any]:
    before = tables.state(row.before.value) if row.before else ""
    fourth: Any = row.reason or ""
    if tried:
        fourth = tables.state(row.after.value) if row.after else ""
    return [row.id, row.ref or "", before, fourth, row.obstacle or ""]


def _document(row: _Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "ref": row.ref,
        "from": row.before and row.before.value,
        "to": row.after and row.after.value,
        "reason": row.reason,
        "obstacle": row.obstacle,
    }


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _count(number: int) -> str:
    return "1 job" if number == 1 else f"{number} jobs"
