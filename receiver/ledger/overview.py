"""What the status page shows at a glance, of one moment, and bounded by indexes like every other question."""

from collections.abc import Iterator
from dataclasses import dataclass

from receiver.core.jobs import UNSUCCESSFUL, Job
from receiver.ledger import maintenance, queries, types
from receiver.ledger.maintenance import AuditFinding
from receiver.ledger.queries import Stats
from receiver.ledger.sqlite.driver import sqlite3


@dataclass(frozen=True, slots=True)
class Overview:
    """The ledger at a glance.

    Attributes:
        stats: in numbers.
        unsafe: jobs whose image is not safe yet, the earliest deadline first.
        at_risk: ids of those among them of whose life little was found to be left.
        overdue: silent jobs, the longest silent first.
        troubled: jobs that a failure stands against now, the latest failure first.
        damaged: archived jobs, each with what the last audit found of its object.
    """

    stats: Stats
    unsafe: tuple[Job, ...]
    at_risk: frozenset[str]
    overdue: tuple[Job, ...]
    troubled: tuple[Job, ...]
    damaged: tuple[tuple[Job, AuditFinding], ...] = ()


def overview(db: sqlite3.Connection, overdue_before: int, limit: int) -> Overview:
    """The ledger at a glance, with at most ``limit`` jobs in each list."""
    unsafe = _unsafe(db, limit)
    return Overview(
        stats=queries.stats(db, overdue_before),
        unsafe=tuple(types.job(row) for row in unsafe),
        at_risk=frozenset(row["id"] for row in unsafe if row["at_risk_at"] is not None),
        overdue=tuple(_overdue(db, overdue_before, limit)),
        troubled=_troubled(db, limit),
        damaged=maintenance.damaged_jobs(db, limit),
    )


def archived_lately(db: sqlite3.Connection, limit: int) -> tuple[int, tuple[int, ...]]:
    """How many jobs are archived, and when (ms since the epoch) the newest ``limit`` of them were."""
    (total,) = db.execute("SELECT jobs FROM totals WHERE state = 'archived'").fetchone()
    found = db.execute(
        "SELECT coalesce(archived_at, updated_at) AS at FROM jobs INDEXED BY jobs_by_state"
        " WHERE state = 'archived' ORDER BY seq DESC LIMIT ?",
        (limit,),
    )
    return int(total), tuple(int(row["at"]) for row in found)


def _unsafe(db: sqlite3.Connection, limit: int) -> list[sqlite3.Row]:
    """The first by deadline of each index that unsafe jobs stand in, merged; never all of them sorted."""
    # Claimed ones stand by the end of their lease: they are all taken, since there are as many as hands.
    found = db.execute(
        "SELECT * FROM jobs INDEXED BY jobs_claimed WHERE holder IS NOT NULL AND state = 'received'"
    ).fetchall()
    for which in (
        "jobs_to_fetch WHERE next_attempt_at IS NULL AND holder IS NULL AND attempts = 0",
        "jobs_to_fetch_again WHERE next_attempt_at IS NULL AND holder IS NULL AND attempts > 0",
        "jobs_waiting_to_fetch WHERE next_attempt_at IS NOT NULL",
    ):
        found += db.execute(
            f"SELECT * FROM jobs INDEXED BY {which} AND state = 'received' ORDER BY deadline LIMIT ?",  # noqa: S608 - constants
            (limit,),
        )
    return sorted(found, key=lambda row: row["deadline"])[:limit]


def _overdue(db: sqlite3.Connection, overdue_before: int, limit: int) -> Iterator[Job]:
    found = db.execute(
        "SELECT * FROM jobs INDEXED BY jobs_silent WHERE state = 'submitted' AND submitted_at < ?"
        " ORDER BY submitted_at LIMIT ?",
        (overdue_before, limit),
    )
    return map(types.job, found)


def _troubled(db: sqlite3.Connection, limit: int) -> tuple[Job, ...]:
    """The newest arrivals that ended badly, and those that wait after an attempt that failed.

    Jobs stand in no index by the time of their failure, and one would cost every attempt. Within a state the
    order of arrival is near enough to it; the few that are found are then put in the order of their failures.
    """
    found: list[sqlite3.Row] = []
    for state in UNSUCCESSFUL:
        found += db.execute(
            "SELECT * FROM jobs INDEXED BY jobs_by_state WHERE state = ? ORDER BY seq DESC LIMIT ?",
            (state, limit),
        )
    found += db.execute(
        "SELECT * FROM jobs INDEXED BY jobs_waiting WHERE next_attempt_at IS NOT NULL"
        " ORDER BY next_attempt_at LIMIT ?",
        (limit,),
    )
    troubled = [row for row in found if row["reason"] is not None]
    troubled.sort(key=lambda row: row["reason_at"] or row["updated_at"], reverse=True)
    return tuple(types.job(row) for row in troubled[:limit])
