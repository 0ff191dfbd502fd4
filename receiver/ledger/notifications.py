"""Notifications of final jobs: queued from the history, sent, and given up."""

from collections.abc import Callable

from receiver.core.jobs import FINAL, Event, Job
from receiver.ledger import rows
from receiver.ledger.connection import Connection, number
from receiver.ledger.counters import count
from receiver.ledger.transaction import Transaction
from receiver.ledger.types import Notification

SENT, FAILED, GIVEN_UP = "sent", "failed", "given_up"
NOTIFICATION_OUTCOMES = (SENT, FAILED, GIVEN_UP)
NOTIFICATIONS = "notifications"
"""Counter of attempts to notify, by outcome."""

KEPT = 10_000
"""Given-up notifications that are kept for inspection; the oldest are removed first."""

Render = Callable[[Job, Event], bytes]
"""Makes the body to send from the job as it is now and the event that made it final."""

_FINAL = ", ".join(f"'{state}'" for state in sorted(FINAL))


def start(tx: Transaction) -> int:
    """Return the history entry after which notifications are queued; at first, that is the last one."""
    tx.db.execute(
        "INSERT INTO marks (name, seq) SELECT 'notified', coalesce(max(seq), 0) FROM history WHERE true"
        " ON CONFLICT (name) DO NOTHING"
    )
    (seq,) = tx.db.execute("SELECT seq FROM marks WHERE name = 'notified'").fetchone()
    return int(seq)


def stop(tx: Transaction) -> None:
    """Forget how far notifications were queued: what happens until the next `start` is never sent."""
    tx.db.execute("DELETE FROM marks WHERE name = 'notified'")


def enqueue(tx: Transaction, *, until: int, render: Render) -> int:
    """Queue notifications of the jobs that became final up to a history entry, and return their number."""
    since = start(tx)
    found = tx.db.execute(
        f"SELECT {rows.JOB}, history.seq AS line, {rows.EVENT}"  # noqa: S608 - the states
        " FROM history JOIN jobs ON jobs.seq = history.job WHERE history.seq > ? AND history.seq <= ?"
        f" AND history.after IN ({_FINAL}) AND (history.before IS NULL OR history.before <> history.after)"
        " ORDER BY history.seq",
        (since, until),
    ).fetchall()
    for row in found:
        job, event = rows.job(row), rows.event(row[-6:])
        tx.db.execute(
            "INSERT INTO notifications (seq, job, at, body, next_attempt_at) VALUES (?, ?, ?, ?, ?)",
            (row["line"], job.id, event.at, render(job, event), tx.now),
        )
    tx.db.execute("UPDATE marks SET seq = ? WHERE name = 'notified' AND seq < ?", (until, until))
    return len(found)


def sent(tx: Transaction, seq: int) -> None:
    tx.db.execute("DELETE FROM notifications WHERE seq = ?", (seq,))
    count(tx, NOTIFICATIONS, SENT)


def failed(tx: Transaction, seq: int, detail: str, *, at: int | None) -> None:
    """Record a failed attempt; the next one is at ``at`` (ms since the epoch), or it was the last."""
    tx.db.execute(
        "UPDATE notifications SET attempts = attempts + 1, detail = :detail, next_attempt_at ="
        " coalesce(:at, next_attempt_at), given_up_at = CASE WHEN :at IS NULL THEN :now END WHERE seq = :seq",
        {"seq": seq, "detail": detail, "at": at, "now": tx.now},
    )
    count(tx, NOTIFICATIONS, FAILED)
    if at is None:
        count(tx, NOTIFICATIONS, GIVEN_UP)
        _make_room(tx)


def give_up_old(tx: Transaction, *, before: int) -> int:
    """Give up notifications of jobs that became final before this time, and return their number."""
    done = tx.db.execute(
        "UPDATE notifications SET given_up_at = ? WHERE given_up_at IS NULL AND at < ?", (tx.now, before)
    ).rowcount
    if done:
        count(tx, NOTIFICATIONS, GIVEN_UP, by=done)
        _make_room(tx)
    return done


def due(db: Connection, *, by: int, limit: int) -> tuple[Notification, ...]:
    """Return what is due by a time (ms since the epoch), the longest due first; per job only the oldest."""
    found = db.execute(
        "SELECT seq, job, at, body, attempts, detail FROM notifications AS one INDEXED BY notifications_due"
        " WHERE given_up_at IS NULL AND next_attempt_at <= ? AND NOT EXISTS"
        " (SELECT 1 FROM notifications AS other INDEXED BY notifications_of_job"
        " WHERE other.given_up_at IS NULL AND other.job = one.job AND other.seq < one.seq)"
        " ORDER BY next_attempt_at LIMIT +?",
        (by, limit),
    )
    return tuple(Notification(*row) for row in found)


def next_at(db: Connection) -> int | None:
    """Return when the next notification is due, ms since the epoch."""
    return number(
        db,
        "SELECT min(next_attempt_at) FROM notifications INDEXED BY notifications_due"
        " WHERE given_up_at IS NULL",
    )


def _make_room(tx: Transaction) -> None:
    tx.db.execute(
        "DELETE FROM notifications WHERE given_up_at IS NOT NULL AND seq <= (SELECT seq FROM notifications"
        " INDEXED BY notifications_given_up WHERE given_up_at IS NOT NULL"
        " ORDER BY seq DESC LIMIT 1 OFFSET ?)",
        (KEPT,),
    )
