"""Marks jobs at risk, expires jobs, and moves their waits when the clock was set."""

from receiver.core.errors import REASONS
from receiver.ledger.commands.attempts import ERROR, EXPIRED, leave_away
from receiver.ledger.commands.claims import RETRIED, ready
from receiver.ledger.transaction import Transaction

TRIAL_ENDED = "fetch.trial_ended"


def expire(tx: Transaction, limit: int = 500) -> list[str]:
    """Expire jobs whose deadline has passed and that were tried, and return their ids."""
    found = ready(tx, RETRIED, "deadline <= ?", limit)
    found += tx.db.execute(
        "SELECT seq FROM jobs INDEXED BY jobs_waiting_to_fetch WHERE state = 'received'"
        " AND next_attempt_at IS NOT NULL AND deadline <= ? ORDER BY deadline LIMIT ?",
        (tx.now, limit - len(found)),
    ).fetchall()
    ids = []
    for row in found:
        if leave_away(tx, "seq = :seq", {"now": tx.now, "seq": row["seq"]}):
            continue
        (job_id,) = tx.db.execute(
            f"UPDATE jobs SET {EXPIRED}, next_attempt_at = NULL, updated_at = :now"  # noqa: S608 - a constant
            " WHERE seq = :seq RETURNING id",
            {"now": tx.now, "seq": row["seq"]},
        ).fetchone()
        ids.append(job_id)
    tx.changed.extend(ids)
    return ids


def end_trial(tx: Transaction, job_id: str) -> bool:
    """Reject the job of a test delivery whose picture is not safe, so that it never counts as a lost image.

    A worker that has it loses its claim. Return whether there was one.
    """
    done = tx.db.execute(
        f"UPDATE jobs SET state = 'rejected', event = 'rejected', {ERROR}, holder = NULL, lease_until = NULL,"  # noqa: S608 - constants
        " next_attempt_at = NULL, updated_at = :now WHERE id = :id AND state = 'received'",
        {"id": job_id, "reason": TRIAL_ENDED, "detail": REASONS[TRIAL_ENDED], "now": tx.now},
    )
    if done.rowcount == 1:
        tx.changed.append(job_id)
    return done.rowcount == 1


def mark_at_risk(tx: Transaction, limit: int = 500) -> list[str]:
    """Mark jobs that have become at risk, and return their ids, each job's once."""
    found = tx.db.execute(
        "UPDATE jobs SET at_risk_at = :now, event = 'at_risk', updated_at = :now WHERE seq IN"
        " (SELECT seq FROM jobs INDEXED BY jobs_not_at_risk"
        " WHERE state = 'received' AND at_risk_at IS NULL AND at_risk_from < :now"
        " ORDER BY at_risk_from LIMIT :limit) RETURNING id",
        {"now": tx.now, "limit": limit},
    )
    ids = [row["id"] for row in found]
    tx.changed.extend(ids)
    return ids


def shift_waits(tx: Transaction, by: int) -> None:
    """Move the ends of waits by so many ms, after the wall clock was set by as much just now.

    Waits that began since then are right already.
    """
    tx.db.execute(
        "UPDATE jobs SET next_attempt_at = next_attempt_at + ?"
        " WHERE next_attempt_at IS NOT NULL AND updated_at <= ?",
        (by, tx.now - by),
    )
