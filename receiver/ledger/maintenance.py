"""Archived jobs and their objects: gone through, found damaged, moved to another place, and rebuilt."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from receiver.archive.metadata import ArchivedImage
from receiver.core.jobs import Job, State, StoredObject
from receiver.ledger import types
from receiver.ledger.group_commit import Transaction
from receiver.ledger.sqlite.driver import sqlite3

REBUILT = "rebuilt"
"""An event: the job, or its last moves, come from its object in the archive."""
RELOCATED = "relocated"
"""An event: the image lies in another place of the archive now."""

_BEFORE_ARCHIVED: Mapping[State, Sequence[State]] = {
    State.SUBMITTED: (State.RECEIVED, State.FETCHED, State.ARCHIVED),
    State.FAILED: (State.RECEIVED, State.FETCHED, State.ARCHIVED),
    State.REJECTED: (State.RECEIVED, State.FETCHED, State.ARCHIVED),
    State.EXPIRED: (State.RECEIVED, State.FETCHED, State.ARCHIVED),
    State.RECEIVED: (State.FETCHED, State.ARCHIVED),
    State.FETCHED: (State.ARCHIVED,),
}
"""The legal moves that lead to ``archived``."""


@dataclass(frozen=True, slots=True)
class ArchivedJob:
    """A job and its position in the ledger."""

    seq: int
    job: Job


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """What is wrong with an archived object.

    Attributes:
        seq: the job's position.
        reason: one of ``errors.REASONS``.
        detail: a sentence for the operator.
    """

    seq: int
    reason: str
    detail: str


class Rebuilt(StrEnum):
    """What became of an object of which a job was to be rebuilt."""

    KNOWN = "known"
    """The ledger has it so already."""
    ADDED = "added"
    """The job was unknown, and is archived now."""
    MOVED = "moved"
    """The job was known and waited, or had ended without its image; it is archived now."""
    BUSY = "busy"
    """The job is being worked on at this moment, and is left to that."""
    DUPLICATE = "duplicate"
    """The job is archived already, at another place."""
    CONFLICT = "conflict"
    """The ledger knows another image of this job."""


def archived(db: sqlite3.Connection, after: int, limit: int) -> tuple[ArchivedJob, ...]:
    """Archived jobs in the order in which they came, behind a position."""
    found = db.execute(
        "SELECT * FROM jobs INDEXED BY jobs_by_state WHERE state = 'archived' AND seq > ? ORDER BY seq"
        " LIMIT ?",
        (after, limit),
    )
    return tuple(ArchivedJob(row["seq"], types.job(row)) for row in found)


def places(db: sqlite3.Connection, ids: Iterable[str]) -> dict[str, str]:
    """Of these ids those of archived jobs, each with where its image lies."""
    found: dict[str, str] = {}
    for job_id in ids:
        row = db.execute("SELECT uri FROM jobs WHERE id = ? AND state = 'archived'", (job_id,)).fetchone()
        if row is not None:
            found[job_id] = row["uri"]
    return found


def damaged(db: sqlite3.Connection, counted_to: int = -1) -> dict[str, int]:
    """How many archived objects the last audit found to be damaged, by reason; at most so many in all."""
    found = db.execute(
        "SELECT reason, count(*) AS jobs FROM (SELECT reason FROM findings LIMIT ?) GROUP BY reason",
        (counted_to,),
    )
    return {row["reason"]: row["jobs"] for row in found}


def damaged_jobs(db: sqlite3.Connection, limit: int) -> tuple[tuple[Job, AuditFinding], ...]:
    """The newest arrivals among the jobs whose object the last audit found to be damaged."""
    found = db.execute(
        "SELECT jobs.*, findings.reason AS found, findings.detail AS found_detail"
        " FROM findings CROSS JOIN jobs ON jobs.seq = findings.job ORDER BY findings.job DESC LIMIT ?",
        (limit,),
    )
    return tuple(
        (types.job(row), AuditFinding(row["seq"], row["found"], row["found_detail"]))
        for row in found.fetchall()
    )


def finding_of(db: sqlite3.Connection, job_id: str) -> AuditFinding | None:
    """What the last audit found to be wrong with a job's object."""
    row = db.execute(
        "SELECT findings.* FROM jobs JOIN findings ON findings.job = jobs.seq WHERE jobs.id = ?", (job_id,)
    ).fetchone()
    return None if row is None else AuditFinding(row["job"], row["reason"], row["detail"])


