"""Reads what the status page shows, from one snapshot."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

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
    found = _listed(db, overdue_before, limit)
    unsafe = sorted(found["unsafe"].values(), key=lambda row: (row["deadline"], -row["seq"]))[:limit]
    overdue = sorted(found["overdue"].values(), key=lambda row: (row["submitted_at"], row["seq"]))
    troubled = [row for row in found["troubled"].values() if row["reason"] is not None]
    troubled.sort(key=lambda row: (row["reason_at"] or row["updated_at"], row["seq"]), reverse=True)
    return Overview(
        stats=stats(db, overdue_before=overdue_before),
        unsafe=tuple(rows.job(row) for row in unsafe),
        at_risk=frozenset(row["id"] for row in unsafe if row["at_risk_at"] is not None),
        overdue=tuple(rows.job(row) for row in overdue),
        troubled=tuple(rows.job(row) for row in troubled[:limit]),
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


def _listed(db: Connection, overdue_before: int, limit: int) -> Mapping[str, Mapping[int, Row]]:
    """Return jobs of each list by position, the first ones of each index that has some, in one statement.

    Troubled are unsuccessful jobs, and those that wait, maybe after a failed attempt. An index by the time of
    the error would cost every attempt; within a state the order of arrival is close enough to it.
    """
    waiting = "jobs INDEXED BY jobs_waiting WHERE next_attempt_at IS NOT NULL"
    sources = (
        ("overdue", f"jobs INDEXED BY jobs_silent WHERE {OVERDUE} ORDER BY submitted_at LIMIT +?"),
        ("unsafe", UNSAFE_CLAIMED),
        *(("unsafe", f"{source} ORDER BY deadline LIMIT +?") for source in UNSAFE),
        *(
            ("troubled", f"jobs INDEXED BY jobs_by_state WHERE state = '{state}' ORDER BY seq DESC LIMIT +?")
            for state in UNSUCCESSFUL
        ),
        ("troubled", f"{waiting} ORDER BY next_attempt_at LIMIT +?"),
    )
    positions = " UNION ALL ".join(
        f"SELECT * FROM (SELECT '{name}' AS list, seq FROM {source}) AS part_{n}"  # noqa: S608 - constants
        for n, (name, source) in enumerate(sources)
    )
    found: dict[str, dict[int, Row]] = defaultdict(dict)  # a job may be found by several indexes
    for row in db.execute(
        f"SELECT {rows.JOB}, at_risk_at, jobs.seq, list FROM ({positions}) AS found CROSS JOIN jobs"  # noqa: S608
        " WHERE jobs.seq = found.seq",
        (overdue_before, *[limit] * (len(sources) - 1)),
    ):
        found[row["list"]][row["seq"]] = row
    return found
