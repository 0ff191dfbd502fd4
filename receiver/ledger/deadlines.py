"""Deadlines and waits: what is due next, jobs at risk, expired jobs, and clocks that were set."""

from receiver.core.errors import REASONS
from receiver.ledger.commands.attempts import ERROR, EXPIRED, leave_away
from receiver.ledger.commands.claims import FRESH, RETRIED
from receiver.ledger.connection import Connection, number
from receiver.ledger.transaction import Transaction

TRIAL_ENDED = "fetch.trial_ended"

UNSAFE = (
    f"jobs {FRESH}",
    f"jobs {RETRIED}",
    "jobs INDEXED BY jobs_waiting_to_fetch WHERE state = 'received' AND next_attempt_at IS NOT NULL",
)
"""All unclaimed jobs whose image is not safe yet: in each index they are ordered by deadline."""
UNSAFE_CLAIMED = "jobs INDEXED BY jobs_claimed WHERE state = 'received' AND holder IS NOT NULL"
"""All claimed jobs whose image is not safe yet: as many as there are workers."""

_MINIMA = [f"SELECT min(deadline) AS deadline FROM {source}" for source in (*UNSAFE, UNSAFE_CLAIMED)]  # noqa: S608 - constants
SOONEST_DEADLINE = f"SELECT min(deadline) FROM ({' UNION ALL '.join(_MINIMA)}) AS soonest"  # noqa: S608 - constants
"""Returns the earliest deadline of all jobs whose image is not safe yet, ms since the epoch."""
OLDEST_WAITING_AT = (
    "SELECT min(received_at) FROM jobs INDEXED BY jobs_not_archived WHERE state IN ('received', 'fetched')"
)
"""Returns when the longest-waiting job that is not archived yet was received, ms since the epoch."""


def expire(tx: Transaction, limit: int = 500) -> list[str]:
    """Expire jobs whose deadline has passed and that were tried, and return their ids."""
    found = tx.db.execute(
        f"SELECT seq FROM jobs {RETRIED} AND deadline <= ? ORDER BY deadline LIMIT +?",  # noqa: S608 - a constant
        (tx.now, limit),
    ).fetchall()
    found += tx.db.execute(
        "SELECT seq FROM jobs INDEXED BY jobs_waiting_to_fetch WHERE state = 'received'"
        " AND next_attempt_at IS NOT NULL AND deadline <= ? ORDER BY deadline LIMIT +?",
        (tx.now, limit - len(found)),
    ).fetchall()
    expired = []
    for row in found:
        values = {"now": tx.now, "seq": row["seq"]}
        if not leave_away(tx, "seq = :seq", values):
            expired += tx.change(
                f"UPDATE jobs SET {EXPIRED}, next_attempt_at = NULL, updated_at = :now"  # noqa: S608 - a constant
                " WHERE seq = :seq RETURNING id",
                values,
            )
    return [job["id"] for job in expired]


def end_trial(tx: Transaction, job_id: str) -> bool:
    """Reject the job of a test delivery whose picture is not safe, so that it never counts as a lost image.

    A worker that has it loses its claim. Return whether there was one.
    """
    return bool(
        tx.change(
            f"UPDATE jobs SET state = 'rejected', event = 'rejected', {ERROR}, holder = NULL,"  # noqa: S608 - constants
            " lease_until = NULL, next_attempt_at = NULL, updated_at = :now"
            " WHERE id = :id AND state = 'received' RETURNING id",
            {"id": job_id, "reason": TRIAL_ENDED, "detail": REASONS[TRIAL_ENDED], "now": tx.now},
        )
    )


def mark_at_risk(tx: Transaction, limit: int = 500) -> list[str]:
    """Mark jobs that have become at risk, and return their ids, each job's once."""
    found = tx.change(
        "UPDATE jobs SET at_risk_at = :now, event = 'at_risk', updated_at = :now WHERE seq IN"
        " (SELECT seq FROM jobs INDEXED BY jobs_not_at_risk"
        " WHERE state = 'received' AND at_risk_at IS NULL AND at_risk_from < :now"
        " ORDER BY at_risk_from LIMIT +:limit) RETURNING id",
        {"now": tx.now, "limit": limit},
    )
    return [row["id"] for row in found]


def shift_waits(tx: Transaction, by: int) -> None:
    """Move the ends of waits by so many ms, after the wall clock was set by as much just now.

    Waits that began since then are right already. A deadline is a time of day and stays, so a wait that would
    go beyond it ends. An answer that was not the promised image has come for as long as it had before.
    """
    tx.db.execute(
        "UPDATE jobs SET suspect_since = suspect_since + :by, next_attempt_at ="
        " CASE WHEN state = 'received' AND next_attempt_at + :by >= deadline THEN :now"
        " ELSE next_attempt_at + :by END WHERE next_attempt_at IS NOT NULL AND updated_at <= :since",
        {"by": by, "now": tx.now, "since": tx.now - by},
    )


def next_event_at(db: Connection) -> int | None:
    """Return when a wait or a deadline ends next, ms since the epoch: no commit announces that."""
    waits = "SELECT min(next_attempt_at) FROM jobs INDEXED BY jobs_waiting WHERE next_attempt_at IS NOT NULL"
    return min((t for t in (number(db, waits), number(db, SOONEST_DEADLINE)) if t is not None), default=None)


def spool_names(db: Connection, instance: str) -> frozenset[str]:
    """Return the names of all files in the spool of an instance that jobs depend on."""
    spools = "SELECT spool FROM jobs INDEXED BY jobs_by_state WHERE state = 'fetched' AND instance = ?"
    found = db.execute(spools, (instance,))
    return frozenset(row["spool"] for row in found)


def spool_bytes(db: Connection, instance: str) -> int:
    return number(db, "SELECT bytes FROM spools WHERE instance = ?", (instance,)) or 0
