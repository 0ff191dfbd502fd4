"""Finds jobs by id, by filter and by likeness."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from receiver.core.jobs import Event, Job, State
from receiver.ledger import rows
from receiver.ledger.queries.reconciliation import OVERDUE
from receiver.ledger.sqlite.driver import sqlite3

_CLOCK_SLACK = 86_400_000  # ms
_LAST = "\U0010ffff"  # after a prefix: the end of all that begins with it


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects jobs; a field that is ``None`` or empty does not restrict. Times are ms since the epoch.

    ``since`` (inclusive) and ``until`` (exclusive) bound the time at which the job became known. The value of
    ``overdue_before``, and of ``not_overdue_before`` for all other jobs, is `core.jobs.overdue_cutoff`.
    """

    states: tuple[State, ...] = ()
    ref: str | None = None
    reason: str | None = None
    since: int | None = None
    until: int | None = None
    overdue_before: int | None = None
    not_overdue_before: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs, newest first; ``next`` is where the next page begins, ``None`` at the end."""

    jobs: tuple[Job, ...]
    next: int | None


def job(db: sqlite3.Connection, job_id: str) -> Job | None:
    """Return one job; ``None`` where there is none of this id."""
    row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return rows.job(row) if row is not None else None


def job_with_history(db: sqlite3.Connection, job_id: str) -> tuple[Job, tuple[Event, ...]] | None:
    """Return one job and its history, oldest first; ``None`` where there is none of this id."""
    row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        return None
    events = db.execute("SELECT * FROM history WHERE job = ? ORDER BY seq", (row["seq"],))
    return rows.job(row), tuple(rows.event(event) for event in events)


def jobs_among(db: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Job]:
    """Return those of these jobs that the ledger knows, by id."""
    return {job_id: found for job_id in ids if (found := job(db, job_id)) is not None}


def jobs(db: sqlite3.Connection, wanted: Filter, *, before: int | None = None, limit: int = 100) -> Page:
    """Return a page of jobs, newest first; ``before`` is the ``next`` of the previous page."""
    conditions, values = _conditions(db, wanted, before)
    # One ordered scan for each state, and one merge: `state IN (…) ORDER BY seq` would sort whole states, and
    # the indexes of references and reasons go by the state.
    states: Iterable[State | None] = dict.fromkeys(wanted.states)
    if not wanted.states and wanted.overdue_before is not None:
        states = (State.SUBMITTED,)
    elif not wanted.states:
        states = (None,) if wanted.ref is None and wanted.reason is None else State
    scans, arguments = [], []
    for state in states:
        own = [*conditions, "state = ?"] if state else conditions
        where = f"WHERE {' AND '.join(own)}" if own else ""
        scans.append(f"SELECT * FROM (SELECT * FROM jobs {where} ORDER BY seq DESC LIMIT ?)")  # noqa: S608 - constants
        arguments += [*values, *([state] if state else []), limit + 1]
    found = db.execute(
        f"{' UNION ALL '.join(scans)} ORDER BY seq DESC LIMIT ?", (*arguments, limit + 1)
    ).fetchall()
    more = len(found) > limit
    return Page(tuple(rows.job(row) for row in found[:limit]), found[limit - 1]["seq"] if more else None)


def jobs_with_prefix(db: sqlite3.Connection, prefix: str, limit: int) -> tuple[Job, ...]:
    """Return jobs whose ids begin with a prefix, in the order of ids."""
    found = db.execute(
        "SELECT * FROM jobs WHERE id >= ? AND id < ? ORDER BY id LIMIT ?", (prefix, prefix + _LAST, limit)
    )
    return tuple(rows.job(row) for row in found)


def _conditions(
    db: sqlite3.Connection, wanted: Filter, before: int | None
) -> tuple[list[str], list[str | int]]:
    # Positions follow the clock, so the span's ends bound the scan over seq. They are widened by a day, for
    # clocks that were wrong and were set; the exact conditions decide.
    first = None if wanted.since is None else _seq_at(db, wanted.since - _CLOCK_SLACK)
    if wanted.until is not None:
        until = _seq_at(db, wanted.until + _CLOCK_SLACK)
        before = until if before is None else min(before, until)
    pairs = (
        ("ref = ?", wanted.ref),
        ("reason = ?", wanted.reason),
        ("created_at >= ?", wanted.since),
        ("created_at < ?", wanted.until),
        (OVERDUE, wanted.overdue_before),
        (f"NOT ({OVERDUE})", wanted.not_overdue_before),
        ("seq >= ?", first),
        ("seq < ?", before),
    )
    found = [(condition, value) for condition, value in pairs if value is not None]
    return [condition for condition, _ in found], [value for _, value in found]


def _seq_at(db: sqlite3.Connection, at: int) -> int:
    """Return the first position of a job that became known at this time or later.

    A binary search takes a few dozen look-ups; an index on the time would cost every delivery.
    """
    (last,) = db.execute("SELECT coalesce(max(seq), 0) FROM jobs").fetchone()
    low, high = 0, int(last) + 1
    while low < high:
        middle = (low + high) // 2
        row = db.execute(
            "SELECT seq, created_at FROM jobs WHERE seq >= ? ORDER BY seq LIMIT 1", (middle,)
        ).fetchone()
        if row is None or row["created_at"] >= at:
            high = middle
        else:
            low = row["seq"] + 1
    return low
