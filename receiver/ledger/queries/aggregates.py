"""Counts and ages of jobs, for statistics and metrics."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from receiver.core.jobs import State
from receiver.ledger.commands.instances import instances
from receiver.ledger.connection import Connection
from receiver.ledger.deadlines import OLDEST_WAITING_AT, SOONEST_DEADLINE
from receiver.ledger.submissions import OVERDUE
from receiver.ledger.types import Instance

COUNTED_TO = 10_000
"""Where a scrape stops counting along an index, so that it costs the same however many jobs there are."""


@dataclass(frozen=True, slots=True)
class Stats:
    """The ledger in numbers, on one snapshot. Times are ms since the epoch, or ``None`` without such a job.

    ``oldest_waiting_at`` is when the longest-waiting job that is not archived yet was received. ``overdue``
    follows `core.jobs.overdue_cutoff`; ``refused`` are unsafe jobs whose URL answered with what is not the
    promised image; ``claimed`` jobs are being worked on; ``damaged`` counts, by reason,
    the archived objects that the last audit found missing or altered. ``spools`` has the bytes in the spool
    of each of the ``instances`` that share the ledger, by id.
    """

    jobs: Mapping[State, int]
    bytes: Mapping[State, int]
    oldest_waiting_at: int | None
    soonest_deadline: int | None
    overdue: int
    at_risk: int
    unread: int
    claimed: Mapping[State, int] = field(default_factory=dict)
    counters: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    damaged: Mapping[str, int] = field(default_factory=dict)
    notifications_pending: int = 0
    refused: int = 0
    spools: Mapping[str, int] = field(default_factory=dict)
    instances: Sequence[Instance] = ()

    def unclaimed(self, state: State) -> int:
        """Return how many jobs of a state are not being worked on."""
        return self.jobs[state] - self.claimed.get(state, 0)


def stats(db: Connection, *, overdue_before: int, counted_to: int | None = None) -> Stats:
    """Return the ledger in numbers; what is counted along an index, up to ``counted_to`` or the end."""

    def count(source: str) -> str:
        if counted_to is not None:
            source = f"(SELECT 1 FROM {source} LIMIT {counted_to:d}) AS counted"  # noqa: S608 - constants
        return f"SELECT count(*) FROM {source}"  # noqa: S608 - constants

    numbers = {
        "overdue": count(f"jobs INDEXED BY jobs_silent WHERE {OVERDUE}"),
        "oldest_waiting_at": OLDEST_WAITING_AT,
        "soonest_deadline": SOONEST_DEADLINE,
        "at_risk": count("jobs INDEXED BY jobs_at_risk WHERE state = 'received' AND at_risk_at IS NOT NULL"),
        "unread": count("unread"),
        "notifications_pending": count(
            "notifications INDEXED BY notifications_due WHERE given_up_at IS NULL"
        ),
        "refused": count("jobs INDEXED BY jobs_refused WHERE state = 'received' AND suspect IS NOT NULL"),
    }
    findings = "findings"
    if counted_to is not None:
        findings = f"(SELECT reason FROM findings LIMIT {counted_to:d}) AS counted"  # noqa: S608 - a number
    parts = (
        *(f"SELECT '', 'numbers', '{name}', ({query})" for name, query in numbers.items()),
        "SELECT '', 'jobs', state, jobs FROM totals",
        "SELECT '', 'bytes', state, bytes FROM totals",
        "SELECT '', 'spools', instance, bytes FROM spools",
        f"SELECT '', 'damaged', reason, count(*) FROM {findings} GROUP BY reason",  # noqa: S608 - constants
        "SELECT 'counters', name, reason, count FROM counters",
        # There are never more claims than workers.
        "SELECT 'claims', holder, state, 1 FROM jobs INDEXED BY jobs_claimed WHERE holder IS NOT NULL",
    )
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    # In one statement, since each takes a round trip to a database.
    for part, figure, name, value in db.execute(" UNION ALL ".join(parts), (overdue_before,)):
        found[part][figure][name] = value
    figures = found[""]
    return Stats(
        jobs={State(name): number for name, number in figures["jobs"].items()},
        bytes={State(name): number for name, number in figures["bytes"].items()},
        claimed=Counter(State(name) for claim in found["claims"].values() for name in claim),
        counters=dict(found["counters"]),
        damaged=figures["damaged"],
        spools=figures["spools"],
        instances=instances(db),
        **figures["numbers"],
    )
