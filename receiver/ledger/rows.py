"""Converts rows of the ledger's tables to the program's types."""

from dataclasses import fields

from receiver.core.jobs import Event, Image, Job, Problem, State, StoredObject
from receiver.ledger.sqlite.driver import sqlite3
from receiver.ledger.types import PendingJob

_SAME_IN_BOTH = [f.name for f in fields(Job) if f.name not in ("state", "image", "stored", "problem")]


def job(row: sqlite3.Row) -> Job:
    image = stored = problem = None
    if row["sha256"] is not None:
        image = Image(
            row["format"], row["width"], row["height"], row["bytes"], row["sha256"], row["accepted"]
        )
    if row["uri"] is not None:
        stored = StoredObject(row["uri"], row["etag"], row["version"])
    if row["reason"] is not None:
        problem = Problem(row["reason"], row["detail"] or "", row["reason_at"])
    same = {name: row[name] for name in _SAME_IN_BOTH}
    return Job(**same, state=State(row["state"]), image=image, stored=stored, problem=problem)


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


def pending_job(row: sqlite3.Row) -> PendingJob:
    unanswered = row["reason"] is not None
    return PendingJob(row["id"], row["submitted_at"], row["asks"], row["ask_at"], unanswered)
