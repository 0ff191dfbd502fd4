"""Converts rows of the ledger's tables to the program's types."""

from dataclasses import fields
from typing import Any

from receiver.core.jobs import Event, Image, Job, Problem, State, StoredObject
from receiver.ledger.sqlite.driver import sqlite3
from receiver.ledger.types import PendingJob

_PARTS = (
    *("state", "format", "width", "height", "bytes", "sha256", "accepted", "uri", "etag", "version"),
    *("reason", "detail", "reason_at"),
)
_SAME_IN_BOTH = [f.name for f in fields(Job) if f.name not in ("state", "image", "stored", "problem")]
_END = len(_PARTS) + len(_SAME_IN_BOTH)

JOB = ", ".join(f"jobs.{name}" for name in (*_PARTS, *_SAME_IN_BOTH))
"""The columns of a row that `job` reads: its first ones, since to look each up by its name takes longer."""


def job(row: sqlite3.Row) -> Job:
    state, format_, width, height, size, sha256, accepted, uri, etag, version, reason, detail, at, *same = (
        row[:_END]
    )
    return Job(
        **dict(zip(_SAME_IN_BOTH, same, strict=True)),
        state=State(state),
        image=None if sha256 is None else Image(format_, width, height, size, sha256, accepted),
        stored=None if uri is None else StoredObject(uri, etag, version),
        problem=None if reason is None else Problem(reason, detail or "", at),
    )


def values(part: Image | StoredObject) -> dict[str, Any]:
    """Return a part of a job by columns; `dataclasses.asdict`, which copies, takes ten times as long."""
    return {name: getattr(part, name) for name in part.__slots__}


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
