"""Steps of tests with a ledger: deliveries, jobs in each state, and direct access to the file."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from receiver.core.completion import Completion, Failure
from receiver.core.errors import FetchError
from receiver.core.jobs import Event, Image, Job, State, StoredObject
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import FILE_NAME, Claim, Delivery, Ledger, Submission
from receiver.ledger.connection import Connection, Row
from receiver.ledger.postgres.connection import Statements, connect
from receiver.ledger.sqlite.database import Database
from receiver.ledger.sqlite.driver import sqlite3
from tests.support.clock import HOUR, NOW

LEASE = 10_000
IMAGE = Image("png", 424, 348, 1000, "ab" * 32)
STORED = StoredObject("s3://bucket/key", "etag", "v1")
TIMEOUT = FetchError("fetch.timeout", "Too slow.")


def delivery(
    job: str = "job-1",
    url: str = "https://host/1.png",
    *,
    deadline: int = NOW + 24 * HOUR,
    source: str | None = "https://host/in.png",
    ref: str | None = None,
    ticket: str | None = None,
    body: bytes = b"{}",
) -> Delivery:
    """A good completion."""
    return Delivery(Completion(job, url, source, 424, 348), body, deadline, ref, ticket)


def long_host(length: int = 7000) -> str:
    """A host that is none: no index holds it, and it cannot be compressed into one."""
    return "".join(hashlib.sha256(bytes([n])).hexdigest() for n in range(length // 64 + 1))[:length]


def failure(job: str = "job-1") -> Delivery:
    """A completion that says that the job failed."""
    said = Completion(job, None, failure=Failure("provider.job_failed", "FAILED: no GPU"))
    return Delivery(said, b"{}", NOW)


async def the_job(ledger: Ledger, job_id: str = "job-1") -> Job:
    """Return a job that must exist."""
    job = await ledger.job(job_id)
    assert job is not None
    return job


async def history(ledger: Ledger, job_id: str = "job-1") -> tuple[Event, ...]:
    """Return a job's history."""
    found = await ledger.job_with_history(job_id)
    assert found is not None
    return found[1]


async def claimed(ledger: Ledger) -> Claim:
    """Claim the one job that waits to be downloaded."""
    (claim,) = await ledger.claim_to_fetch(1, again=1, lease=LEASE)
    return claim


async def brought_to(ledger: Ledger, state: State, job_id: str = "job-1") -> None:
    """Bring a new job to a state by legal transitions. No other job may wait meanwhile."""
    if state is State.SUBMITTED:
        await ledger.expect(Submission(job_id))
        return
    await ledger.record(failure(job_id) if state is State.FAILED else delivery(job_id))
    if state in (State.RECEIVED, State.FAILED):
        return
    claim = await claimed(ledger)
    if state is State.REJECTED:
        assert await ledger.rejected(claim, TIMEOUT)
    elif state is State.EXPIRED:
        assert await ledger.expired(claim)
    else:
        assert await ledger.fetched(claim, IMAGE, f"{job_id}.spool")
    if state is State.ARCHIVED:
        (claim,) = await ledger.claim_to_archive(1, lease=LEASE)
        assert await ledger.archived(claim, STORED)


only_sqlite = pytest.mark.parametrize("engine", ["sqlite"])
"""For tests of what a ledger in a database does not have, or has in another way."""


@contextmanager
def file_of(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open the ledger's file directly."""
    db = sqlite3.connect(folder / FILE_NAME, isolation_level=None)
    db.row_factory = sqlite3.Row
    try:
        yield db
    finally:
        db.close()


@contextmanager
def tables_of(place: LedgerLocation) -> Iterator[Connection]:
    """Open the ledger's tables directly."""
    if place.url is None:
        with file_of(place.data_dir) as file:
            yield file
    else:
        with connect(place.url, "tests") as db:
            db.execute(b"SET search_path = upscale_receiver")
            yield Statements(db)


async def never_wait_for_others(ledger: Ledger) -> None:
    """Let a write fail at once where another process holds the file."""
    assert isinstance(ledger._engine, Database)
    await ledger._engine.writer.run(lambda db: db.execute("PRAGMA busy_timeout = 1"))


def kept_totals(db: Connection) -> dict[str, tuple[int, int]]:
    """Return what the triggers have counted: jobs and bytes of each state."""
    return {row["state"]: (row["jobs"], row["bytes"]) for row in db.execute("SELECT * FROM totals")}


def recounted_totals(db: Connection) -> dict[str, tuple[int, int]]:
    """Return the same, counted from the jobs."""
    found = db.execute("SELECT state, count(*), coalesce(sum(bytes), 0) FROM jobs GROUP BY state")
    return {**dict.fromkeys(map(str, State), (0, 0)), **{state: (jobs, size) for state, jobs, size in found}}


async def given_up_notifications(ledger: Ledger) -> list[Row]:
    """Return what is kept of notifications that were given up, the newest first."""
    query = "SELECT * FROM notifications WHERE given_up_at IS NOT NULL ORDER BY seq DESC"
    return await ledger._readers.read(lambda db: db.execute(query).fetchall())
