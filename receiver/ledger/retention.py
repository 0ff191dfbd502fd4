"""Finds records that are old enough to be removed, and removes them in small transactions.

The last entry of the history is never removed: SQLite would give its number out again, and the change feed's
clients remember numbers. The same holds for deliveries that could not be read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from receiver.ledger.connection import Connection
from receiver.ledger.transaction import Transaction


class RecordKind(StrEnum):
    """Kinds of records that can be pruned."""

    HISTORY = "history"  # and raw bodies, of archived jobs; the jobs themselves stay
    DELIVERIES = "deliveries"  # that could not be read
    TICKETS = "tickets"  # that have expired
    SUBMISSIONS = "submissions"  # whose job is known
    NOTIFICATIONS = "notifications"  # that were given up
    ARCHIVED_BY_HOUR = "archived_by_hour"  # counts that the status page no longer shows
    FAILED_BY_DAY = "failed_by_day"  # the same


COUNTS = (RecordKind.ARCHIVED_BY_HOUR, RecordKind.FAILED_BY_DAY)


@dataclass(frozen=True, slots=True)
class PruneBatch:
    """What one scan found old, as keys and as rows by table; ``next`` is where the next one begins."""

    old: Sequence[int | str]
    rows: Mapping[str, int]
    next: int | str | None


def prunable(db: Connection, kind: RecordKind, after: int | str | None, before: int, size: int) -> PruneBatch:
    """Scan at most ``size`` rows for what is older than ``before`` (ms since the epoch)."""
    if after is None:
        after = "" if kind in (RecordKind.TICKETS, RecordKind.SUBMISSIONS) else 0
    found = db.execute(_scan(kind), {"after": after, "before": before, "size": size}).fetchall()
    # These are in the order of their time: after a scan without old rows none follow.
    in_order = kind in (RecordKind.HISTORY, RecordKind.DELIVERIES, *COUNTS)
    ended = len(found) < size or (in_order and all(row["at"] >= before for row in found))
    old = [row for row in found if row["old"]]
    rows = dict.fromkeys(_removals(kind), sum(row["number"] for row in old))
    if kind is RecordKind.HISTORY:
        rows["bodies"] = sum(row["body"] for row in old)
    keys = list(dict.fromkeys(row["key"] for row in old))
    return PruneBatch(keys, rows, None if ended else found[-1]["position"])


def prune(tx: Transaction, kind: RecordKind, old: Sequence[int | str], *, before: int) -> Mapping[str, int]:
    """Remove what `prunable` found, where it is still old, and return the removed rows of each table."""
    values = [{"key": key, "before": before} for key in old]
    return {
        table: tx.db.executemany(f"DELETE FROM {table} WHERE {condition}", values).rowcount  # noqa: S608 - constants
        for table, condition in _removals(kind).items()
    }


_TABLES: Mapping[RecordKind, tuple[str, str, str, str]] = {
    RecordKind.DELIVERIES: ("unread", "seq", "at", "AND seq < (SELECT max(seq) FROM unread)"),
    RecordKind.TICKETS: ("tickets", "number", "at", ""),
    RecordKind.SUBMISSIONS: ("submissions", "key", "at", "AND job IS NOT NULL"),
    RecordKind.NOTIFICATIONS: ("notifications", "seq", "given_up_at", ""),
    RecordKind.ARCHIVED_BY_HOUR: ("archived_by_hour", "hour", "hour", ""),
    RecordKind.FAILED_BY_DAY: ("failed_by_day", "day", "day", ""),
}
"""Table, key, time and further condition of all kinds but the history, whose records go with their jobs."""


def _scan(kind: RecordKind) -> str:
    if kind is RecordKind.HISTORY:
        return (
            "SELECT history.seq AS position, history.at AS at, history.job AS key, history.at < :before"
            " AND jobs.state = 'archived' AND jobs.archived_at < :before"
            " AND history.seq < (SELECT max(seq) FROM history) AS old,"
            # The body is removed with the first entry of its job.
            " history.before IS NULL AND EXISTS (SELECT 1 FROM bodies WHERE job = history.job) AS body,"
            " 1 AS number FROM history JOIN jobs ON jobs.seq = history.job"
            " WHERE history.seq > :after ORDER BY history.seq LIMIT +:size"
        )
    table, key, time, more = _TABLES[kind]
    return (
        f"SELECT {key} AS position, {time} AS at, {key} AS key, {time} < :before {more} AS old,"  # noqa: S608 - constants
        f" count(*) AS number FROM {table} WHERE {key} > :after GROUP BY {key} ORDER BY {key} LIMIT +:size"
    )


def _removals(kind: RecordKind) -> Mapping[str, str]:
    """Return the conditions of the rows to remove, by table."""
    if kind is RecordKind.HISTORY:
        old = (
            "job = :key AND EXISTS (SELECT 1 FROM jobs"
            " WHERE seq = :key AND state = 'archived' AND archived_at < :before)"
        )
        last = "(SELECT max(seq) FROM history)"
        return {"bodies": old, "history": f"{old} AND at < :before AND seq < {last}"}
    table, key, time, more = _TABLES[kind]
    return {table: f"{key} = :key AND {time} < :before {more}"}
