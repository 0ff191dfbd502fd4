"""Submissions to the provider, its answers about jobs that have not ended, and what to ask it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from receiver.core.errors import REASONS, LedgerError
from receiver.core.jobs import Job
from receiver.ledger import rows
from receiver.ledger.commands.attempts import ERROR
from receiver.ledger.connection import Connection
from receiver.ledger.counters import ASKED, count
from receiver.ledger.transaction import Transaction
from receiver.ledger.types import Answer, Intent, PendingJob, Submission

FORGOTTEN = "ledger.forgotten"


def expect(tx: Transaction, submission: Submission, *, at: int | None = None) -> bool:
    """Record a job submitted ``at`` (ms since the epoch; by default now); return whether it was unknown."""
    values = {**asdict(submission), "now": tx.now, "at": tx.now if at is None else at}
    inserted = tx.db.execute(
        "INSERT INTO jobs (id, state, ref, endpoint, source_url, event, created_at, submitted_at, updated_at,"
        " ask_at) VALUES (:id, 'submitted', :ref, :endpoint, :source_url, 'submitted', :now,"
        # Never after the job became known, however the clock was set: `search` relies on it.
        " CASE WHEN :at < :now THEN :at ELSE :now END, :now,"
        " :now) ON CONFLICT (id) DO NOTHING RETURNING seq",
        values,
    ).fetchone()
    if inserted is None:
        # The completion can arrive before the answer to the submission, and what that says holds for each
        # output: ID, ID~2, ID~3.
        tx.db.execute(
            "UPDATE jobs SET ref = coalesce(ref, :ref), endpoint = coalesce(:endpoint, endpoint),"
            " source_url = coalesce(source_url, :source_url), submitted_at ="
            " coalesce(submitted_at, CASE WHEN :at <"
            " coalesce(received_at, created_at) THEN :at ELSE coalesce(received_at, created_at) END)"
            " WHERE id = :id OR id BETWEEN :id || '~' AND :id || '~:'",
            values,
        )
    tx.changed.append(submission.id)
    return inserted is not None


def forget(tx: Transaction, job_id: str) -> Job:
    """End a job of which nothing was received. Its completion is taken all the same, should it come.

    Raise `LedgerError` if there is no such job, or something was received.
    """
    forgotten = tx.change(
        f"UPDATE jobs SET state = 'failed', event = 'forgotten', {ERROR}, updated_at = :now"  # noqa: S608 - constants
        f" WHERE id = :id AND state = 'submitted' RETURNING {rows.JOB}",
        {"id": job_id, "reason": FORGOTTEN, "detail": REASONS[FORGOTTEN], "now": tx.now},
    )
    if not forgotten:
        state = rows.known(tx.db, job_id)["state"]
        raise LedgerError("ledger.wrong_state", f"Job {job_id} is {state}, so it is not forgotten.")
    return rows.job(forgotten[0])


def record_intent(tx: Transaction, intent: Intent) -> Intent:
    """Record what is about to be submitted; return what was recorded for its key before, if anything was."""
    tx.db.execute(
        "INSERT INTO submissions (key, mark, ref, endpoint, source_url, at)"
        " VALUES (:key, :mark, :ref, :endpoint, :source_url, :at) ON CONFLICT (key) DO NOTHING",
        {**asdict(intent), "at": tx.now},
    )
    return Intent(**tx.db.execute("SELECT * FROM submissions WHERE key = ?", (intent.key,)).fetchone())


def confirm_intent(tx: Transaction, key: str, job_id: str) -> bool:
    """Record the job that the provider made of an intent, and return whether the job was unknown."""
    row = tx.db.execute("UPDATE submissions SET job = ? WHERE key = ? RETURNING *", (job_id, key)).fetchone()
    if row is None:  # withdrawn meanwhile as far too old: the job counts all the same
        return expect(tx, Submission(job_id))
    return expect(tx, Submission(job_id, row["ref"], row["endpoint"], row["source_url"]), at=row["at"])


def withdraw_intent(tx: Transaction, key: str) -> None:
    tx.db.execute("DELETE FROM submissions WHERE key = ? AND job IS NULL", (key,))


def confirm_by_mark(tx: Transaction, mark: str, job_id: str) -> bool:
    """Confirm the open intent whose mark came back with a completion; return whether the job was unknown."""
    row = tx.db.execute("SELECT key FROM submissions WHERE mark = ? AND job IS NULL", (mark,)).fetchone()
    return row is not None and confirm_intent(tx, row["key"], job_id)


def record_answer(tx: Transaction, job_id: str, answer: Answer, *, ask_at: int) -> bool:
    """Record that the provider had no completion; return whether its answer is new, and so in the history."""
    count(tx, ASKED, answer.reason or "")
    return _record(tx, job_id, answer, ask_at)


def count_unanswered(tx: Transaction, reason: str) -> None:
    """Count a request to the provider that was about no pending job, and had no answer."""
    count(tx, ASKED, reason)


def record_listed(tx: Transaction, statuses: Mapping[str, str], *, ask_at: int) -> list[str]:
    """Record the running jobs of the provider's list, and return the ids of those whose status is new."""
    return [
        job_id
        for job_id, status in statuses.items()
        if _record(tx, job_id, Answer(status, detail=f"The provider says {status}."), ask_at)
    ]


