"""What can be asked of the ledger. Every query is bounded by an index, however many jobs there are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from receiver.core.backoff import AT_RISK_SHARE
from receiver.core.jobs import Event, Job, State
from receiver.ledger import maintenance, types
from receiver.ledger.sqlite.driver import sqlite3
from receiver.ledger.types import Intent, PendingJob, TransitionPage

_CLOCK_SLACK = 86_400_000
_LONGEST_LIFE = 7 * 86_400_000  # of a URL that S3 presigns
_LAST = "\U0010ffff"  # behind a prefix: the end of all that begins with it
_LEAST_SHARED = 3  # characters; with fewer, any two ids are alike by chance
_PAGE_BYTES = 4 * 2**20  # of bodies, which JSON may make six times as long


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs are wanted; what is ``None`` or empty does not narrow.

    Attributes:
        states: any of these.
        ref: exactly this.
        reason: exactly this, as the job's present reason.
        since: first heard of at this time or later, ms since the epoch.
        until: first heard of before this time.
        overdue_before: still ``submitted``, and submitted before this time: overdue.
        not_overdue_before: all but those.
    """

    states: tuple[State, ...] = ()
    ref: str | None = None
    reason: str | None = None
    since: int | None = None
    until: int | None = None
    overdue_before: int | None = None
    not_overdue_before: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs, newest first.

    Attributes:
        jobs: at most as many as were asked for.
        next: where the next page begins; ``None`` at the end.
    """

    jobs: tuple[Job, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class UnreadDelivery:
    """Something that came to the webhook with good headers and was no completion."""

    seq: int
    at: int
    outcome: str
    detail: str
    body: bytes


@dataclass(frozen=True, slots=True)
class UnreadPage:
    """Deliveries that could not be read, newest first, and where the next page begins."""

    deliveries: tuple[UnreadDelivery, ...]
    next: int | None


@dataclass(frozen=True, slots=True)
class Stats:
    """The ledger in numbers. Times are ms since the epoch, or ``None`` where no such job is.

    Attributes:
        jobs: how many stand in each state.
        bytes: of the images of the jobs in each state.
        oldest_waiting_at: when the longest-waiting job whose image is not archived yet was received.
        soonest_deadline: of the jobs whose image is not safe yet.
        overdue: submitted jobs that have been silent too long.
        at_risk: jobs whose image is not safe yet and little of whose life is left.
        unread: deliveries that were no completions.
        counters: what happened, by name and reason.
        damaged: archived objects that the last audit found to be missing or altered, by reason.
        notifications_pending: how many jobs' ends are still to be told to who wants to know.
    """

    jobs: dict[State, int]
    bytes: dict[State, int]
    oldest_waiting_at: int | None
    soonest_deadline: int | None
    overdue: int
    at_risk: int
    unread: int
    counters: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    damaged: Mapping[str, int] = field(default_factory=dict)
    notifications_pending: int = 0


def job(db: sqlite3.Connection, job_id: str) -> Job | None:
    """One job."""
    row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return types.job(row) if row is not None else None


def job_with_history(db: sqlite3.Connection, job_id: str) -> tuple[Job, tuple[Event, ...]] | None:
    """One job and its history, oldest first, of one moment."""
    row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        return None
    events = db.execute("SELECT * FROM history WHERE job = ? ORDER BY seq", (row["seq"],))
    return types.job(row), tuple(types.event(event) for event in events)


def jobs(db: sqlite3.Connection, wanted: Filter, before: int | None, limit: int) -> Page:
    """A page of jobs, newest first, beginning below the position ``before``."""
    conditions, values = _conditions(db, wanted)
    if before is not None:
        conditions.append("seq < ?")
        values.append(before)
    # One ordered walk for each state, and one merge: `state IN (…) ORDER BY seq` would sort whole states.
    walks, arguments = [], []
    for state in dict.fromkeys(wanted.states) or (None,):
        own = [*conditions, "state = ?"] if state else conditions
        if _is_shorter_by_state(db, wanted, state):
            own = [_NOT_BY.get(condition, condition) for condition in own]
        where = f"WHERE {' AND '.join(own)}" if own else ""
        walks.append(f"SELECT * FROM (SELECT * FROM jobs {where} ORDER BY seq DESC LIMIT ?)")  # noqa: S608 - constants
        arguments += [*values, *([state] if state else []), limit + 1]
    found = db.execute(
        f"{' UNION ALL '.join(walks)} ORDER BY seq DESC LIMIT ?", (*arguments, limit + 1)
    ).fetchall()
    more = len(found) > limit
    return Page(tuple(types.job(row) for row in found[:limit]), found[limit - 1]["seq"] if more else None)


def jobs_with_prefix(db: sqlite3.Connection, prefix: str, limit: int) -> tuple[Job, ...]:
    """Jobs whose ids begin so, in the ids' order."""
    found = db.execute(
        "SELECT * FROM jobs WHERE id >= ? AND id < ? ORDER BY id LIMIT ?", (prefix, prefix + _LAST, limit)
    )
    return tuple(types.job(row) for row in found)


