"""Changes when jobs are tried: at their deadline, after a change of the clock, at an operator's request."""

from collections.abc import Sequence

from receiver.core.errors import LedgerError
from receiver.core.jobs import UNSUCCESSFUL, Job, State
from receiver.ledger import rows
from receiver.ledger.commands.claims import RETRIED, ready
from receiver.ledger.commands.outcomes import EXPIRED, NO_ERROR, NO_SUSPECT
from receiver.ledger.transaction import Transaction


def retry(tx: Transaction, job_id: str) -> Job:
    """Let a job be tried again now; raise `LedgerError` where it is unknown or there is nothing to try."""
    row = tx.db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        raise LedgerError("ledger.unknown_job", f"There is no job {job_id}.")
    state = State(row["state"])
    if state in (State.SUBMITTED, State.ARCHIVED):
        raise LedgerError("ledger.wrong_state", f"Job {job_id} is {state}: there is nothing to try again.")
    if row["image_url"] is None:
        raise LedgerError(
            "ledger.wrong_state", f"Job {job_id} is {state}, and the provider has named no image to fetch."
        )
    if row["holder"] is None:
        moves = state in UNSUCCESSFUL
        tx.db.execute(
            f"UPDATE jobs SET state = :state, event = 'retried', {NO_ERROR}, at_risk_at = NULL,"  # noqa: S608 - a constant
            " attempts = CASE WHEN :moves THEN 0 ELSE attempts END, next_attempt_at = NULL,"
            f" {NO_SUSPECT}, updated_at = :now WHERE seq = :seq",
            {"state": State.RECEIVED if moves else state, "moves": moves, "now": tx.now, "seq": row["seq"]},
        )
        tx.changed.append(job_id)
    return rows.job(tx.db.execute("SELECT * FROM jobs WHERE seq = ?", (row["seq"],)).fetchone())


def spool_file_recovered(tx: Transaction, job_id: str) -> None:
    """Let a job whose complete file was found in the spool be taken next, even after its deadline."""
    tx.db.execute(
        "UPDATE jobs SET attempts = 0, next_attempt_at = NULL"
        " WHERE id = ? AND state = 'received' AND holder IS NULL",
        (job_id,),
    )


def expire(tx: Transaction, limit: int = 500) -> list[str]:
    """Expire jobs whose deadline has passed and that were tried, and return their ids."""
    found = ready(tx, RETRIED, "deadline <= ?", limit)
    found += tx.db.execute(
        "SELECT seq FROM jobs INDEXED BY jobs_waiting_to_fetch WHERE state = 'received'"
        " AND next_attempt_at IS NOT NULL AND deadline <= ? ORDER BY deadline LIMIT ?",
        (tx.now, max(limit - len(found), 0)),
    ).fetchall()
    ids = []
    for row in found:
        (job_id,) = tx.db.execute(
            f"UPDATE jobs SET {EXPIRED}, next_attempt_at = NULL, updated_at = :now"  # noqa: S608 - a constant
            " WHERE seq = :seq RETURNING id",
            {"now": tx.now, "seq": row["seq"]},
        ).fetchone()
        ids.append(job_id)
    tx.changed.extend(ids)
    return ids


def mark_at_risk(tx: Transaction, ids: Sequence[str]) -> None:
    """Mark jobs as being close to their deadline."""
    tx.db.executemany(
        "UPDATE jobs SET at_risk_at = :now, event = 'at_risk', updated_at = :now"
        " WHERE id = :id AND state = 'received' AND at_risk_at IS NULL",
        [{"id": job_id, "now": tx.now} for job_id in ids],
    )
    tx.changed.extend(ids)


def shift_waits(tx: Transaction, by: int) -> None:
    """Move the ends of waits by so many ms, after the wall clock was set by as much just now.

    Waits that began since then are right already.
    """
    tx.db.execute(
        "UPDATE jobs SET next_attempt_at = next_attempt_at + ?"
        " WHERE next_attempt_at IS NOT NULL AND updated_at <= ?",
        (by, tx.now - by),
    )
