"""Lists what to ask the provider about: pending jobs, and submissions whose job is unknown."""

from collections.abc import Sequence

from receiver.ledger import rows
from receiver.ledger.connection import Connection
from receiver.ledger.types import Intent, PendingJob

OVERDUE = "state = 'submitted' AND submitted_at < ?"
"""The condition of an overdue job; its value comes from `core.jobs.overdue_cutoff`."""


def pending(
    db: Connection, provider: str, *, submitted_before: int, ask_by: int, limit: int
) -> tuple[PendingJob, ...]:
    """Return a provider's pending jobs that it is to be asked about by ``ask_by``, the longest due first."""
    found = db.execute(
        f"SELECT {rows.PENDING} FROM jobs INDEXED BY jobs_to_ask"  # noqa: S608 - constants
        f" WHERE provider = ? AND ask_at IS NOT NULL AND ask_at <= ? AND {OVERDUE} ORDER BY ask_at LIMIT ?",
        (provider, ask_by, submitted_before, limit),
    )
    return tuple(rows.pending_job(row) for row in found)


def pending_among(db: Connection, ids: Sequence[str]) -> dict[str, PendingJob | None]:
    """Return those of these jobs that the ledger knows, by id; ``None`` for those that are not pending."""
    found: dict[str, PendingJob | None] = {}
    for job_id in ids:
        row = db.execute(
            f"SELECT state, {rows.PENDING} FROM jobs WHERE id = ?",  # noqa: S608 - a constant
            (job_id,),
        ).fetchone()
        if row is not None:
            found[job_id] = rows.pending_job(row) if row["state"] == "submitted" else None
    return found


def open_intents(db: Connection, *, before: int, limit: int = 100) -> tuple[Intent, ...]:
    """Return intents from before a time (ms since the epoch) whose job is not known, oldest first."""
    found = db.execute(
        "SELECT * FROM submissions INDEXED BY submissions_open WHERE job IS NULL AND at < ?"
        " ORDER BY at LIMIT ?",
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
