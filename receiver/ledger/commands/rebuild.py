"""Rebuilds a job from its object in the archive."""

from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum

from receiver.archive.metadata import ArchivedImage
from receiver.core.jobs import State
from receiver.ledger import rows
from receiver.ledger.commands.attempts import IMAGE, NO_ERROR, NO_SUSPECT, STORED
from receiver.ledger.transaction import Transaction

REBUILT = "rebuilt"
"""Event: the job, or its last transitions, were rebuilt from its object."""

_WAY_TO_ARCHIVED = (State.RECEIVED, State.FETCHED, State.ARCHIVED)


class Rebuilt(StrEnum):
    """The outcome of a rebuild of one object's job."""

    KNOWN = "known"  # the ledger has the same
    ADDED = "added"  # the job was unknown, and is archived now
    MOVED = "moved"  # the job was known and not archived, and is archived now
    BUSY = "busy"  # the job is claimed, and was left alone
    DUPLICATE = "duplicate"  # the job is archived at another URI
    CONFLICT = "conflict"  # the ledger knows another image of this job


def rebuild(tx: Transaction, archived: ArchivedImage) -> Rebuilt:
    """Create a job from its object, or take a known one to ``archived`` by the legal transitions."""
    row = tx.db.execute(f"SELECT {rows.JOB}, seq, holder FROM jobs WHERE id = ?", (archived.id,)).fetchone()  # noqa: S608
    if row is None:
        _insert(tx, archived)
        return Rebuilt.ADDED
    job = rows.job(row)
    if job.state is State.ARCHIVED:
        same = job.stored is not None and job.stored.uri == archived.stored.uri
        return Rebuilt.KNOWN if same else Rebuilt.DUPLICATE
    promised = (job.promised_width, job.promised_height)
    other_size = None not in promised and promised != (archived.image.width, archived.image.height)
    if (other_size and not archived.image.accepted) or (
        job.image is not None and job.image.sha256 != archived.image.sha256
    ):
        return Rebuilt.CONFLICT
    if row["holder"] is not None:
        return Rebuilt.BUSY
    passed = _WAY_TO_ARCHIVED.index(job.state) + 1 if job.state in _WAY_TO_ARCHIVED else 0
    for state in _WAY_TO_ARCHIVED[passed:]:
        tx.db.execute(
            f"UPDATE jobs SET state = :state, event = :event, {_ASSIGNMENTS[state]}, updated_at = :now"  # noqa: S608 - the constants below
            " WHERE seq = :seq",
            {**_values(archived, tx.now), "state": state, "seq": row["seq"]},
        )
    tx.changed.append(archived.id)
    return Rebuilt.MOVED


_ASSIGNMENTS: Mapping[State, str] = {
    State.RECEIVED: f"received_at = :received_at, {NO_ERROR}, attempts = 0",
    State.FETCHED: f"{NO_ERROR}, attempts = 0, next_attempt_at = NULL, at_risk_at = NULL, {NO_SUSPECT},"
    f" {IMAGE}",
    State.ARCHIVED: f"{NO_ERROR}, next_attempt_at = NULL, archived_at = :archived_at, {STORED}",
}


def _insert(tx: Transaction, archived: ArchivedImage) -> None:
    # Positions follow created_at, as if the clock was never set back: otherwise each rebuilt job could be one
    # of `clock_steps`.
    query = "SELECT coalesce((SELECT created_at FROM jobs ORDER BY seq DESC LIMIT 1), 0)"
    (newest,) = tx.db.execute(query).fetchone()
    tx.db.execute(
        "INSERT INTO jobs (id, state, ref, event, format, width, height, bytes, sha256, accepted, uri, etag,"
        " version, received_at, archived_at, updated_at, created_at) VALUES (:id, 'archived', :ref, :event,"
        " :format, :width, :height, :bytes, :sha256, :accepted, :uri, :etag, :version, :received_at,"
        " :archived_at, :now, :created_at)",
        {**_values(archived, tx.now), "created_at": max(min(archived.received_at, tx.now), newest)},
    )
    tx.changed.append(archived.id)


def _values(archived: ArchivedImage, now: int) -> dict[str, str | int | None]:
    return {
        "id": archived.id,
        "ref": archived.ref,
        "event": REBUILT,
        **asdict(archived.image),
        **asdict(archived.stored),
        "received_at": archived.received_at,
        "archived_at": archived.archived_at,
        "now": now,
    }
