"""``receiver retry``: tries jobs again now, by id or by filter."""

import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console

from receiver.cli import common, output
from receiver.cli.selection import Reason, Ref, Since, States, Until, complete_id, find_job, job_filter
from receiver.config import Config
from receiver.core.errors import LedgerError
from receiver.core.jobs import Job, State
from receiver.core.serializers import is_web, plain_url
from receiver.ledger import Filter, Ledger, LedgerReader
from receiver.ledger.commands.retries import NO_IMAGE, RETRIABLE, NotRetriableError, obstacle

PAGE = 500
CHUNK = 50
"""Jobs in one commit. A running server waits for one commit, and not for all of them."""

MAX_ROWS = 20
MAX_CAUSES = 3
"""Rows in a table on a terminal, and obstacles in the last line; a pipe and JSON get all of them."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One job, with its states before and after the retry.

    ``id`` is as it was typed if there is no such job. ``reason`` is why it was in the state before,
    ``obstacle`` why it cannot be tried again, and what can be done instead.
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
            help="The jobs' ids; the first four characters of each are enough.",
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show which jobs it would be.")] = False,
    yes: common.Yes = False,
    as_json: common.AsJson = False,
) -> None:
    """Try jobs again now: those with these ids, or all that the options select.

    Selected jobs are shown first, and tried after a yes; in a pipe only with --yes. A running serve
    takes the jobs up within a second; without one, the next start does.
    """
    by_filter = any(value is not None and value != [] for value in (state, reason, ref, since, until))
    if bool(ids) == by_filter:
        raise typer.BadParameter(
            "name jobs by their ids, or choose them with options such as --state rejected"
        )
    for each in state or ():
        if each not in RETRIABLE:
            raise typer.BadParameter(f"there is nothing to try again of jobs that are {each}")
    config, _ = common.load_config()
    wanted, _ = job_filter(config, state or RETRIABLE, ref=ref, reason=reason, since=since, until=until)
    rows = asyncio.run(_matching(config, wanted) if by_filter else _named(config, ids or ()))
    printer = _Printer(as_json=as_json, dry_run=dry_run)
    if dry_run:
        printer.add(rows)
        printer.end()
        raise typer.Exit(1 if printer.obstacles and not by_filter else 0)
    number = sum(row.obstacle is None for row in rows)
    if by_filter and number and not yes:
        # The preview goes where the question goes; the output is the result alone.
        asks = common.can_ask()
        preview = _Printer(as_json=as_json and not asks, dry_run=True, console=Console(stderr=asks))
        preview.add(rows)
        preview.end()
        common.confirm(f"Try {_count(number)} again? [y/N] ")
    common.run_until_signal(
        partial(_retry, config, rows, printer, by_filter=by_filter),
        "what was committed is tried again, and the same command takes up the rest",
    )


async def _matching(config: Config, wanted: Filter) -> Sequence[_Row]:
    rows: list[_Row] = []
    before: int | None = None
    async with await LedgerReader.open(config.ledger_location) as reader:
        with common.progress_bar("looked at") as on_progress:
            while True:
                page = await reader.jobs(wanted, before=before, limit=PAGE)
                rows += map(_row, page.jobs)
                on_progress(len(rows))
                if (before := page.next) is None:
                    return rows


async def _named(config: Config, ids: Sequence[str]) -> Sequence[_Row]:
    rows: dict[str, _Row] = {}  # by the found id: a job may be named twice, in short and in full
    async with await LedgerReader.open(config.ledger_location) as reader:
        for text in ids:
            try:
                row = _row(await find_job(reader, text))
            except LedgerError as error:
                if error.reason != "ledger.unknown_job":
                    raise
                row = _Row(text, obstacle=error.detail)
            rows[row.id] = row
    return list(rows.values())


def _row(job: Job) -> _Row:
    reason = job.problem.reason if job.problem else None
    return _Row(job.id, job.ref, job.state, reason, obstacle=_obstacle(job))


def _obstacle(job: Job) -> str | None:
    """Return why a job cannot be tried again, and what can be done instead."""
    why = obstacle(job)
    if why is None or job.state is State.ARCHIVED:
        return why
    if job.state is State.SUBMITTED:
        return f"{why}; `receiver reconcile` asks about it"
    # The URL is untrusted: another text could be an option, or a file of this machine.
    source = job.source_url or ""
    harmless = is_web(source) and plain_url(source) == source
    again = f": receiver submit {shlex.quote(source)}" if harmless else ""
    return f"{why}; submit the picture again{again}"


async def _retry(
    config: Config, rows: Sequence[_Row], printer: "_Printer", stopping: asyncio.Event, *, by_filter: bool
) -> bool:
    """Try the jobs again. Return whether all were; those that a filter selected need not be retriable."""
    interrupted = False
    quiet = printer.as_json or len(rows) <= CHUNK
    async with await Ledger.open_beside(config.ledger_location) as ledger:
        with common.progress_bar("tried again", quiet=quiet) as on_progress:
            for begin in range(0, len(rows), CHUNK):
                chunk = rows[begin : begin + CHUNK]
                if stopping.is_set():
                    interrupted = True
                    printer.add([replace(row, obstacle=row.obstacle or "not begun") for row in chunk])
                else:
                    printer.add(await asyncio.gather(*(_retry_one(ledger, row) for row in chunk)))
                    on_progress(begin + len(chunk), len(rows))
    printer.end()
    return not interrupted and (by_filter or not printer.obstacles)


async def _retry_one(ledger: Ledger, row: _Row) -> _Row:
    if row.obstacle is not None:
        return row
    try:
        return replace(row, after=(await ledger.retry(row.id)).state)
    except NotRetriableError as error:  # its state has changed since it was read, or it is claimed
        return replace(row, obstacle=error.obstacle)


class _Printer:
    """Prints rows as they come, and a summary; on a terminal the first rows, in a table."""

    def __init__(self, *, as_json: bool, dry_run: bool, console: Console | None = None) -> None:
        self.as_json = as_json
        self._json = output.JsonJobs(dry_run=dry_run)
        self._dry_run = dry_run
        self._console = console or Console()
        self._rows: list[_Row] = []

    @property
    def obstacles(self) -> list[str]:
        """Why each job is not, or would not be, tried again; all others are."""
        return [row.obstacle for row in self._rows if row.obstacle is not None]

    def add(self, rows: Sequence[_Row]) -> None:
        self._rows += rows
        for row in rows:
            if self.as_json:
                self._json.add(_document(row))
            elif not self._console.is_terminal:
                output.print_line(self._cells(row))

    def end(self) -> None:
        if self.as_json:
            self._json.end()
        elif self._console.is_terminal and self._rows:
            third, fourth = ("state", "reason") if self._dry_run else ("was", "is")
            names = ("job", "ref", third, fourth, "obstacle")
            self._console.print(output.table(names, map(self._cells, self._rows[:MAX_ROWS])))
            if (more := len(self._rows) - MAX_ROWS) > 0:
                common.print_message(f"and {more} more; --json or a pipe gives all of them")
        common.print_message(self._summary())

    def _cells(self, row: _Row) -> Sequence[str]:
        fourth = row.reason if self._dry_run else row.after
        return row.id, row.ref or "", row.before or "", fourth or "", row.obstacle or ""

    def _summary(self) -> str:
        left = len(self.obstacles)
        done = len(self._rows) - left
        text = f"{_count(done)} {'would be' if self._dry_run else _is(done)} tried again"
        if not left:
            return text
        causes = self.obstacles  # with what to do instead
        if len(self._rows) > 1:
            each = dict.fromkeys(NO_IMAGE if NO_IMAGE in cause else cause for cause in causes)
            causes = list(each)[:MAX_CAUSES]
        cannot = "cannot" if self._dry_run else f"{_is(left)} not"
        return f"{text}; {left} {cannot}: {'; '.join(causes)}"


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
