"""Converts rows of the ledger's tables to the program's types."""

from collections.abc import Sequence
from typing import Any

from receiver.core.errors import LedgerError
from receiver.core.jobs import Event, Image, Job, Problem, State, StoredObject
from receiver.ledger.connection import Connection, Row

_FIRST = (
    *("id", "state", "format", "width", "height", "bytes", "sha256", "accepted", "uri", "etag", "version"),
    *("reason", "detail", "reason_at"),
)
_REST = [name for name in Job._fields if name not in ("id", "state", "image", "stored", "problem")]
_STATES = {state.value: state for state in State}

JOB = ", ".join(f"jobs.{name}" for name in (*_FIRST, *_REST))
"""The columns of a row that `job` reads: its first ones, since to look each up by its name takes longer."""

PENDING = "id, submitted_at, asks, ask_at, reason IS NOT NULL AS unanswered, endpoint"
"""The columns of a `PendingJob`."""

EVENT = ", ".join(f"history.{name}" for name in ("at", "event", "before", "after", "reason", "detail"))
"""The columns that `event` takes."""


def job(row: Row) -> Job:
    id_, state, kind, width, height, size, sha256, accepted, uri, etag, version, reason, detail, at, *rest = (
        row
    )
    parts = (
        id_,
        _STATES[state],
        None if sha256 is None else Image(kind, width, height, size, sha256, accepted),
        None if uri is None else StoredObject(uri, etag, version),
        None if reason is None else Problem(reason, detail or "", at),
        *rest[: len(_REST)],
    )
    return Job._make(parts)  # by name takes twice as long


def known(db: Connection, job_id: str) -> Row:
    """Return a job's row, with its position and its claim. Raise ``ledger.unknown_job``."""
    row: Row | None = db.execute(f"SELECT {JOB}, seq, holder FROM jobs WHERE id = ?", (job_id,)).fetchone()  # noqa: S608
    if row is None:
        raise LedgerError("ledger.unknown_job", f"There is no job {job_id}.")
    return row


def values(part: Image | StoredObject) -> dict[str, Any]:
    """Return a part of a job by columns; `dataclasses.asdict`, which copies, takes ten times as long."""
    return {name: getattr(part, name) for name in part.__slots__}


def event(row: Sequence[Any]) -> Event:
    at, event, before, after, reason, detail = row
    return Event(at, event, _STATES[before] if before else None, _STATES[after], reason, detail)
