"""Archived jobs and their objects: listed, audited and relocated; and checkpoints of such long runs."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from receiver.core.jobs import Job, StoredObject
from receiver.ledger import rows
from receiver.ledger.connection import Connection
from receiver.ledger.transaction import Transaction

RELOCATED = "relocated"
"""Event: the image is at another URI now."""


@dataclass(frozen=True, slots=True)
class ArchivedJob:
    seq: int
    job: Job


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
        f" ORDER BY seq {'DESC' if newest_first else 'ASC'} LIMIT :limit",
        {"after": after, "limit": limit, "inside": inside, "outside": outside},
    )
    return tuple(ArchivedJob(row["seq"], rows.job(row)) for row in found)


def archive_uris(db: Connection, ids: Iterable[str]) -> dict[str, str]:
    """Return the URIs of the images of those jobs that are archived, by id."""
    query = "SELECT id, uri FROM jobs WHERE id = ? AND state = 'archived'"
    found = (db.execute(query, (job_id,)).fetchone() for job_id in ids)
    return {row["id"]: row["uri"] for row in found if row is not None}


def damaged(db: Connection, counted_to: int | None = None) -> dict[str, int]:
    """Return how many objects the last audit found damaged, by reason; counts at most ``counted_to``."""
    counted = "" if counted_to is None else f"LIMIT {counted_to:d}"
    found = db.execute(
        f"SELECT reason, count(*) AS jobs FROM (SELECT reason FROM findings {counted}) AS counted"  # noqa: S608
        " GROUP BY reason"
    )
    return {row["reason"]: row["jobs"] for row in found}


def damaged_jobs(db: Connection, limit: int) -> tuple[tuple[Job, AuditFinding], ...]:
    """Return jobs whose object the last audit found damaged, the newest first."""
    found = db.execute(
        f"SELECT {rows.JOB}, findings.job AS seq, findings.reason AS found, findings.detail AS found_detail"  # noqa: S608
        " FROM (SELECT * FROM findings ORDER BY job DESC LIMIT ?) AS findings"
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
