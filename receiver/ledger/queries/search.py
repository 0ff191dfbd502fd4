"""Finds jobs by id, by filter and by similar text."""

from collections.abc import Sequence
from dataclasses import dataclass

from receiver.core.jobs import Event, Job, State
from receiver.ledger import rows
from receiver.ledger.queries.reconciliation import OVERDUE
from receiver.ledger.sqlite.driver import sqlite3

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
    row = db.execute(f"SELECT {rows.JOB} FROM jobs WHERE id = ?", (job_id,)).fetchone()  # noqa: S608 - a constant
    return rows.job(row) if row is not None else None


def job_with_history(db: sqlite3.Connection, job_id: str) -> tuple[Job, tuple[Event, ...]] | None:
    """Return one job and its history, oldest first; ``None`` where there is none of this id."""
    row = db.execute(f"SELECT {rows.JOB}, seq FROM jobs WHERE id = ?", (job_id,)).fetchone()  # noqa: S608
    if row is None:
        return None
    events = db.execute(f"SELECT {rows.EVENT} FROM history WHERE job = ? ORDER BY seq", (row["seq"],))  # noqa: S608
    return rows.job(row), tuple(rows.event(event) for event in events)


def jobs_among(db: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Job]:
    """Return those of these jobs that the ledger knows, by id."""
    return {job_id: found for job_id in ids if (found := job(db, job_id)) is not None}


def jobs(db: sqlite3.Connection, wanted: Filter, *, before: int | None = None, limit: int = 100) -> Page:
    """Return a page of jobs, newest first; ``before`` is the ``next`` of the previous page."""
    conditions, values = _conditions(db, wanted, before)
    # One ordered scan for each state, and one merge: `state IN (…) ORDER BY seq` would sort whole states, and
    # the indexes of references and reasons go by the state.
    states: Sequence[State | None] = tuple(dict.fromkeys(wanted.states))
    if not states and wanted.overdue_before is not None:
        states = (State.SUBMITTED,)
    elif not states:
        states = (None,) if wanted.ref is None and wanted.reason is None else tuple(State)
    columns = "seq" if len(states) > 1 else f"{rows.JOB}, seq"
    scans, arguments = [], []
    for state in states:
        own = [*conditions, "state = ?"] if state else conditions
        where = f"WHERE {' AND '.join(own)}" if own else ""
        scans.append(f"SELECT {columns} FROM jobs {where} ORDER BY seq DESC LIMIT ?")  # noqa: S608 - constants
        arguments += [*values, *([state] if state else []), limit + 1]
    if len(states) > 1:
        ends = " UNION ALL ".join(f"SELECT seq FROM ({scan})" for scan in scans)  # noqa: S608 - constants
        scans = [f"SELECT {rows.JOB}, seq FROM jobs WHERE seq IN ({ends}) ORDER BY seq DESC LIMIT ?"]  # noqa: S608
        arguments.append(limit + 1)
    found = db.execute(scans[0], arguments).fetchall()
    more = len(found) > limit
    return Page(tuple(rows.job(row) for row in found[:limit]), found[limit - 1]["seq"] if more else None)


def jobs_with_prefix(db: sqlite3.Connection, prefix: str, limit: int) -> tuple[Job, ...]:
    """Return jobs whose ids begin with a prefix, in the order of ids."""
    found = db.execute(
        f"SELECT {rows.JOB} FROM jobs WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",  # noqa: S608 - a constant
        (prefix, prefix + _LAST, limit),
    )
    return tuple(rows.job(row) for row in found)


def _conditions(
    db: sqlite3.Connection, wanted: Filter, before: int | None
) -> tuple[list[str], list[str | int]]:
    # Ordered scans over seq begin and end where the span does; the exact conditions decide in between, where
    # the clock was set.
    first = None if wanted.since is None else _first_since(db, wanted.since)
    if wanted.until is not None:
        end = _end_before(db, wanted.until)
        before = end if before is None else min(before, end)
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


def _first_since(db: sqlite3.Connection, at: int) -> int:
    """Return the first position of a job that became known at this time or later."""
    (end,) = db.execute("SELECT min(seq) FROM clock_steps WHERE before >= ?", (at,)).fetchone()
    (start,) = db.execute(
        "SELECT coalesce(max(seq), 0) FROM clock_steps WHERE :end IS NULL OR seq < :end", {"end": end}
    ).fetchone()
    return _search(db, at, start, end)


def _end_before(db: sqlite3.Connection, at: int) -> int:
    """Return the position behind the last job that became known before this time."""
    (start,) = db.execute("SELECT coalesce(max(seq), 0) FROM clock_steps WHERE at < ?", (at,)).fetchone()
    (end,) = db.execute("SELECT min(seq) FROM clock_steps WHERE seq > ?", (start,)).fetchone()
    return _search(db, at, start, end)


def _search(db: sqlite3.Connection, at: int, low: int, high: int | None) -> int:
    """Return the first position, of these, of a job that became known at this time or later.

    Between two steps of the clock, jobs are in the order of their times. A binary search takes a few dozen
    look-ups; an index on the time would cost every delivery.
    """
    if high is None:
        (last,) = db.execute("SELECT coalesce(max(seq), 0) FROM jobs").fetchone()
        high = int(last) + 1
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
