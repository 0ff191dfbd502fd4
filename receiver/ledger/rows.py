"""Converts rows of the ledger's tables to the program's types."""

from receiver.core.jobs import Event, Image, Job, Problem, State, StoredObject
from receiver.ledger.sqlite.driver import sqlite3
from receiver.ledger.types import Intent, Notification, PendingJob, Transition


def job(row: sqlite3.Row) -> Job:
    """Convert a row of ``jobs``."""
    image = stored = problem = None
    if row["sha256"] is not None:
        image = Image(row["format"], row["width"], row["height"], row["bytes"], row["sha256"])
    if row["uri"] is not None:
        stored = StoredObject(row["uri"], row["etag"], row["version"])
    if row["reason"] is not None:
        problem = Problem(row["reason"], row["detail"] or "", row["reason_at"])
    return Job(
        id=row["id"],
        state=State(row["state"]),
        ref=row["ref"],
        endpoint=row["endpoint"],
        attempts=row["attempts"],
        refreshes=row["refreshes"],
        next_attempt_at=row["next_attempt_at"],
        deadline=row["deadline"],
        confirmed_at=row["confirmed_at"],
        image_url=row["image_url"],
        source_url=row["source_url"],
        promised_width=row["promised_width"],
        promised_height=row["promised_height"],
        image=image,
        suspect=row["suspect"],
        spool=row["spool"],
        stored=stored,
        problem=problem,
        submitted_at=row["submitted_at"],
        received_at=row["received_at"],
        fetched_at=row["fetched_at"],
        archived_at=row["archived_at"],
        updated_at=row["updated_at"],
    )


def event(row: sqlite3.Row, prefix: str = "") -> Event:
    """Convert a row of ``history``; where it is joined to its job, the shared columns have a prefix."""
    return Event(
        at=row[f"{prefix}at"],
        event=row[f"{prefix}event"],
        before=State(row["before"]) if row["before"] else None,
        after=State(row["after"]),
        reason=row[f"{prefix}reason"],
        detail=row[f"{prefix}detail"],
    )


def transition(row: sqlite3.Row) -> Transition:
    """Convert a row of ``history`` with its job's ``id`` and ``ref``."""
    return Transition(row["seq"], row["id"], row["ref"], event(row))


def notification(row: sqlite3.Row) -> Notification:
    """Convert a row of ``notifications``."""
    return Notification(row["seq"], row["job"], row["at"], row["body"], row["attempts"], row["detail"])


def intent(row: sqlite3.Row) -> Intent:
    """Convert a row of ``submissions``."""
    return Intent(**row)


def pending_job(row: sqlite3.Row) -> PendingJob:
    """Convert a row of ``jobs`` that is pending."""
    unanswered = row["reason"] is not None
    return PendingJob(row["id"], row["submitted_at"], row["asks"], row["ask_at"], unanswered)
