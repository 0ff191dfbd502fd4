"""Claims jobs for work. A claim is void once its lease has ended or its process has."""

import os
import secrets
from collections import Counter
from collections.abc import Collection, Sequence

from receiver.core.backoff import UPLOAD_MAX, crash_retry_at
from receiver.ledger import rows
from receiver.ledger.connection import Row, listed
from receiver.ledger.transaction import Transaction
from receiver.ledger.types import Claim, HostLimits

_READY = "state = 'received' AND next_attempt_at IS NULL AND holder IS NULL"
FRESH = f"INDEXED BY jobs_to_fetch WHERE {_READY} AND attempts = 0"
RETRIED = f"INDEXED BY jobs_to_fetch_again WHERE {_READY} AND attempts > 0"
BY_HOST = f"INDEXED BY jobs_to_fetch_by_host WHERE {_READY}"
TO_ARCHIVE = (
    "INDEXED BY jobs_to_archive WHERE state = 'fetched' AND next_attempt_at IS NULL AND holder IS NULL"
)
OVER = "INDEXED BY jobs_waiting WHERE next_attempt_at <= ?"
"""Jobs whose wait is over."""

MAX_HOSTS = 64
"""Hosts that are looked at when one of them has its share."""

FRESH_SHARE = 4
"""One worker in so many is kept for first attempts, so that failing jobs cannot keep fresh ones waiting."""


def most_further_attempts(workers: int) -> int:
    """Return how many workers, of all or of one host, may be busy with further attempts."""
    return workers - workers // FRESH_SHARE


def claim_to_fetch(
    tx: Transaction, limit: int, *, again: int, lease: int, hosts: HostLimits | None = None
) -> list[Claim]:
    """Claim jobs to download for ``lease`` ms, the earliest deadline first; at most ``again`` are retries.

    A job whose deadline passed before its first attempt is still tried once, because that costs nothing; but
    only by workers that no job before its deadline needs. Where ``hosts`` are limited, a host that has its
    share lets jobs of other hosts go first, whatever their deadlines are.
    """
    chosen = _Selection(limit, again, hosts or HostLimits({}, {}, {}, default=2 * limit, share=limit))
    found = _waiting(
        tx,
        (f"{FRESH} AND deadline > ? ORDER BY deadline", tx.now, limit),
        (f"{RETRIED} AND deadline > ? ORDER BY deadline", tx.now, min(again, limit)),
        (f"{FRESH} AND deadline <= ? ORDER BY deadline", tx.now, limit),
    )
    found.sort(key=lambda row: row["deadline"])
    soonest = [row for row in found if row["deadline"] > tx.now]
    chosen.take(soonest, within_share=True)
    if chosen.passed_over:
        others = [
            row
            for host in _waiting_hosts(tx)
            for retried in (False, True)
            for row in _ready_of(tx, host, chosen.room(host), retried=retried)
        ]
        others.sort(key=lambda row: row["deadline"])
        chosen.take(others, within_share=True)
        chosen.take(soonest)
    chosen.take([row for row in found if row["deadline"] <= tx.now])
    return _claim(tx, chosen.rows, lease)


def claim_past_deadline(tx: Transaction, limit: int, *, lease: int) -> list[Claim]:
    """Claim jobs that were tried and whose deadline has passed, to ask the provider before they expire."""
    found = _waiting(tx, (f"{RETRIED} AND deadline <= ? ORDER BY deadline", tx.now, limit))
    return _claim(tx, sorted(found, key=lambda row: row["deadline"]), lease)


def claim_to_archive(tx: Transaction, limit: int, *, lease: int) -> list[Claim]:
    """Claim jobs to upload for ``lease`` ms: those tried least, and of them the longest waiting.

    In this order a few jobs that the archive never takes do not hold up all others. Files in the spool of
    another instance are out of reach.
    """
    found = _waiting(tx, (f"{TO_ARCHIVE} AND instance = ? ORDER BY attempts, fetched_at", tx.instance, limit))
    return _claim(tx, sorted(found, key=lambda row: (row["attempts"], row["fetched_at"])), lease)