def similar_jobs(db: sqlite3.Connection, text: str, limit: int) -> tuple[Job, ...]:
    """Jobs that somebody may have meant by a text that is no id.

    Those whose reference begins so, and those whose ids share the longest beginning with it: a few look-ups
    in an index, however many jobs there are.
    """
    by_ref = db.execute(
        "SELECT * FROM jobs WHERE ref >= ? AND ref < ? ORDER BY ref, seq LIMIT ?", (text, text + _LAST, limit)
    )
    found = [types.job(row) for row in by_ref]
    for length in range(len(text) - 1, _LEAST_SHARED - 1, -1):
        if alike := jobs_with_prefix(db, text[:length], limit):
            found += alike
            break
    return tuple(found)


_SHORT_WALK = 20_000

_NOT_BY = {"ref = ?": "+ref = ?", "reason = ?": "+reason = ?"}
"""The same conditions, but no index is taken for them."""


def _is_shorter_by_state(db: sqlite3.Connection, wanted: Filter, state: State | None) -> bool:
    """Whether fewer jobs stand in the state than have the reference or the reason, as far as it is counted.

    A whole catalogue may have one reference, and three of its jobs have failed: SQLite, which knows no such
    numbers, would walk over the catalogue.
    """
    if state is None and wanted.overdue_before is not None:
        state = State.SUBMITTED
    if state is None or (wanted.ref is None and wanted.reason is None):
        return False
    (standing,) = db.execute("SELECT jobs FROM totals WHERE state = ?", (state,)).fetchone()
    if standing > _SHORT_WALK:
        return False
    for column, value in (("ref", wanted.ref), ("reason", wanted.reason)):
        if value is not None:
            (found,) = db.execute(
                f"SELECT count(*) FROM (SELECT 1 FROM jobs INDEXED BY jobs_by_{column}"  # noqa: S608 - the names above
                f" WHERE {column} = ? LIMIT ?)",
                (value, standing + 1),
            ).fetchone()
            if found <= standing:
                return False
    return True


def unread_deliveries(
    db: sqlite3.Connection, outcome: str | None, before: int | None, limit: int
) -> UnreadPage:
    """Deliveries that were no completions, newest first; fewer than ``limit`` if their bodies are large."""
    conditions: list[str] = []
    values: list[str | int] = []
    if outcome is not None:
        conditions.append("outcome = ?")
        values.append(outcome)
    if before is not None:
        conditions.append("seq < ?")
        values.append(before)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    found = db.execute(
        f"SELECT * FROM unread {where} ORDER BY seq DESC LIMIT ?",  # noqa: S608 - constants
        (*values, limit + 1),
    )
    page: list[UnreadDelivery] = []
    size = 0
    for r in found:
        size += len(r["body"])
        if page and (len(page) == limit or size > _PAGE_BYTES):
            return UnreadPage(tuple(page), page[-1].seq)
        page.append(UnreadDelivery(r["seq"], r["at"], r["outcome"], r["detail"], r["body"]))
    return UnreadPage(tuple(page), None)


def stats(db: sqlite3.Connection, overdue_before: int) -> Stats:
    """The ledger in numbers, of one moment."""
    totals = db.execute("SELECT * FROM totals").fetchall()
    (overdue,) = db.execute(
        "SELECT count(*) FROM jobs INDEXED BY jobs_silent WHERE state = 'submitted' AND submitted_at < ?",
        (overdue_before,),
    ).fetchone()
    (unread,) = db.execute("SELECT count(*) FROM unread").fetchone()
    return Stats(
        jobs={State(row["state"]): row["jobs"] for row in totals},
        bytes={State(row["state"]): row["bytes"] for row in totals},
        oldest_waiting_at=oldest_waiting_at(db),
        soonest_deadline=soonest_deadline(db),
        overdue=overdue,
        at_risk=_count_at_risk(db),
        unread=unread,
        counters=counters(db),
        damaged=maintenance.damaged(db),
        notifications_pending=notifications_pending(db),
    )


def counters(db: sqlite3.Connection) -> dict[str, dict[str, int]]:
    """What happened so far, by name and by reason; an empty reason stands for none."""
    found: dict[str, dict[str, int]] = {}
    for row in db.execute("SELECT * FROM counters"):
        found.setdefault(row["name"], {})[row["reason"]] = row["count"]
    return found


