"""Finds jobs by id, by filter and by similar text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from receiver.core.jobs import Event, Job, State
from receiver.ledger import rows
from receiver.ledger.connection import Connection, Row, number
from receiver.ledger.queries import text_search
from receiver.ledger.submissions import OVERDUE

MAX_POSITION = 2**62
"""After all jobs, and half of the largest number that the engines know."""

PORTION, MOST_PORTIONS = 500, 4
"""How many jobs of a search are looked at together, and how often, to find those that other filters want."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects jobs; a field that is ``None`` or empty does not restrict. Times are ms since the epoch.

    ``since`` (inclusive) and ``until`` (exclusive) bound the time at which the job became known. The value of
    ``overdue_before``, and of ``not_overdue_before`` for all other jobs, is `core.jobs.overdue_cutoff`.
    ``search`` is the begin of an id, of a reference, or of the host of the image's URL or the source's.
    """

    states: tuple[State, ...] = ()
    ref: str | None = None
    reason: str | None = None
    since: int | None = None
    until: int | None = None
    overdue_before: int | None = None
    not_overdue_before: int | None = None
    provider: str | None = None
    search: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs, newest first; ``next`` is where the next page begins, ``None`` at the end.

    ``incomplete``: more ids, references or hosts begin with the text of a search than were looked at.
    """

    jobs: tuple[Job, ...]
    next: int | None
    incomplete: bool = False


def job(db: Connection, job_id: str) -> Job | None:
    """Return one job; ``None`` where there is none of this id."""
    row = db.execute(f"SELECT {rows.JOB} FROM jobs WHERE id = ?", (job_id,)).fetchone()  # noqa: S608 - a constant
    return rows.job(row) if row is not None else None


def job_with_history(db: Connection, job_id: str) -> tuple[Job, tuple[Event, ...]] | None:
    """Return one job and its history, oldest first; ``None`` where there is none of this id."""
    row = db.execute(f"SELECT {rows.JOB}, seq FROM jobs WHERE id = ?", (job_id,)).fetchone()  # noqa: S608
    if row is None:
        return None
    events = db.execute(f"SELECT {rows.EVENT} FROM history WHERE job = ? ORDER BY seq", (row["seq"],))  # noqa: S608
    return rows.job(row), tuple(rows.event(event) for event in events)


def jobs_among(db: Connection, ids: Sequence[str]) -> dict[str, Job]:
    """Return those of these jobs that the ledger knows, by id."""
    return {job_id: found for job_id in ids if (found := job(db, job_id)) is not None}


def jobs(db: Connection, wanted: Filter, *, before: int | None = None, limit: int = 100) -> Page:
    """Return a page of jobs, newest first; ``before`` is the ``next`` of the previous page."""
    if wanted.search is not None:
        return _searched(db, wanted, wanted.search, before, limit)
    found: list[Row] = []
    for part in _parts(wanted):
        found += _first(db, part, before, limit + 1)
    found.sort(key=lambda row: row["seq"], reverse=True)
    more = len(found) > limit
    return Page(tuple(rows.job(row) for row in found[:limit]), found[limit - 1]["seq"] if more else None)


def _parts(wanted: Filter) -> Sequence[Filter]:
    """Split a filter, so that no part passes over all overdue jobs.

    A submitted job that is not overdue became known after the cutoff: nothing is submitted later than that.
    """
    states, cutoff = wanted.states or tuple(State), wanted.not_overdue_before
    if cutoff is None or State.SUBMITTED not in states:
        return (wanted,)
    silent = replace(wanted, states=(State.SUBMITTED,), since=max(wanted.since or cutoff, cutoff))
    others = tuple(state for state in states if state is not State.SUBMITTED)
    return (silent, replace(wanted, states=others)) if others else (silent,)


def _first(db: Connection, wanted: Filter, before: int | None, limit: int) -> list[Row]:
    scans = _scans(wanted)
    found: list[Row] = []
    for low, high in _spans(db, wanted, before) if scans else ():
        found += _newest(db, scans, low, high, limit - len(found))
        if len(found) == limit:
            break
    return found


