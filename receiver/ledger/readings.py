"""What a scrape asks of the ledger: the same cost for a hundred jobs as for ten million."""

from collections.abc import Mapping
from dataclasses import dataclass

from receiver.core.jobs import State
from receiver.ledger import maintenance, queries
from receiver.ledger.sqlite.driver import sqlite3

COUNTED_TO = 10_000
"""Where counting along an index ends. ``GET /stats`` counts to the end, for those who want to wait for it."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """The ledger's gauges, of one moment. Times are ms since the epoch, or ``None`` where no such job is.

    Attributes:
        jobs: how many stand in each state.
        claimed: how many of them are being worked on.
        spool_bytes: of the images that wait for the archive.
        oldest_waiting_at: when the longest-waiting job whose image is not archived yet was received.
        soonest_deadline: of the jobs whose image is not safe yet.
        overdue: submitted jobs that have been silent too long; at most `COUNTED_TO`.
        at_risk: jobs whose image is not safe yet and little of whose life is left; at most `COUNTED_TO`.
        counters: what happened, by name and reason.
        damaged: archived objects that the last audit found to be missing or altered, by reason; at most
            `COUNTED_TO`.
        notifications_pending: ends that are still to be told of; at most `COUNTED_TO`.
    """

    jobs: Mapping[State, int]
    claimed: Mapping[State, int]
    spool_bytes: int
    oldest_waiting_at: int | None
    soonest_deadline: int | None
    overdue: int
    at_risk: int
    counters: Mapping[str, Mapping[str, int]]
    damaged: Mapping[str, int]
    notifications_pending: int

    def unclaimed(self, state: State) -> int:
        """How many jobs of a state no hand works on."""
        return self.jobs[state] - self.claimed.get(state, 0)


def readings(db: sqlite3.Connection, overdue_before: int, *, counted_to: int = COUNTED_TO) -> Gauges:
    """The gauges of one moment; jobs submitted before ``overdue_before`` and still silent are overdue."""
    totals = db.execute("SELECT * FROM totals").fetchall()
    # There are never more claims than hands.
    claimed = db.execute(
        "SELECT state, count(*) AS jobs FROM jobs INDEXED BY jobs_claimed WHERE holder IS NOT NULL"
        " GROUP BY state"
    ).fetchall()
    (overdue,) = db.execute(
        "SELECT count(*) FROM (SELECT 1 FROM jobs INDEXED BY jobs_silent"
        " WHERE state = 'submitted' AND submitted_at < ? LIMIT ?)",
        (overdue_before, counted_to),
    ).fetchone()
    (at_risk,) = db.execute(
        "SELECT count(*) FROM (SELECT 1 FROM jobs INDEXED BY jobs_at_risk"
        " WHERE state = 'received' AND at_risk_at IS NOT NULL LIMIT ?)",
        (counted_to,),
    ).fetchone()
    (pending,) = db.execute(
        "SELECT count(*) FROM (SELECT 1 FROM notifications INDEXED BY notifications_due"
        " WHERE given_up_at IS NULL LIMIT ?)",
        (counted_to,),
    ).fetchone()
    return Gauges(
        jobs={State(row["state"]): row["jobs"] for row in totals},
        claimed={State(row["state"]): row["jobs"] for row in claimed},
        spool_bytes=queries.spool_bytes(db),
        oldest_waiting_at=queries.oldest_waiting_at(db),
        soonest_deadline=queries.soonest_deadline(db),
        overdue=overdue,
        at_risk=at_risk,
        counters=queries.counters(db),
        damaged=maintenance.damaged(db, counted_to),
        notifications_pending=pending,
    )