def release(tx: Transaction, claim: Claim) -> bool:
    """Give an unused claim back. Return False where it was void."""
    done = tx.db.execute(
        "UPDATE jobs SET holder = NULL, lease_until = NULL, attempts = attempts - 1"
        " WHERE id = ? AND holder = ?",
        (claim.job.id, claim.holder),
    )
    return done.rowcount == 1


def release_all(tx: Transaction, instance: str = "") -> list[str]:
    """Void every claim of an instance, and return the ids of jobs whose download was interrupted.

    Only where no process of it is left that could hold one. The first interruptions of a job do not count as
    attempts, so that it is still tried after its deadline; a job that is interrupted again and again waits,
    and its attempts count. Waits for downloads that began later than now end: the clock was set back while no
    process ran, and they would last longer by as much. So do waits for the archive that are longer than any
    that an outage causes: they come from such a clock, or from a key that was taken.
    """
    interrupted = tx.db.execute(
        "SELECT seq, id, deadline,"
        " (SELECT count(*) FROM history WHERE job = jobs.seq AND event = 'cut_off') AS before"
        " FROM jobs WHERE holder IS NOT NULL AND state = 'received' AND instance = ?",
        (instance,),
    ).fetchall()
    for row in interrupted:
        again_at = crash_retry_at(tx.now, row["before"], row["deadline"])
        tx.db.execute(
            "UPDATE jobs SET holder = NULL, lease_until = NULL, event = 'cut_off', updated_at = :now,"
            " attempts = CASE WHEN attempts > 0 THEN attempts - :none ELSE 0 END, next_attempt_at = :at"
            " WHERE seq = :seq",
            {"seq": row["seq"], "none": int(again_at is None), "at": again_at, "now": tx.now},
        )
    tx.db.execute(
        "UPDATE jobs SET holder = NULL, lease_until = NULL,"
        " attempts = CASE WHEN attempts > 0 THEN attempts - 1 ELSE 0 END"
        " WHERE holder IS NOT NULL AND instance = ?",
        (instance,),
    )
    tx.db.execute(
        "UPDATE jobs SET next_attempt_at = NULL WHERE next_attempt_at > :now AND instance = :instance"
        " AND CASE state WHEN 'fetched' THEN next_attempt_at > :latest ELSE updated_at > :now END",
        {"now": tx.now, "latest": tx.now + UPLOAD_MAX, "instance": instance},
    )
    return [row["id"] for row in interrupted]


def release_expired_leases(tx: Transaction, kept: Collection[str] = ()) -> None:
    """Void this instance's claims whose lease has ended, except those of the holders in ``kept``."""
    marks, holders = listed(kept)
    tx.db.execute(
        "UPDATE jobs SET holder = NULL, lease_until = NULL WHERE holder IS NOT NULL AND lease_until < ?"  # noqa: S608
        f" AND instance = ? AND holder NOT IN ({marks})",
        (tx.monotonic, tx.instance, *holders),
    )


class _Selection:
    """The jobs that are claimed, within the limits of all and of each host."""

    def __init__(self, limit: int, again: int, hosts: HostLimits) -> None:
        self.rows: list[Row] = []
        self.passed_over = False
        """Whether a job was left because its host has its share."""
        self._limit = limit
        self._again = again
        self._hosts = hosts
        self._running = Counter(hosts.running)
        self._retried = Counter(hosts.retried)
        self._taken: set[int] = set()

    def room(self, host: str) -> int:
        """Return how many jobs of a host may be taken within its share."""
        return min(self._most(host, within_share=True) - self._running[host], self._limit - len(self.rows))

    def take(self, rows: Sequence[Row], *, within_share: bool = False) -> None:
        for row in rows:
            host, retried = row["host"], row["attempts"] > 0
            if row["seq"] in self._taken or len(self.rows) >= self._limit or (retried and self._again <= 0):
                continue
            most = self._most(host, within_share=within_share)
            if self._running[host] >= most or (
                retried and self._retried[host] >= most_further_attempts(most)
            ):
                self.passed_over = True
                continue
            self.rows.append(row)
            self._taken.add(row["seq"])
            self._running[host] += 1
            self._retried[host] += retried
            self._again -= retried

    def _most(self, host: str, *, within_share: bool) -> int:
        most = self._hosts.most.get(host, self._hosts.default)
        return min(most, self._hosts.share) if within_share else most