def _record(tx: Transaction, job_id: str, answer: Answer, ask_at: int) -> bool:
    last = tx.db.execute(
        "SELECT seq, provider_status, reason FROM jobs WHERE id = ? AND state = 'submitted'", (job_id,)
    ).fetchone()
    if last is None:
        return False
    values = {**asdict(answer), "seq": last["seq"], "ask_at": ask_at, "now": tx.now}
    tx.db.execute(
        "UPDATE jobs SET ask_at = :ask_at, asks = asks + 1, provider_status = coalesce(:status,"
        " provider_status) WHERE seq = :seq",
        values,
    )
    if (answer.reason, answer.status or last["provider_status"]) == (last["reason"], last["provider_status"]):
        return False
    tx.db.execute(
        "UPDATE jobs SET event = 'asked', reason = :reason, detail = :detail, reason_at ="
        " CASE WHEN :reason IS NULL THEN NULL ELSE :now END, updated_at = :now WHERE seq = :seq",
        values,
    )
    tx.changed.append(job_id)
    return True


OVERDUE = "state = 'submitted' AND submitted_at < ?"
"""The condition of an overdue job; its value comes from `core.jobs.overdue_cutoff`."""


def pending(
    db: Connection, provider: str, *, submitted_before: int, ask_by: int, limit: int
) -> tuple[PendingJob, ...]:
    """Return a provider's pending jobs that it is to be asked about by ``ask_by``, the longest due first."""
    found = db.execute(
        f"SELECT {rows.PENDING} FROM jobs INDEXED BY jobs_to_ask"  # noqa: S608 - constants
        f" WHERE provider = ? AND ask_at IS NOT NULL AND ask_at <= ? AND {OVERDUE} ORDER BY ask_at LIMIT +?",
        (provider, ask_by, submitted_before, limit),
    )
    return tuple(PendingJob(*row) for row in found)


def pending_among(db: Connection, ids: Sequence[str]) -> dict[str, PendingJob | None]:
    """Return those of these jobs that the ledger knows, by id; ``None`` for those that are not pending."""
    query = f"SELECT {rows.PENDING}, state FROM jobs WHERE id = ?"  # noqa: S608 - a constant
    found = (db.execute(query, (job_id,)).fetchone() for job_id in ids)
    return {
        row["id"]: PendingJob(*row[:-1]) if row["state"] == "submitted" else None
        for row in found
        if row is not None
    }


def open_intents(db: Connection, *, before: int, limit: int = 100) -> tuple[Intent, ...]:
    """Return intents from before a time (ms since the epoch) whose job is not known, oldest first."""
    found = db.execute(
        "SELECT * FROM submissions INDEXED BY submissions_open WHERE job IS NULL AND at < ?"
        " ORDER BY at LIMIT +?",
        (before, limit),
    )
    return tuple(Intent(**row) for row in found)


def intents_among(db: Connection, keys: Sequence[str]) -> dict[str, Intent]:
    """Return the intents of these keys, open or not, by key."""
    found = (db.execute("SELECT * FROM submissions WHERE key = ?", (key,)).fetchone() for key in keys)
    return {row["key"]: Intent(**row) for row in found if row is not None}


def job_ids_submitted_since(db: Connection, at: int) -> frozenset[str]:
    """Return the ids of jobs whose intent is from this time (ms since the epoch) or later."""
    found = db.execute("SELECT job FROM submissions WHERE at >= ? AND job IS NOT NULL", (at,))
    return frozenset(row["job"] for row in found)