def silent(db: sqlite3.Connection, overdue_before: int, ask_by: int, limit: int) -> tuple[PendingJob, ...]:
    """Submitted jobs to ask the provider about, the longest waiting for it first.

    Args:
        db: the connection.
        overdue_before: ms since the epoch: submitted before this time.
        ask_by: due to be asked for at this time or before.
        limit: at most so many.
    """
    found = db.execute(
        "SELECT id, submitted_at, asks, ask_at, reason FROM jobs INDEXED BY jobs_to_ask"
        " WHERE state = 'submitted' AND ask_at IS NOT NULL AND ask_at <= ? AND submitted_at < ?"
        " ORDER BY ask_at LIMIT ?",
        (ask_by, overdue_before, limit),
    )
    return tuple(types.silent(row) for row in found)


def silent_among(db: sqlite3.Connection, ids: Sequence[str]) -> dict[str, PendingJob | None]:
    """Of these ids those that the ledger knows: with what they are if they are silent, ``None`` if not."""
    found: dict[str, PendingJob | None] = {}
    for job_id in ids:
        row = db.execute(
            "SELECT id, state, submitted_at, asks, ask_at, reason FROM jobs WHERE id = ?", (job_id,)
        ).fetchone()
        if row is not None:
            found[job_id] = types.silent(row) if row["state"] == "submitted" else None
    return found


def open_intents(db: sqlite3.Connection, before: int, limit: int) -> tuple[Intent, ...]:
    """What was about to be submitted before this time (ms since the epoch), and of which no id is known."""
    found = db.execute(
        "SELECT * FROM submissions INDEXED BY submissions_open WHERE job IS NULL AND at < ?"
        " ORDER BY at LIMIT ?",
        (before, limit),
    )
    return tuple(types.intent(row) for row in found)


def oldest_waiting_at(db: sqlite3.Connection) -> int | None:
    """When the longest-waiting job whose image is not archived yet was received, ms since the epoch."""
    (oldest,) = db.execute(
        "SELECT min(received_at) FROM jobs INDEXED BY jobs_not_archived"
        " WHERE state IN ('received', 'fetched')"
    ).fetchone()
    return None if oldest is None else int(oldest)


def intents_among(db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Intent]:
    """Of these keys those that something was noted for, open or not."""
    found = {}
    for key in keys:
        row = db.execute("SELECT * FROM submissions WHERE key = ?", (key,)).fetchone()
        if row is not None:
            found[key] = types.intent(row)
    return found


def job_ids_submitted_since(db: sqlite3.Connection, at: int) -> frozenset[str]:
    """The jobs' ids of all that was about to be submitted at this time (ms since the epoch) or later."""
    found = db.execute("SELECT job FROM submissions WHERE at >= ? AND job IS NOT NULL", (at,))
    return frozenset(row["job"] for row in found)


def jobs_among(db: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Job]:
    """Of these ids those that the ledger knows."""
    return {job_id: found for job_id in ids if (found := job(db, job_id)) is not None}


def transitions(db: sqlite3.Connection, after: int, limit: int) -> TransitionPage:
    """Jobs that came or moved after a line of the history; at most so many lines are read."""
    found = db.execute(
        "SELECT history.*, jobs.id, jobs.ref FROM history JOIN jobs ON jobs.seq = history.job"
        " WHERE history.seq > ? ORDER BY history.seq LIMIT ?",
        (after, limit),
    ).fetchall()
    moves = tuple(types.transition(row) for row in found if row["before"] != row["after"])
    until = found[-1]["seq"] if found else after
    return TransitionPage(moves, until, more=len(found) == limit, pruned=_pruned_until(db))


