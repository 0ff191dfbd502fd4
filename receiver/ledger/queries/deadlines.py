"""Reads what is due next: deadlines, ends of waits, and files in the spool."""

from receiver.ledger.connection import Connection

_READY = "state = 'received' AND next_attempt_at IS NULL AND holder IS NULL"
UNSAFE = (
    f"jobs INDEXED BY jobs_to_fetch WHERE {_READY} AND attempts = 0",
    f"jobs INDEXED BY jobs_to_fetch_again WHERE {_READY} AND attempts > 0",
    "jobs INDEXED BY jobs_waiting_to_fetch WHERE state = 'received' AND next_attempt_at IS NOT NULL",
)
"""All unclaimed jobs whose image is not safe yet: in each index they are ordered by deadline."""
UNSAFE_CLAIMED = "jobs INDEXED BY jobs_claimed WHERE state = 'received' AND holder IS NOT NULL"
"""All claimed jobs whose image is not safe yet: as many as there are workers."""


def next_event_at(db: Connection) -> int | None:
    """Return when a wait or a deadline ends next, ms since the epoch: no commit announces that."""
    (due,) = db.execute(
        "SELECT min(next_attempt_at) FROM jobs INDEXED BY jobs_waiting WHERE next_attempt_at IS NOT NULL"
    ).fetchone()
    times = [int(t) for t in (due, soonest_deadline(db)) if t is not None]
    return min(times, default=None)


def soonest_deadline(db: Connection) -> int | None:
    """Return the earliest deadline of all jobs whose image is not safe yet, ms since the epoch."""
    minima = [f"SELECT min(deadline) AS deadline FROM {source}" for source in (*UNSAFE, UNSAFE_CLAIMED)]  # noqa: S608 - constants
    query = f"SELECT min(deadline) FROM ({' UNION ALL '.join(minima)}) AS soonest"  # noqa: S608 - constants
    (deadline,) = db.execute(query).fetchone()
    return None if deadline is None else int(deadline)


def oldest_waiting_at(db: Connection) -> int | None:
    """Return when the longest-waiting job that is not archived yet was received, ms since the epoch."""
    (oldest,) = db.execute(
        "SELECT min(received_at) FROM jobs INDEXED BY jobs_not_archived"
        " WHERE state IN ('received', 'fetched')"
    ).fetchone()
    return None if oldest is None else int(oldest)


def spool_names(db: Connection, instance: str) -> frozenset[str]:
    """Return the names of all files in the spool of an instance that jobs depend on."""
    found = db.execute("SELECT spool FROM jobs WHERE state = 'fetched' AND instance = ?", (instance,))
    return frozenset(row["spool"] for row in found)


def spool_bytes(db: Connection, instance: str) -> int:
    """Return the bytes of all images that wait in the spool of an instance."""
    row = db.execute("SELECT bytes FROM spools WHERE instance = ?", (instance,)).fetchone()
    return 0 if row is None else int(row["bytes"])
