"""Reads the history: transitions in order, for the change feed, and why bytes were refused."""

from receiver.core.errors import LedgerError
from receiver.core.jobs import Job, Problem, State
from receiver.ledger import rows
from receiver.ledger.connection import Connection, number
from receiver.ledger.types import Transition, TransitionPage


def transitions(db: Connection, *, after: int, limit: int) -> TransitionPage:
    """Return transitions after an entry of the history; at most ``limit`` entries are read."""
    found = db.execute(
        f"SELECT history.seq, jobs.id, jobs.ref, {rows.EVENT} FROM history"  # noqa: S608 - a constant
        " JOIN jobs ON jobs.seq = history.job WHERE history.seq > ? ORDER BY history.seq LIMIT +?",
        (after, limit),
    ).fetchall()
    return TransitionPage(
        tuple(
            Transition(seq, job_id, ref, rows.event((at, event, before, after, reason, detail)))
            for seq, job_id, ref, at, event, before, after, reason, detail in found
            if before != after
        ),
        until=found[-1]["seq"] if found else after,
        more=len(found) == limit,
        pruned=number(db, "SELECT seq FROM marks WHERE name = 'pruned'") or 0,
    )


def last_history_seq(db: Connection) -> int:
    """Return the number of the last history entry, 0 without one. No number is given out twice."""
    return number(db, "SELECT max(seq) FROM history") or 0


def refusal_of(db: Connection, job_id: str) -> tuple[Job, Problem]:
    """Return a job whose bytes verification refused last, and why. Raise ``ledger.unknown_job``, or
    ``ledger.wrong_state`` where no refused bytes may be accepted.
    """
    row = rows.known(db, job_id)
    job = rows.job(row)
    if job.state not in (State.RECEIVED, State.REJECTED, State.EXPIRED):
        raise LedgerError("ledger.wrong_state", f"Job {job_id} is {job.state}: there is nothing to accept.")
    last = db.execute(
        "SELECT at, reason, detail FROM history WHERE job = ? AND (reason LIKE 'image.%'"
        " OR reason LIKE 'url.%' OR (event = 'rejected' AND reason LIKE 'provider.%'))"
        " ORDER BY seq DESC LIMIT 1",
        (row["seq"],),
    ).fetchone()
    if last is None:
        raise LedgerError("ledger.wrong_state", f"Verification has refused no bytes of job {job_id}.")
    if not last["reason"].startswith("image."):
        raise LedgerError(
            "ledger.wrong_state",
            f"Job {job_id} was refused for {last['reason']}, and not for its bytes: that cannot be accepted.",
        )
    return job, Problem(last["reason"], last["detail"] or "", last["at"])
