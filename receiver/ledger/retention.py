"""Finds records that are old enough to be removed, and removes them in small transactions.

The last entry of the history is never removed: SQLite would give its number out again, and the change feed's
clients remember numbers. The same holds for deliveries that could not be read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from receiver.ledger.sqlite.driver import sqlite3
from receiver.ledger.transaction import Transaction


class RecordKind(StrEnum):
    """Kinds of records that can be pruned."""

    HISTORY = "history"  # and raw bodies, of archived jobs; the jobs themselves stay
    DELIVERIES = "deliveries"  # that could not be read
    TICKETS = "tickets"  # that have expired
    SUBMISSIONS = "submissions"  # whose job is known
    NOTIFICATIONS = "notifications"  # that were given up


@dataclass(frozen=True, slots=True)
class PruneBatch:
    """What one scan found old, as keys and as rows by table; ``next`` is where the next one begins."""

    old: Sequence[int | str]
    rows: Mapping[str, int]
    next: int | str | None


def prunable(
    db: sqlite3.Connection, kind: RecordKind, after: int | str | None, before: int, size: int
) -> PruneBatch:
    """Scan at most ``size`` rows for what is older than ``before`` (ms since the epoch)."""
    if after is None:
        after = "" if kind in (RecordKind.TICKETS, RecordKind.SUBMISSIONS) else 0
    found = db.execute(_SCANS[kind], {"after": after, "before": before, "size": size}).fetchall()
    # The history and deliveries are in the order of their time: after a scan without old rows none follow.
    in_order = kind in (RecordKind.HISTORY, RecordKind.DELIVERIES)
    ended = len(found) < size or (in_order and all(row["at"] >= before for row in found))
    old = [row for row in found if row["old"]]
    rows = dict.fromkeys(_REMOVALS[kind], len(old))
    if kind is RecordKind.HISTORY:
        rows["bodies"] = sum(row["body"] for row in old)
    keys = list(dict.fromkeys(row["key"] for row in old))
    return PruneBatch(keys, rows, None if ended else found[-1]["place"])


def prune(tx: Transaction, kind: RecordKind, old: Sequence[int | str], *, before: int) -> Mapping[str, int]:
    """Remove what `prunable` found, where it is still old, and return the removed rows of each table."""
    removed: dict[str, int] = {}
    for table, statement in _REMOVALS[kind].items():
        done = tx.db.executemany(statement, [{"key": key, "before": before} for key in old])
        removed[table] = done.rowcount
    return removed


_ARCHIVED = "SELECT 1 FROM jobs WHERE seq = :key AND state = 'archived' AND archived_at < :before"

_SCANS: Mapping[RecordKind, str] = {
    RecordKind.HISTORY: (
        "SELECT history.seq AS place, history.at AS at, history.job AS key, history.at < :before"
        " AND jobs.state = 'archived' AND jobs.archived_at < :before"
        " AND history.seq < (SELECT max(seq) FROM history) AS old,"
        # The body is removed with the first entry of its job.
        " history.before IS NULL AND EXISTS (SELECT 1 FROM bodies WHERE job = history.job) AS body"
        " FROM history JOIN jobs ON jobs.seq = history.job"
        " WHERE history.seq > :after ORDER BY history.seq LIMIT :size"
    ),
    RecordKind.DELIVERIES: (
        "SELECT seq AS place, at, seq AS key, at < :before AND seq < (SELECT max(seq) FROM unread) AS old"
        " FROM unread WHERE seq > :after ORDER BY seq LIMIT :size"
    ),
    RecordKind.TICKETS: (
        "SELECT number AS place, at, number AS key, at < :before AS old"
        " FROM tickets WHERE number > :after ORDER BY number LIMIT :size"
    ),
    RecordKind.SUBMISSIONS: (
        "SELECT key AS place, at, key, at < :before AND job IS NOT NULL AS old"
        " FROM submissions WHERE key > :after ORDER BY key LIMIT :size"
    ),
    RecordKind.NOTIFICATIONS: (
        "SELECT seq AS place, at, seq AS key, coalesce(given_up_at < :before, 0) AS old"
        " FROM notifications WHERE seq > :after ORDER BY seq LIMIT :size"
    ),
}

_REMOVALS: Mapping[RecordKind, Mapping[str, str]] = {
    RecordKind.HISTORY: {
        "bodies": f"DELETE FROM bodies WHERE job = :key AND EXISTS ({_ARCHIVED})",  # noqa: S608 - a constant
        "history": f"DELETE FROM history WHERE job = :key AND at < :before AND EXISTS ({_ARCHIVED})"  # noqa: S608 - a constant
        " AND seq < (SELECT max(seq) FROM history)",
    },
    RecordKind.DELIVERIES: {
        "unread": "DELETE FROM unread WHERE seq = :key AND at < :before"
        " AND seq < (SELECT max(seq) FROM unread)"
    },
    RecordKind.TICKETS: {"tickets": "DELETE FROM tickets WHERE number = :key AND at < :before"},
    RecordKind.SUBMISSIONS: {
        "submissions": "DELETE FROM submissions WHERE key = :key AND at < :before AND job IS NOT NULL"
    },
    RecordKind.NOTIFICATIONS: {
        "notifications": "DELETE FROM notifications WHERE seq = :key AND given_up_at < :before"
    },
}