def _pruned_until(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT seq FROM marks WHERE name = 'pruned'").fetchone()
    return 0 if row is None else int(row["seq"])


def last_history_seq(db: sqlite3.Connection) -> int:
    """The last line of the history; 0 where there is none."""
    (seq,) = db.execute("SELECT coalesce(max(seq), 0) FROM history").fetchone()
    return int(seq)


def notifications_pending(db: sqlite3.Connection) -> int:
    """How many notifications are still to be sent."""
    (number,) = db.execute(
        "SELECT count(*) FROM notifications INDEXED BY notifications_due WHERE given_up_at IS NULL"
    ).fetchone()
    return int(number)


def soonest_deadline(db: sqlite3.Connection) -> int | None:
    """The earliest deadline of all jobs whose image is not safe yet, ms since the epoch."""
    (deadline,) = db.execute(
        "SELECT min(deadline) FROM ("
        "SELECT min(deadline) AS deadline FROM jobs INDEXED BY jobs_to_fetch"
        " WHERE state = 'received' AND next_attempt_at IS NULL AND holder IS NULL AND attempts = 0"
        " UNION ALL SELECT min(deadline) FROM jobs INDEXED BY jobs_to_fetch_again"
        " WHERE state = 'received' AND next_attempt_at IS NULL AND holder IS NULL AND attempts > 0"
        " UNION ALL SELECT min(deadline) FROM jobs INDEXED BY jobs_waiting_to_fetch"
        " WHERE state = 'received' AND next_attempt_at IS NOT NULL"
        " UNION ALL SELECT min(deadline) FROM jobs INDEXED BY jobs_claimed"
        " WHERE holder IS NOT NULL AND state = 'received')"
    ).fetchone()
    return None if deadline is None else int(deadline)


def newly_at_risk(db: sqlite3.Connection, now: int, limit: int) -> Sequence[str]:
    """Ids of jobs that less than a tenth of their life is left to, and that are not marked so yet."""
    found: list[str] = []
    for which in (
        "jobs_to_fetch WHERE next_attempt_at IS NULL AND holder IS NULL AND attempts = 0",
        "jobs_to_fetch_again WHERE next_attempt_at IS NULL AND holder IS NULL AND attempts > 0",
        "jobs_waiting_to_fetch WHERE next_attempt_at IS NOT NULL",
        "jobs_claimed WHERE holder IS NOT NULL",
    ):
        found += (
            row["id"]
            for row in db.execute(
                f"SELECT id FROM jobs INDEXED BY {which} AND state = 'received' AND at_risk_at IS NULL"  # noqa: S608 - constants
                " AND deadline < ? AND (deadline - ?) * ? < deadline - received_at LIMIT ?",
                (now + _LONGEST_LIFE // AT_RISK_SHARE, now, AT_RISK_SHARE, limit - len(found)),
            )
        )
    return found


def _count_at_risk(db: sqlite3.Connection) -> int:
    (count,) = db.execute(
        "SELECT count(*) FROM jobs INDEXED BY jobs_at_risk"
        " WHERE state = 'received' AND at_risk_at IS NOT NULL"
    ).fetchone()
    return int(count)


def spool_names(db: sqlite3.Connection) -> frozenset[str]:
    """The names of all spool files that jobs wait with for the archive."""
    return frozenset(row["spool"] for row in db.execute("SELECT spool FROM jobs WHERE state = 'fetched'"))


def spool_bytes(db: sqlite3.Connection) -> int:
    """Bytes of all images that wait in the spool."""
    (size,) = db.execute("SELECT bytes FROM totals WHERE state = 'fetched'").fetchone()
    return int(size)


def next_event_at(db: sqlite3.Connection) -> int | None:
    """When the worker has something to do that no commit announces: the end of a wait, or a deadline."""
    (due,) = db.execute(
        "SELECT min(next_attempt_at) FROM jobs INDEXED BY jobs_waiting WHERE next_attempt_at IS NOT NULL"
    ).fetchone()
    times = [int(t) for t in (due, soonest_deadline(db)) if t is not None]
    return min(times, default=None)


def _conditions(db: sqlite3.Connection, wanted: Filter) -> tuple[list[str], list[str | int]]:
    conditions: list[str] = []
    values: list[str | int] = []
    for condition, value in (
        ("ref = ?", wanted.ref),
        ("reason = ?", wanted.reason),
        ("created_at >= ?", wanted.since),
        ("created_at < ?", wanted.until),
        ("state = 'submitted' AND submitted_at < ?", wanted.overdue_before),
        ("NOT (state = 'submitted' AND submitted_at < ?)", wanted.not_overdue_before),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    # Arrival order follows the clock, so the window's ends bound the walk over seq. They are taken a day
    # wide, for clocks that were wrong and were set; the exact conditions above decide.
    if wanted.since is not None:
        conditions.append("seq >= ?")
        values.append(_seq_at(db, wanted.since - _CLOCK_SLACK))
    if wanted.until is not None:
        conditions.append("seq < ?")
        values.append(_seq_at(db, wanted.until + _CLOCK_SLACK))
    return conditions, values


def _seq_at(db: sqlite3.Connection, at: int) -> int:
    """The first position whose job was first heard of at this time or later.

    Found by halving, in a few dozen look-ups: an index on the time would cost every delivery.
    """
    (last,) = db.execute("SELECT coalesce(max(seq), 0) FROM jobs").fetchone()
    low, high = 0, int(last) + 1
    while low < high:
        middle = (low + high) // 2
        row = db.execute(
            "SELECT seq, created_at FROM jobs WHERE seq >= ? ORDER BY seq LIMIT 1", (middle,)
        ).fetchone()
        if row is None or row["created_at"] >= at:
            high = middle
        else:
            low = row["seq"] + 1
    return low
