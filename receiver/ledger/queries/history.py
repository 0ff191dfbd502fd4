"""The change feed: transitions of jobs in the order of the history."""

from receiver.ledger import rows
from receiver.ledger.sqlite.driver import sqlite3
from receiver.ledger.types import Transition, TransitionPage


def transitions(db: sqlite3.Connection, *, after: int, limit: int) -> TransitionPage:
    """Return transitions after an entry of the history; at most ``limit`` entries are read."""
    found = db.execute(
        "SELECT history.*, jobs.id, jobs.ref FROM history JOIN jobs ON jobs.seq = history.job"
        " WHERE history.seq > ? ORDER BY history.seq LIMIT ?",
        (after, limit),
    ).fetchall()
    pruned = db.execute("SELECT seq FROM marks WHERE name = 'pruned'").fetchone()
    return TransitionPage(
        tuple(
            Transition(row["seq"], row["id"], row["ref"], rows.event(row))
            for row in found
            if row["before"] != row["after"]
        ),
        until=found[-1]["seq"] if found else after,
        more=len(found) == limit,
        pruned=0 if pruned is None else int(pruned["seq"]),
    )


def last_history_seq(db: sqlite3.Connection) -> int:
    """Return the number of the last history entry, 0 without one. No number is given out twice."""
    (seq,) = db.execute("SELECT coalesce(max(seq), 0) FROM history").fetchone()
    return int(seq)