def _searched(db: Connection, wanted: Filter, text: str, before: int | None, limit: int) -> Page:
    """Return a page of what a search finds; a short one where the other filters want little of it."""
    given = {
        "provider = ?": wanted.provider,
        "ref = ?": wanted.ref,
        "reason = ?": wanted.reason,
        "created_at >= ?": wanted.since,
        "created_at < ?": wanted.until,
        OVERDUE: wanted.overdue_before,
        f"NOT ({OVERDUE})": wanted.not_overdue_before,
    }
    conditions = {condition: value for condition, value in given.items() if value is not None}
    states = f" AND state IN ({', '.join('?' * len(wanted.states))})" if wanted.states else ""
    positions, low, incomplete = text_search.positions(db, text, _end(before), wanted.states)
    found: list[Row] = []
    last = None
    size = max(limit + 1, PORTION) if conditions or states else limit + 1
    for _ in range(MOST_PORTIONS):
        portion = list(islice(positions, size))
        last = portion[-1] if len(portion) == size else None
        if portion:
            among = f"seq IN ({', '.join('?' * len(portion))})"
            found += db.execute(
                f"SELECT {rows.JOB}, seq FROM jobs WHERE {' AND '.join([among, *conditions])}{states}"  # noqa: S608
                " ORDER BY seq DESC LIMIT +?",
                (*portion, *conditions.values(), *wanted.states, limit + 1 - len(found)),
            )
        if len(found) > limit:
            break
        if last is None:
            last = low
            break
    if len(found) > limit:
        last = found[limit - 1]["seq"]
    return Page(tuple(rows.job(row) for row in found[:limit]), last, incomplete)


def jobs_with_prefix(db: Connection, prefix: str, limit: int) -> tuple[Job, ...]:
    """Return jobs whose ids begin with a prefix, in the order of ids."""
    found = db.execute(
        f"SELECT {rows.JOB} FROM jobs WHERE id >= ? AND id < ? ORDER BY id LIMIT +?",  # noqa: S608 - a constant
        (prefix, prefix + text_search.LAST, limit),
    )
    return tuple(rows.job(row) for row in found)


_OF_PROVIDER, _OF_REF, _OF_REASON = "provider = ?", "ref = ?", "reason = ?"

_Scan = Sequence[tuple[str, str | int]]
"""Conditions, each with its value, of jobs that one index holds in the order of their positions."""


def _scans(wanted: Filter) -> Sequence[_Scan]:
    """Return scans that find the wanted jobs of all times.

    There is one for each state: `state IN (…) ORDER BY seq` would sort whole states, and the indexes of
    references and reasons go by the state.
    """
    states: Sequence[State | None] = tuple(dict.fromkeys(wanted.states))
    if wanted.overdue_before is not None:
        states = [State.SUBMITTED] if State.SUBMITTED in (states or State) else []
    elif not states:
        narrowed = (wanted.provider, wanted.ref, wanted.reason) != (None, None, None)
        states = tuple(State) if narrowed else (None,)
    scans = []
    for state in states:
        silent = state in (None, State.SUBMITTED)
        conditions = (
            (_OF_PROVIDER, wanted.provider),
            (_OF_REF, wanted.ref),
            (_OF_REASON, wanted.reason),
            ("state = ?", state),
            (OVERDUE, wanted.overdue_before),
            (f"NOT ({OVERDUE})", wanted.not_overdue_before if silent else None),
        )
        scans.append([(condition, value) for condition, value in conditions if value is not None])
    return scans


