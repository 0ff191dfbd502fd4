"""What is to be told of jobs that became final: noted from the history, sent, and given up."""

from collections.abc import Callable

from receiver.core.jobs import FINAL, Event, Job
from receiver.ledger import types
from receiver.ledger.commands import count
from receiver.ledger.group_commit import Transaction
from receiver.ledger.sqlite.driver import sqlite3
from receiver.ledger.types import Notification

SENT, FAILED, GIVEN_UP = "sent", "failed", "given_up"
OUTCOMES = (SENT, FAILED, GIVEN_UP)
COUNTER = "notifications"
"""A counter: what became of the attempts to notify, by these three."""

KEPT = 10_000
"""Notifications that were given up and are kept for a look; the oldest make room."""

Render = Callable[[Job, Event], bytes]
"""Makes what is sent, of the job as it is now and of the line in which it became final."""

_FINAL = ", ".join(f"'{state}'" for state in sorted(FINAL))


def begin(tx: Transaction) -> int:
    """Where the history is to be looked through from: its present end, when this is asked the first time."""
    tx.db.execute(
        "INSERT INTO marks (name, seq) SELECT 'notified', coalesce(max(seq), 0) FROM history WHERE true"
        " ON CONFLICT (name) DO NOTHING"
    )
    (seq,) = tx.db.execute("SELECT seq FROM marks WHERE name = 'notified'").fetchone()
    return int(seq)


def end(tx: Transaction) -> None:
    """Nobody is to be told any more; who is later is told of what happens from then on."""
    tx.db.execute("DELETE FROM marks WHERE name = 'notified'")


def note(tx: Transaction, until: int, render: Render, now: int) -> int:
    """Notes what is to be told of the history up to ``until``, and that this was done. Gives how much."""
    since = begin(tx)
    found = tx.db.execute(
        "SELECT jobs.*, history.seq AS line, history.at AS line_at, history.event AS line_event,"  # noqa: S608 - the states
        " history.before, history.after, history.reason AS line_reason, history.detail AS line_detail"
        " FROM history JOIN jobs ON jobs.seq = history.job WHERE history.seq > ? AND history.seq <= ?"
        f" AND history.after IN ({_FINAL}) AND history.before IS NOT history.after ORDER BY history.seq",
        (since, until),
    ).fetchall()
    for row in found:
        body = render(types.job(row), types.line(row))
        tx.db.execute(
            "INSERT INTO notifications (seq, job, at, body, next_attempt_at) VALUES (?, ?, ?, ?, ?)",
            (row["line"], row["id"], row["line_at"], body, now),
        )
    tx.db.execute("UPDATE marks SET seq = max(seq, ?) WHERE name = 'notified'", (until,))
    return len(found)


def sent(tx: Transaction, seq: int) -> None:
    """It was taken."""
    tx.db.execute("DELETE FROM notifications WHERE seq = ?", (seq,))
    count(tx, COUNTER, SENT)


def failed(tx: Transaction, seq: int, detail: str, again_at: int) -> None:
    """It was not taken, and is sent again at ``again_at`` (ms since the epoch)."""
    tx.db.execute(
        "UPDATE notifications SET attempts = attempts + 1, next_attempt_at = ?, detail = ? WHERE seq = ?",
        (again_at, detail, seq),
    )
    count(tx, COUNTER, FAILED)


def give_up(tx: Transaction, seq: int, detail: str, now: int) -> None:
    """It was not taken, and is not sent again."""
    tx.db.execute(
        "UPDATE notifications SET attempts = attempts + 1, detail = ?, given_up_at = ? WHERE seq = ?",
        (detail, now, seq),
    )
    count(tx, COUNTER, FAILED)
    count(tx, COUNTER, GIVEN_UP)
    _make_room(tx)


def give_up_old(tx: Transaction, before: int, now: int) -> int:
    """Gives up what has waited since before ``before`` (ms since the epoch). Gives how many."""
    done = tx.db.execute(
        "UPDATE notifications SET given_up_at = ? WHERE given_up_at IS NULL AND at < ?", (now, before)
    ).rowcount
    if done:
        count(tx, COUNTER, GIVEN_UP, by=done)
        _make_room(tx)
    return done


def due(db: sqlite3.Connection, now: int, limit: int) -> tuple[Notification, ...]:
    """What is to be sent now, the longest due first; of each job nothing but the oldest."""
    found = db.execute(
        "SELECT * FROM notifications AS one INDEXED BY notifications_due"
        " WHERE given_up_at IS NULL AND next_attempt_at <= ? AND NOT EXISTS"
        " (SELECT 1 FROM notifications AS other INDEXED BY notifications_of_job"
        " WHERE other.given_up_at IS NULL AND other.job = one.job AND other.seq < one.seq)"
        " ORDER BY next_attempt_at LIMIT ?",
        (now, limit),
    )
    return tuple(types.notification(row) for row in found)


def next_at(db: sqlite3.Connection) -> int | None:
    """When the next one is due, ms since the epoch."""
    (at,) = db.execute(
        "SELECT min(next_attempt_at) FROM notifications INDEXED BY notifications_due"
        " WHERE given_up_at IS NULL"
    ).fetchone()
    return None if at is None else int(at)


def given_up(db: sqlite3.Connection, limit: int) -> tuple[Notification, ...]:
    """Those that were given up, the newest first."""
    found = db.execute(
        "SELECT * FROM notifications INDEXED BY notifications_given_up WHERE given_up_at IS NOT NULL"
        " ORDER BY seq DESC LIMIT ?",
        (limit,),
    )
    return tuple(types.notification(row) for row in found)


def _make_room(tx: Transaction) -> None:
    tx.db.execute(
        "DELETE FROM notifications WHERE given_up_at IS NOT NULL AND seq <= (SELECT seq FROM notifications"
        " INDEXED BY notifications_given_up WHERE given_up_at IS NOT NULL"
        " ORDER BY seq DESC LIMIT 1 OFFSET ?)",
        (KEPT,),
    )