def run(db: sqlite3.Connection, name: str) -> str | None:
    """What a long run has kept of its state."""
    row = db.execute("SELECT state FROM runs WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row["state"])


def save_checkpoint(tx: Transaction, name: str, state: str) -> None:
    """Keeps how far a long run is."""
    tx.db.execute(
        "INSERT INTO runs (name, state) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET state = excluded.state",
        (name, state),
    )


def audited(tx: Transaction, sound: Sequence[int], damage: Sequence[AuditFinding], now: int) -> None:
    """Notes what was found; what is sound is forgotten."""
    tx.db.executemany("DELETE FROM findings WHERE job = ?", [(seq,) for seq in sound])
    tx.db.executemany(
        "INSERT INTO findings (job, reason, detail, at) VALUES (?, ?, ?, ?) ON CONFLICT (job) DO UPDATE"
        " SET at = CASE reason WHEN excluded.reason THEN at ELSE excluded.at END,"
        " reason = excluded.reason, detail = excluded.detail",
        [(found.seq, found.reason, found.detail, now) for found in damage],
    )


def relocated(tx: Transaction, job_id: str, before: StoredObject, after: StoredObject, now: int) -> bool:
    """The image was proved to lie in another place as well, and is read from there. False: it moved on."""
    done = tx.db.execute(
        "UPDATE jobs SET uri = :uri, etag = :etag, version = :version, event = :event, detail = :detail,"
        " updated_at = :now WHERE id = :id AND state = 'archived' AND uri = :before",
        {
            "uri": after.uri,
            "etag": after.etag,
            "version": after.version,
            "event": RELOCATED,
            "detail": f"From {before.uri} to {after.uri}.",
            "now": now,
            "id": job_id,
            "before": before.uri,
        },
    )
    if done.rowcount == 1:
        tx.changed.append(job_id)
    return done.rowcount == 1


def rebuild(tx: Transaction, archived: ArchivedImage, now: int) -> Rebuilt:
    """Makes a job of its object, or takes a known one to ``archived`` by the legal moves."""
    row = tx.db.execute("SELECT * FROM jobs WHERE id = ?", (archived.id,)).fetchone()
    if row is None:
        _insert(tx, archived, now)
        return Rebuilt.ADDED
    job = types.job(row)
    if job.state is State.ARCHIVED:
        if job.stored is not None and job.stored.uri == archived.stored.uri:
            return Rebuilt.KNOWN
        return Rebuilt.DUPLICATE
    promised = (job.promised_width, job.promised_height)
    other_size = None not in promised and promised != (archived.image.width, archived.image.height)
    if other_size or (job.image is not None and job.image.sha256 != archived.image.sha256):
        return Rebuilt.CONFLICT
    if row["holder"] is not None:
        return Rebuilt.BUSY
    for state in _BEFORE_ARCHIVED[job.state]:
        tx.db.execute(
            f"UPDATE jobs SET state = :state, event = :event, {_SETS[state]}, updated_at = :now"  # noqa: S608 - the constants below
            " WHERE seq = :seq",
            {**_values(archived, now), "state": state, "seq": row["seq"]},
        )
    tx.changed.append(archived.id)
    return Rebuilt.MOVED


_SETS: Mapping[State, str] = {
    State.RECEIVED: "received_at = :received_at, reason = NULL, detail = NULL, reason_at = NULL,"
    " attempts = 0",
    State.FETCHED: "reason = NULL, detail = NULL, reason_at = NULL, attempts = 0, next_attempt_at = NULL,"
    " at_risk_at = NULL, suspect = NULL, format = :format, width = :width, height = :height, bytes = :bytes,"
    " sha256 = :sha256",
    State.ARCHIVED: "reason = NULL, detail = NULL, reason_at = NULL, next_attempt_at = NULL, spool = NULL,"
    " archived_at = :archived_at, uri = :uri, etag = :etag, version = :version",
}


def _insert(tx: Transaction, archived: ArchivedImage, now: int) -> None:
    # Positions follow the time at which jobs were first heard of, and questions about a span of time rely on
    # it: a job that is found late was not heard of before its neighbours.
    tx.db.execute(
        "INSERT INTO jobs (id, state, ref, event, format, width, height, bytes, sha256, uri, etag, version,"
        " received_at, archived_at, updated_at, created_at) VALUES (:id, 'archived', :ref, :event, :format,"
        " :width, :height, :bytes, :sha256, :uri, :etag, :version, :received_at, :archived_at, :now,"
        " max(min(:received_at, :now),"
        " coalesce((SELECT created_at FROM jobs ORDER BY seq DESC LIMIT 1), 0)))",
        _values(archived, now),
    )
    tx.changed.append(archived.id)


def _values(archived: ArchivedImage, now: int) -> dict[str, str | int | None]:
    return {
        "id": archived.id,
        "ref": archived.ref,
        "event": REBUILT,
        "format": archived.image.format,
        "width": archived.image.width,
        "height": archived.image.height,
        "bytes": archived.image.bytes,
        "sha256": archived.image.sha256,
        "uri": archived.stored.uri,
        "etag": archived.stored.etag,
        "version": archived.stored.version,
        "received_at": archived.received_at,
        "archived_at": archived.archived_at,
        "now": now,
    }