def _waiting(tx: Transaction, *sources: tuple[str, int | str, int]) -> list[Row]:
    """Return the first jobs from indexes above, each with its value and its limit, in no order.

    Jobs whose wait is over come back into these indexes. Most often there is none, and then one statement is
    enough: a round trip to a database takes longer than to find the jobs.
    """
    parts = [f"SELECT {_TURN} FROM jobs {source} LIMIT +?" for source in (OVER, *(it[0] for it in sources))]  # noqa: S608
    query = " UNION ALL ".join(f"SELECT * FROM ({part}) AS part_{n}" for n, part in enumerate(parts))  # noqa: S608
    values = [value for _, value, limit in sources for value in (value, max(limit, 0))]
    found = tx.db.execute(query, (tx.now, 1, *values)).fetchall()
    if any(row["next_attempt_at"] is not None for row in found):
        tx.db.execute(
            "UPDATE jobs SET next_attempt_at = NULL WHERE seq IN"  # noqa: S608 - a constant
            f" (SELECT seq FROM jobs {OVER} ORDER BY next_attempt_at LIMIT 1000)",
            (tx.now,),
        )
        found = tx.db.execute(query, (tx.now, 0, *values)).fetchall()
    return found


_TURN = "seq, deadline, attempts, host, fetched_at, next_attempt_at"


def _waiting_hosts(tx: Transaction) -> list[str]:
    """Return hosts of which jobs can be fetched, with one step in the index for each host, not each job."""
    found = tx.db.execute(
        f"WITH RECURSIVE hosts (host) AS (SELECT min(host) FROM jobs {BY_HOST}"  # noqa: S608 - constants
        f" UNION ALL SELECT (SELECT min(host) FROM jobs {BY_HOST} AND host > hosts.host) FROM hosts"
        " WHERE host IS NOT NULL) SELECT host FROM hosts WHERE host IS NOT NULL LIMIT +?",
        (MAX_HOSTS,),
    )
    return [row["host"] for row in found]


def _ready_of(tx: Transaction, host: str, limit: int, *, retried: bool) -> list[Row]:
    """Return jobs of one host that can be fetched before their deadline, the earliest deadline first."""
    if limit <= 0:
        return []
    return tx.db.execute(
        f"SELECT seq, deadline, attempts, host FROM jobs {BY_HOST}"  # noqa: S608 - constants
        " AND host = ? AND (attempts > 0) = ? AND deadline > ? ORDER BY deadline LIMIT +?",
        (host, retried, tx.now, limit),
    ).fetchall()


def _claim(tx: Transaction, chosen: Sequence[Row], lease: int) -> list[Claim]:
    """Claim jobs, unless others hold this instance for dead: what it took now, they would not free again."""
    if not chosen:
        return []
    run = f"{os.getpid()}-{secrets.token_hex(8)}-"
    marks, numbers = listed([row["seq"] for row in chosen])
    # A receiver that has the ledger for itself is never held for dead, and need not read one more table.
    lives = "NOT IN (SELECT id FROM instances WHERE buried_at IS NOT NULL)" if tx.instance else "= ''"
    claimed = tx.db.execute(
        "UPDATE jobs SET holder = ? || seq, instance = ?, lease_until = ?, attempts = attempts + 1,"  # noqa: S608
        f" next_attempt_at = NULL WHERE seq IN ({marks}) AND ? {lives}"
        f" RETURNING {rows.JOB}, host, holder, seq",
        (run, tx.instance, tx.monotonic + lease, *numbers, tx.instance),
    )
    claims = {row["seq"]: Claim(rows.job(row), row["holder"], row["host"]) for row in claimed.fetchall()}
    return [claims[row["seq"]] for row in chosen if row["seq"] in claims]
