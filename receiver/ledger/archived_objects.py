"""Archived jobs and their objects: listed, audited, relocated, rebuilt; checkpoints of such long runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from receiver.archive.metadata import ArchivedImage
from receiver.core.jobs import Image, Job, State, StoredObject
from receiver.ledger import rows
from receiver.ledger.commands.attempts import IMAGE, NO_ERROR, NO_SUSPECT, STORED
from receiver.ledger.connection import Connection
from receiver.ledger.transaction import Transaction

RELOCATED = "relocated"
"""Event: the image is at another URI now."""


@dataclass(frozen=True, slots=True)
class ArchivedJob:
    """An archived job, its position in the ledger, and its image."""

    seq: int
    job: Job
    stored: StoredObject
    image: Image


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """What is wrong with an archived object; ``seq`` is its job's position in the ledger."""

    seq: int
    reason: str
    detail: str


def archived_jobs(
    db: Connection,
    *,
    after: int,
    limit: int,
    inside: str | None = None,
    outside: str | None = None,
    newest_first: bool = False,
) -> tuple[ArchivedJob, ...]:
    """Return archived jobs after a position, in the order of arrival.

    ``inside`` and ``outside`` are beginnings of URIs that the images' own must have, or must not have.
    """
    found = db.execute(
        f"SELECT {rows.JOB}, seq FROM jobs INDEXED BY jobs_by_state WHERE state = 'archived' AND seq > :after"  # noqa: S608 - a constant
        " AND (:inside IS NULL OR substr(uri, 1, length(:inside)) = :inside)"
        " AND (:outside IS NULL OR substr(uri, 1, length(:outside)) <> :outside)"
        f" ORDER BY seq {'DESC' if newest_first else 'ASC'} LIMIT +:limit",
        {"after": after, "limit": limit, "inside": inside, "outside": outside},
    )
    return tuple(_archived(row["seq"], rows.job(row)) for row in found)


def _archived(seq: int, job: Job) -> ArchivedJob:
    assert job.stored is not None
    assert job.image is not None
    return ArchivedJob(seq, job, job.stored, job.image)


def archive_uris(db: Connection, ids: Iterable[str]) -> dict[str, str]:
    """Return the URIs of the images of those jobs that are archived, by id."""
    query = "SELECT id, uri FROM jobs WHERE id = ? AND state = 'archived'"
    found = (db.execute(query, (job_id,)).fetchone() for job_id in ids)
    return {row["id"]: row["uri"] for row in found if row is not None}


def damaged_jobs(db: Connection, limit: int) -> tuple[tuple[Job, AuditFinding], ...]:
    """Return jobs whose object the last audit found damaged, the newest first."""
    found = db.execute(
        f"SELECT {rows.JOB}, findings.job AS seq, findings.reason AS found, findings.detail AS found_detail"  # noqa: S608
        " FROM (SELECT * FROM findings ORDER BY job DESC LIMIT +?) AS findings"
        " JOIN jobs ON jobs.seq = findings.job ORDER BY findings.job DESC",
        (limit,),
    )
    return tuple(
        (rows.job(row), AuditFinding(row["seq"], row["found"], row["found_detail"]))
        for row in found.fetchall()
    )


def finding_of(db: Connection, job_id: str) -> AuditFinding | None:
    """Return what the last audit found wrong with a job's object; ``None`` where it is sound."""
    row = db.execute(
        "SELECT findings.* FROM jobs JOIN findings ON findings.job = jobs.seq WHERE jobs.id = ?", (job_id,)
    ).fetchone()
    return None if row is None else AuditFinding(row["job"], row["reason"], row["detail"])


def checkpoint(db: Connection, name: str) -> str | None:
    """Return the saved state of a long run, such as an audit."""
    row = db.execute("SELECT state FROM runs WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row["state"])


def save_checkpoint(tx: Transaction, name: str, state: str) -> None:
    tx.db.execute(
        "INSERT INTO runs (name, state) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET state = excluded.state",
        (name, state),
    )


def replace_checkpoint(tx: Transaction, name: str, before: str | None, after: str) -> bool:
    """Save the state of a run, unless it is another than ``before`` by now. Return whether it was saved."""
    return bool(
        tx.db.execute(
            "INSERT INTO runs (name, state) VALUES (:name, :after)"
            " ON CONFLICT (name) DO UPDATE SET state = excluded.state WHERE runs.state = :before"
            " RETURNING name",
            {"name": name, "before": before, "after": after},
        ).fetchall()
    )


def record_audit(tx: Transaction, sound: Sequence[int], findings: Sequence[AuditFinding]) -> None:
    """Record what an audit found of these jobs, and delete earlier findings of those that are sound."""
    tx.db.executemany("DELETE FROM findings WHERE job = ?", [(seq,) for seq in sound])
    tx.db.executemany(
        "INSERT INTO findings (job, reason, detail, at) VALUES (?, ?, ?, ?) ON CONFLICT (job) DO UPDATE"
        " SET at = CASE findings.reason WHEN excluded.reason THEN findings.at ELSE excluded.at END,"
        " reason = excluded.reason, detail = excluded.detail",
        [(found.seq, found.reason, found.detail, tx.now) for found in findings],
    )


def relocated(tx: Transaction, job_id: str, before: StoredObject, after: StoredObject) -> bool:
    """Record that the image was proved to be at another URI too. False: the job has changed meanwhile."""
    return bool(
        tx.change(
            "UPDATE jobs SET uri = :uri, etag = :etag, version = :version, event = :event, detail = :detail,"
            " updated_at = :now WHERE id = :id AND state = 'archived' AND uri = :before RETURNING id",
            {
                **asdict(after),
                "event": RELOCATED,
                "detail": f"From {before.uri} to {after.uri}.",
                "now": tx.now,
                "id": job_id,
                "before": before.uri,
            },
        )
    )


def readdress(tx: Transaction, addresses: Sequence[tuple[int, str, str]]) -> int:
    """Record that images lie elsewhere, with their archive: each job's position, former and present URI.

    Neither ETag nor version are those of the new place. The jobs' histories tell nothing of it, since nothing
    happened to them. Return how many were changed.
    """
    done = tx.db.executemany(
        "UPDATE jobs SET uri = :after, etag = NULL, version = NULL, updated_at = :now"
        " WHERE seq = :seq AND state = 'archived' AND uri = :before",
        [{"seq": seq, "before": before, "after": after, "now": tx.now} for seq, before, after in addresses],
    )
    return done.rowcount


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