def _newest(db: Connection, scans: Sequence[_Scan], low: int, high: int, limit: int) -> list[Row]:
    """Return the newest jobs that the scans find from a position on, and before another one."""
    # Positions alone come from an index; for whole rows PostgreSQL would walk all jobs to those of a state.
    is_of_all = not any(scans)
    columns = f"{rows.JOB}, seq" if is_of_all else "seq"
    queries, values = [], []
    for scan in scans:
        conditions = [condition for condition, _ in scan]
        where = " AND ".join([*conditions, "seq >= ?", "seq < ?"])
        hint = ""
        if conditions:
            # SQLite would take the index of the states, and pass over the jobs of all other providers. Among
            # several it would choose, and so plan, anew each time: some indexes are of one state alone.
            named = [name for name in ("ref", "reason") if f"{name} = ?" in conditions]
            named = named or ["provider" if _OF_PROVIDER in conditions else "state"]
            hint = f"INDEXED BY jobs_by_{'_and_'.join(named)}"
        queries.append(f"SELECT {columns} FROM jobs {hint} WHERE {where} ORDER BY seq DESC LIMIT +?")  # noqa: S608 - constants
        values += [*(value for _, value in scan), low, high, limit]
    if is_of_all:
        return db.execute(queries[0], values).fetchall()
    scanned = " UNION ALL ".join(
        f"SELECT seq FROM ({query}) AS scan_{n}"  # noqa: S608 - constants
        for n, query in enumerate(queries)
    )
    # Both engines merge the scans, and read no more whole rows than are wanted.
    newest = f"SELECT seq FROM ({scanned}) AS found ORDER BY seq DESC LIMIT +?"  # noqa: S608
    found = f"SELECT {rows.JOB}, seq FROM jobs WHERE seq IN ({newest}) ORDER BY seq DESC"  # noqa: S608
    return db.execute(found, (*values, limit)).fetchall()


def _spans(db: Connection, wanted: Filter, before: int | None) -> Iterator[tuple[int, int]]:
    """Yield where jobs are that became known in the wanted time: first position and end, newest first.

    Between two steps of the clock, jobs are in the order of their times.
    """
    if wanted.since is None and wanted.until is None:
        yield 0, _end(before)
        return
    steps = iter(db.execute(_END_AND_STEPS, (_end(before),)))
    low = end = high = min(_end(before), next(steps)[0])
    latest = None
    for begin, earliest, latest_before in chain(steps, [(0, None, None)]):
        first, behind = begin, end
        if wanted.since is not None and (earliest is None or earliest < wanted.since):
            first = _search(db, wanted.since, begin, end)
        if wanted.until is not None and (latest is None or latest >= wanted.until):
            behind = _search(db, wanted.until, first, end)
        if first < behind:
            if behind < low < high:
                yield low, high
            if behind < low:
                high = behind
            low = first
        end, latest = begin, latest_before
    yield low, high


_END_AND_STEPS = (
    "SELECT coalesce(max(seq), 0) + 1 AS seq, NULL AS at, NULL AS before FROM jobs UNION ALL"
    " SELECT seq, at, before FROM clock_steps WHERE seq < ? ORDER BY seq DESC"
)
"""Returns the position after all jobs, and then the clock's steps before a position, newest first."""


def _end(before: int | None) -> int:
    return MAX_POSITION if before is None else min(before, MAX_POSITION)


def _search(db: Connection, at: int, low: int, high: int) -> int:
    """Return the first position, of these, of a job that became known at this time or later.

    No step of the clock is between them. A binary search takes a few dozen look-ups, in one statement; an
    index on the time would cost every delivery.
    """
    step = 1 << max(high - low, 1).bit_length() - 1
    found = number(db, _FIRST_SINCE, (low, step, at, high))
    assert found is not None
    return found


_FIRST_SINCE = (
    # All jobs before `position` became known earlier; the steps that are tried halve.
    "WITH RECURSIVE steps (position, step) AS (SELECT ?, ? UNION ALL"
    " SELECT position + CASE WHEN (SELECT created_at < ? FROM jobs WHERE seq >= position + step - 1"
    " AND seq < ? ORDER BY seq LIMIT 1) THEN step ELSE 0 END, step / 2 FROM steps WHERE step > 0)"
    " SELECT max(position) FROM steps"
)
