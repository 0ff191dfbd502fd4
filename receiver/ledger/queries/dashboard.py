"""Reads what the status page shows, from one snapshot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from receiver.core.jobs import UNSUCCESSFUL, Job
from receiver.ledger import archived_objects, rows
from receiver.ledger.archived_objects import AuditFinding
from receiver.ledger.connection import Connection, Row
from receiver.ledger.deadlines import UNSAFE, UNSAFE_CLAIMED
from receiver.ledger.queries.aggregates import Stats, stats
from receiver.ledger.queries.text_search import distinct
from receiver.ledger.submissions import OVERDUE


@dataclass(frozen=True, slots=True)
class Overview:
    """What the status page shows; ``at_risk`` are ids of unsafe jobs whose deadline is close.

    Unsafe jobs come with the earliest deadline first, overdue ones with the longest overdue, troubled ones
    (jobs with an error) with the latest error. ``reasons`` are those that jobs have now.
    """

    stats: Stats
    unsafe: tuple[Job, ...]
    at_risk: frozenset[str]
    overdue: tuple[Job, ...]
    troubled: tuple[Job, ...]
    damaged: tuple[tuple[Job, AuditFinding], ...] = ()
    reasons: tuple[str, ...] = ()


def overview(db: Connection, *, overdue_before: int, limit: int) -> Overview:
    """Return the overview, with at most ``limit`` jobs in each list."""
    overdue = db.execute(
        f"SELECT {rows.JOB} FROM jobs INDEXED BY jobs_silent WHERE {OVERDUE} ORDER BY submitted_at LIMIT +?",  # noqa: S608 - a constant
        (overdue_before, limit),
    )
    unsafe = _unsafe(db, limit)
    return Overview(
        stats=stats(db, overdue_before=overdue_before),
        unsafe=tuple(rows.job(row) for row in unsafe),
        at_risk=frozenset(row["id"] for row in unsafe if row["at_risk_at"] is not None),
        overdue=tuple(rows.job(row) for row in overdue),
        troubled=_troubled(db, limit),
        damaged=archived_objects.damaged_jobs(db, limit),
        reasons=tuple(distinct(db, "jobs INDEXED BY jobs_by_reason", "reason")),
    )


def archived_lately(db: Connection, limit: int) -> tuple[int, tuple[int, ...]]:
    """Return how many jobs are archived, and when (ms since the epoch) the newest ``limit`` of them were."""
    (total,) = db.execute("SELECT jobs FROM totals WHERE state = 'archived'").fetchone()
    found = db.execute(
        "SELECT coalesce(archived_at, updated_at) AS at FROM jobs INDEXED BY jobs_by_state"
        " WHERE state = 'archived' ORDER BY seq DESC LIMIT +?",
        (limit,),
    )
    return int(total), tuple(int(row["at"]) for row in found)


def _unsafe(db: Connection, limit: int) -> list[Row]:
    """Merge the first jobs of each index, so that never all of them are sorted."""
    first = [f"SELECT seq, deadline FROM {source} ORDER BY deadline LIMIT +?" for source in UNSAFE]  # noqa: S608
    claimed = f"SELECT seq, deadline FROM {UNSAFE_CLAIMED}"  # noqa: S608 - a constant
    found = _jobs_at(db, [claimed, *first], [limit] * len(first))
    return sorted(found, key=lambda row: row["deadline"])[:limit]


def _troubled(db: Connection, limit: int) -> tuple[Job, ...]:
    """Return the newest unsuccessful jobs, and those that wait after a failed attempt.

    An index by the time of the error would cost every attempt. Within a state the order of arrival is close
    enough to it; the few jobs found are then sorted by the time of their errors.
    """
    ended = "SELECT seq FROM jobs INDEXED BY jobs_by_state WHERE state = ? ORDER BY seq DESC LIMIT +?"
    waiting = (
        "SELECT seq FROM jobs INDEXED BY jobs_waiting WHERE next_attempt_at IS NOT NULL"
        " ORDER BY next_attempt_at LIMIT +?"
    )
    values = [value for state in UNSUCCESSFUL for value in (state, limit)]
    found = _jobs_at(db, [ended] * len(UNSUCCESSFUL) + [waiting], [*values, limit])
    troubled = [row for row in found if row["reason"] is not None]
    troubled.sort(key=lambda row: row["reason_at"] or row["updated_at"], reverse=True)
    return tuple(rows.job(row) for row in troubled[:limit])


def _jobs_at(db: Connection, queries: Sequence[str], values: Sequence[Any]) -> list[Row]:
    """Return the jobs at all positions that queries find, in one statement: `search.jobs` says why."""
    positions = " UNION ALL ".join(
        f"SELECT seq FROM ({query}) AS part_{n}"  # noqa: S608 - constants
        for n, query in enumerate(queries)
    )
    found = f"SELECT {rows.JOB}, at_risk_at, seq FROM jobs WHERE seq IN ({positions})"  # noqa: S608
    return sorted(db.execute(found, values), key=lambda row: row["seq"], reverse=True)
