"""Decides which jobs an operator can retry and which refused bytes can be accepted, and records it."""

from receiver.core.errors import LedgerError
from receiver.core.jobs import UNSUCCESSFUL, Image, Job, State
from receiver.ledger import rows
from receiver.ledger.commands.attempts import ERROR, IMAGE, NO_ERROR, NO_SUSPECT
from receiver.ledger.commands.instances import fetch_elsewhere
from receiver.ledger.queries.history import refusal_of
from receiver.ledger.transaction import Transaction

RETRIABLE = (State.RECEIVED, State.FETCHED, *UNSUCCESSFUL)
"""States of jobs that can be tried again, where the provider has named an image."""

NO_IMAGE = "the provider has named no image to fetch"


class NotRetriableError(LedgerError):
    """A job cannot be tried again; ``obstacle`` says why, and does not name the job.

    ``in_progress`` is the job where the reason is that it is being tried at this moment.
    """

    def __init__(self, job_id: str, obstacle: str, in_progress: Job | None = None) -> None:
        super().__init__("ledger.wrong_state", f"Job {job_id} is not tried again, because {obstacle}.")
        self.obstacle = obstacle
        self.in_progress = in_progress


def obstacle(job: Job) -> str | None:
    """Return why a job cannot be tried again, unless it can or is merely being worked on."""
    if job.state is State.SUBMITTED:
        return "it is submitted: the provider has not completed it yet"
    if job.state is State.ARCHIVED:
        return "it is archived: its image lies in the archive already"
    return None if job.image_url is not None else f"it is {job.state}, and {NO_IMAGE}"


def retry(tx: Transaction, job_id: str) -> Job:
    """Let a job be tried again now. Raise `LedgerError` if it is unknown, else `NotRetriableError`."""
    row = rows.known(tx.db, job_id)
    job = rows.job(row)
    if (why := obstacle(job)) is not None:
        raise NotRetriableError(job_id, why)
    if row["holder"] is not None:
        raise NotRetriableError(job_id, "it is being worked on at this moment", job)
    moves = job.state in UNSUCCESSFUL or fetch_elsewhere(tx, job_id)
    row = tx.db.execute(
        f"UPDATE jobs SET state = :state, event = 'retried', {NO_ERROR}, at_risk_at = NULL,"  # noqa: S608 - a constant
        " attempts = CASE WHEN :moves THEN 0 ELSE attempts END, next_attempt_at = NULL,"
        f" {NO_SUSPECT}, updated_at = :now WHERE seq = :seq RETURNING {rows.JOB}",
        {"state": State.RECEIVED if moves else job.state, "moves": moves, "now": tx.now, "seq": row["seq"]},
    ).fetchone()
    tx.changed.append(job_id)
    return rows.job(row)


def accept(tx: Transaction, job_id: str, image: Image, spool: str) -> Job:
    """Let bytes that verification refused be archived as they are. Raise what `refusal_of` raises."""
    job, refusal = refusal_of(tx.db, job_id)
    if job.state is not State.RECEIVED:
        retry(tx, job_id)
    row = tx.db.execute(
        f"UPDATE jobs SET state = 'fetched', event = 'accepted', {ERROR}, {NO_SUSPECT}, attempts = 0,"  # noqa: S608 - constants
        f" next_attempt_at = NULL, at_risk_at = NULL, fetched_at = :now, spool = :spool, {IMAGE},"
        " instance = :instance, updated_at = :now WHERE id = :id AND holder IS NULL"
        f" RETURNING {rows.JOB}",
        {
            **rows.values(image),
            "accepted": refusal.reason,
            "reason": refusal.reason,
            "detail": refusal.detail,
            "spool": spool,
            "instance": tx.instance,
            "now": tx.now,
            "id": job_id,
        },
    ).fetchone()
    if row is None:
        raise LedgerError(
            "ledger.wrong_state", f"Job {job_id} is being fetched at this moment: wait a little."
        )
    tx.changed.append(job_id)
    return rows.job(row)


def spool_file_recovered(tx: Transaction, job_id: str) -> None:
    """Let a job whose complete file was found in the spool be taken next, even after its deadline."""
    found = tx.db.execute("SELECT state FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if found is not None and found["state"] == State.EXPIRED:
        retry(tx, job_id)
    tx.db.execute(
        "UPDATE jobs SET attempts = 0, next_attempt_at = NULL"
        " WHERE id = ? AND state = 'received' AND holder IS NULL",
        (job_id,),
    )
