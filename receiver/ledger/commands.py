"""What can be done to the ledger: each verb is one short piece of a transaction.

Every move is a compare-and-set on the state, and on the claim where work was claimed; it gives False where
the job has moved on meanwhile. Verbs set ``event``, and the triggers write the history from it.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from receiver.core.backoff import UPLOAD_MAX, crash_retry_at
from receiver.core.completion import Completion
from receiver.core.errors import LedgerError, ReceiverError
from receiver.core.jobs import UNSUCCESSFUL, Image, Job, State, StoredObject
from receiver.ledger import types
from receiver.ledger.group_commit import Transaction
from receiver.ledger.sqlite.driver import sqlite3
from receiver.ledger.types import Intent

FOUND = "found"
"""An event and a counter: asking found a completion that no delivery had brought."""
ADOPTED = "adopted"
"""An event and a counter: the same, of a job that nobody had announced."""
LATE = "late"
"""A counter: the delivery of a completion came after it had been found."""
OTHER_URL = "other_url"
"""An event: a later delivery named another URL, and the first one stands."""
OTHER_URLS = "other_urls"
"""An event: more deliveries did so than are kept one by one; its line says how many."""
OTHERS_KEPT = 20
"""Other URLs that the history of one job keeps: whoever holds the secret can name new ones without end."""
ASKED = "asked"
"""A counter: questions about silent jobs that found no completion, by the reason why there was no answer."""

RECONCILED = (ASKED, FOUND, LATE, ADOPTED)
"""Counters of what asking the provider has come to."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A completion, and how it came.

    Attributes:
        completion: what it says.
        body: its raw bytes.
        deadline: ms since the epoch: when the image URL's life ends.
        ref: the submitter's own reference, if it came with one.
        ticket: the number of the ticket that proved it, if one did.
        endpoint: such as ``upscale_2x``, where that is known.
        found: whether we asked the provider for it, and it did not come by itself.
        mark: what `Intent.mark` went along as when we submitted it ourselves.
    """

    completion: Completion
    body: bytes
    deadline: int
    ref: str | None = None
    ticket: str | None = None
    endpoint: str | None = None
    found: bool = False
    mark: str | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a delivery.

    Attributes:
        state: the job's state now.
        duplicate: whether the delivery changed nothing.
        received_at: when what the job stands on was recorded, ms since the epoch.
        events: what was written into the job's history.
    """

    state: State
    duplicate: bool
    received_at: int | None = field(default=None, compare=False)
    events: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a job, until its lease ends.

    Attributes:
        job: the job as it was when it was claimed.
        holder: names this claim in the ledger.
    """

    job: Job
    holder: str


def record(tx: Transaction, delivery: Delivery, now: int) -> Recorded | None:
    """Records a completion; gives ``None``, and changes nothing, where its ticket belongs to another job.

    That is no error to raise here: it would have the whole batch committed anew, one by one.
    """
    said = delivery.completion
    if delivery.ticket is not None and not _bind_ticket(tx, delivery.ticket, said.id, now):
        return None
    noted = _settle(tx, delivery.mark, said.id, now)
    state = State.FAILED if said.failure else State.RECEIVED
    brought = _columns(delivery, state, now)
    if delivery.found:
        brought = brought._replace(event=ADOPTED)
    born = tx.db.execute(_INSERT_COMPLETED, brought)
    if born.rowcount == 1:
        assert born.lastrowid is not None
        _keep(tx, born.lastrowid, delivery)
        if delivery.found:
            count(tx, ADOPTED)
        return Recorded(state, False, now, (*noted, brought.event))
    known = tx.db.execute(
        "SELECT seq, state, image_url, received_at, found_at, late_at FROM jobs WHERE id = ?", (said.id,)
    ).fetchone()
    before = State(known["state"])
    if _brings_something_new(said, before, known["image_url"]):
        if delivery.found:
            brought = brought._replace(event=FOUND)
        tx.db.execute(_UPDATE_COMPLETED, {"seq": known["seq"], **brought._asdict()})
        _keep(tx, known["seq"], delivery)
        if delivery.found:
            count(tx, FOUND, said.failure.reason if said.failure else "")
        return Recorded(state, False, now, (*noted, brought.event))
    if known["found_at"] is not None and known["late_at"] is None and not delivery.found:
        noted.append(_note_late(tx, known["seq"], before, now))
    if said.image_url is not None and said.image_url != known["image_url"]:
        noted += _note_other_url(tx, known["seq"], before, said.image_url, now)
    return Recorded(before, True, known["received_at"], tuple(noted))


def record_unread(tx: Transaction, outcome: str, detail: str, body: bytes, now: int) -> None:
    """Keeps an authenticated body that is no completion, for an operator to look at."""
    tx.db.execute(
        "INSERT INTO unread (at, outcome, detail, body) VALUES (?, ?, ?, ?)",
        (now, outcome, detail, body),
    )


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that the provider was asked for, by us or by another program.

    Attributes:
        id: the provider's id of the job.
        ref: the submitter's own reference.
        endpoint: such as ``upscale_2x``.
        source_url: the image that was submitted, where it was a URL.
    """

    id: str
    ref: str | None = None
    endpoint: str | None = None
    source_url: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the provider said of a job that has not ended, or why it said nothing.

    Attributes:
        status: its own word for the job's state.
        reason: one of ``errors.REASONS`` where it did not answer.
        detail: a sentence for the operator.
    """

    status: str | None = None
    reason: str | None = None
    detail: str | None = None


def expect(tx: Transaction, submission: Submission, now: int, *, at: int | None = None) -> bool:
    """Notes that a job was submitted, so that its silence is noticed. Gives whether it was unknown.

    Args:
        tx: the transaction.
        submission: the job.
        now: ms since the epoch.
        at: when it was submitted, where that was not just now.
    """
    said = submission
    at = now if at is None else at
    born = tx.db.execute(
        "INSERT INTO jobs (id, state, ref, endpoint, source_url, event, created_at, submitted_at, updated_at,"
        " ask_at) VALUES (:id, 'submitted', :ref, :endpoint, :source_url, 'submitted', :now, :at, :now,"
        " :now) ON CONFLICT (id) DO NOTHING RETURNING seq",
        {
            "id": said.id,
            "ref": said.ref,
            "endpoint": said.endpoint,
            "source_url": said.source_url,
            "now": now,
            "at": at,
        },
    ).fetchone()
    if born is None:
        # The completion can be faster than the answer to the submission.
        tx.db.execute(
            "UPDATE jobs SET ref = coalesce(ref, ?), endpoint = coalesce(endpoint, ?),"
            " source_url = coalesce(source_url, ?), submitted_at ="
            " coalesce(submitted_at, min(?, coalesce(received_at, created_at))) WHERE id = ?",
            (said.ref, said.endpoint, said.source_url, at, said.id),
        )
    tx.changed.append(said.id)
    return born is not None


def asked(tx: Transaction, job_id: str, answer: Answer, ask_at: int, now: int) -> bool:
    """The provider was asked about a silent job and had no completion; it is asked again at ``ask_at``.

    The history gets a line only where the answer is another than the last one: a job may be asked about for
    hours. Gives whether it got one.
    """
    count(tx, ASKED, answer.reason or "")
    return _answered(tx, job_id, answer, ask_at, now)


def seen(tx: Transaction, statuses: Mapping[str, str], ask_at: int, now: int) -> list[str]:
    """The provider's list names these jobs' states, none of which is an end: they need not be asked for.

    Gives the ids of those whose history got a line.
    """
    return [
        job_id
        for job_id, status in statuses.items()
        if _answered(tx, job_id, Answer(status, detail=f"The provider says {status}."), ask_at, now)
    ]


def intend(tx: Transaction, intent: Intent, now: int) -> Intent:
    """Notes what is about to be submitted; gives what was noted for this key before, if anything was."""
    tx.db.execute(
        "INSERT INTO submissions (key, mark, ref, endpoint, source_url, at) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (key) DO NOTHING",
        (intent.key, intent.mark, intent.ref, intent.endpoint, intent.source_url, now),
    )
    return types.intent(tx.db.execute("SELECT * FROM submissions WHERE key = ?", (intent.key,)).fetchone())


def submitted(tx: Transaction, key: str, job_id: str, now: int) -> bool:
    """The provider has taken what was intended, as the job of this id. Gives whether the job was unknown."""
    row = tx.db.execute("UPDATE submissions SET job = ? WHERE key = ? RETURNING *", (job_id, key)).fetchone()
    if row is None:  # withdrawn meanwhile, as far too old: the job counts all the same
        return expect(tx, Submission(job_id), now)
    said = types.intent(row)
    return expect(tx, Submission(job_id, said.ref, said.endpoint, said.source_url), now, at=said.at)


def withdraw(tx: Transaction, key: str) -> None:
    """What was intended was certainly not taken."""
    tx.db.execute("DELETE FROM submissions WHERE key = ? AND job IS NULL", (key,))


def _settle(tx: Transaction, mark: str | None, job_id: str, now: int) -> list[str]:
    """A completion carries the mark of what we submitted: its job is known, whatever became of the answer.

    Gives what this wrote into the job's history.
    """
    if mark is None:
        return []
    row = tx.db.execute("SELECT key FROM submissions WHERE mark = ? AND job IS NULL", (mark,)).fetchone()
    new = row is not None and submitted(tx, row["key"], job_id, now)
    return ["submitted"] if new else []


def count(tx: Transaction, name: str, reason: str = "", by: int = 1) -> None:
    """Counts something that happened, durably."""
    tx.db.execute(
        "INSERT INTO counters (name, reason, count) VALUES (?, ?, ?)"
        " ON CONFLICT (name, reason) DO UPDATE SET count = count + excluded.count",
        (name, reason, by),
    )


@dataclass(frozen=True, slots=True)
class Lease:
    """What new claims are given.

    Attributes:
        holder: names them in the ledger.
        lease_until: when they end by themselves: ms, on the holder's monotonic clock.
        limit: at most so many.
    """

    holder: str
    lease_until: int
    limit: int


def claim_to_fetch(tx: Transaction, terms: Lease, now: int, *, again: int) -> list[Claim]:
    """Claims jobs whose image is to be downloaded, the earliest deadline first.

    A job whose deadline has passed before its first attempt is still tried once, because nothing is lost by
    it; but only with hands that no living job wants.

    Args:
        tx: the transaction.
        terms: of the claims.
        now: ms since the epoch.
        again: at most so many that were tried before.
    """
    _promote(tx, now)
    living = _ready(tx, _FRESH, "deadline > ?", now, terms.limit)
    living += _ready(tx, _TRIED, "deadline > ?", now, min(again, terms.limit))
    living.sort(key=lambda row: row["deadline"])
    chosen = living[: terms.limit]
    chosen += _ready(tx, _FRESH, "deadline <= ?", now, terms.limit - len(chosen))
    return _claims(tx, chosen, terms)


def claim_past_deadline(tx: Transaction, terms: Lease, now: int) -> list[Claim]:
    """Claims jobs whose time is over and which were tried, for a last question before they expire.

    Those that wait for the next question are left to wait.
    """
    _promote(tx, now)
    return _claims(tx, _ready(tx, _TRIED, "deadline <= ?", now, terms.limit), terms)


def claim_to_archive(tx: Transaction, terms: Lease, now: int) -> list[Claim]:
    """Claims jobs whose verified image waits on our disk: those tried least, and of them the longest waiting.

    So a few that the archive will never take do not stand before all others again and again.
    """
    _promote(tx, now)
    found = tx.db.execute(
        "SELECT seq FROM jobs INDEXED BY jobs_to_archive WHERE state = 'fetched' AND next_attempt_at IS NULL"
        " AND holder IS NULL ORDER BY attempts, fetched_at LIMIT ?",
        (max(terms.limit, 0),),
    ).fetchall()
    return _claims(tx, found, terms)


def confirmed(tx: Transaction, claim: Claim, said: Completion, deadline: int, now: int) -> Claim | None:
    """The provider itself confirms the job: what it says replaces what was delivered. Keeps the claim.

    Gives the claim with the job as it is now; ``None`` where the claim is void.
    """
    row = tx.db.execute(
        "UPDATE jobs SET image_url = :url, promised_width = :width, promised_height = :height,"
        " deadline = :deadline, confirmed_at = :now, event = 'confirmed', updated_at = :now"
        " WHERE id = :id AND state = 'received' AND holder = :holder RETURNING *",
        {
            "url": said.image_url,
            "width": said.width,
            "height": said.height,
            "deadline": deadline,
            "now": now,
            "id": claim.job.id,
            "holder": claim.holder,
        },
    ).fetchone()
    if row is None:
        return None
    tx.changed.append(claim.job.id)
    return Claim(types.job(row), claim.holder)


def url_refreshed(
    tx: Transaction, claim: Claim, said: Completion, deadline: int, *, at: int, now: int
) -> bool:
    """The provider names another URL for the image; it is tried at ``at`` (ms since the epoch)."""
    return _move(
        tx,
        claim,
        State.RECEIVED,
        "event = 'url_refreshed', image_url = :url, promised_width = :width, promised_height = :height,"
        " attempts = 0, refreshes = refreshes + 1, deadline = :deadline, next_attempt_at = :at,"
        " suspect = NULL, at_risk_at = NULL",
        {
            "now": now,
            "at": at,
            "url": said.image_url,
            "width": said.width,
            "height": said.height,
            "deadline": deadline,
        },
    )


def expired(tx: Transaction, claim: Claim, now: int) -> bool:
    """The URL's life is over, and the provider has no other."""
    return _move(tx, claim, State.RECEIVED, f"state = 'expired', {_EXPIRED}", {"now": now})


def fetched(tx: Transaction, claim: Claim, image: Image, spool: str, now: int) -> bool:
    """The verified image lies in the spool, fsynced."""
    return _move(
        tx,
        claim,
        State.RECEIVED,
        "state = 'fetched', event = 'fetched', reason = NULL, detail = NULL, reason_at = NULL, attempts = 0,"
        " at_risk_at = NULL, fetched_at = :now, spool = :spool, format = :format, width = :width,"
        " height = :height, bytes = :bytes, sha256 = :sha256",
        {
            "now": now,
            "spool": spool,
            "format": image.format,
            "width": image.width,
            "height": image.height,
            "bytes": image.bytes,
            "sha256": image.sha256,
        },
    )


def archived(tx: Transaction, claim: Claim, stored: StoredObject, now: int) -> bool:
    """The archive has proved that it holds the image."""
    return _move(
        tx,
        claim,
        State.FETCHED,
        "state = 'archived', event = 'archived', reason = NULL, detail = NULL, reason_at = NULL,"
        " archived_at = :now, spool = NULL, uri = :uri, etag = :etag, version = :version",
        {"now": now, "uri": stored.uri, "etag": stored.etag, "version": stored.version},
    )


def recognised(tx: Transaction, claim: Claim, image: Image, stored: StoredObject, now: int) -> bool:
    """An image that lay in the archive already was proved to be the job's, and not the one fetched since."""
    return _move(
        tx,
        claim,
        State.FETCHED,
        "state = 'archived', event = 'recognised', reason = NULL, detail = :detail, reason_at = NULL,"
        " archived_at = :now, spool = NULL, uri = :uri, etag = :etag, version = :version, format = :format,"
        " width = :width, height = :height, bytes = :bytes, sha256 = :sha256",
        {
            "now": now,
            "detail": "The archive held an image of this job already, put before and proved now. It stands;"
            f" what was fetched since (SHA-256 {claim.job.image and claim.job.image.sha256}) was let go.",
            "uri": stored.uri,
            "etag": stored.etag,
            "version": stored.version,
            "format": image.format,
            "width": image.width,
            "height": image.height,
            "bytes": image.bytes,
            "sha256": image.sha256,
        },
    )


def rejected(tx: Transaction, claim: Claim, error: ReceiverError, now: int) -> bool:
    """The image may not be fetched, or is not what was promised."""
    return _move(
        tx,
        claim,
        State.RECEIVED,
        "state = 'rejected', event = 'rejected', reason = :reason, detail = :detail, reason_at = :now",
        {"now": now, "reason": error.reason, "detail": error.detail},
    )


def retry_later(
    tx: Transaction, claim: Claim, at: int, error: ReceiverError, now: int, *, suspect: str | None
) -> bool:
    """The attempt did not succeed; the job waits until ``at`` (ms since the epoch)."""
    return _move(
        tx,
        claim,
        claim.job.state,
        "event = 'attempt_failed', reason = :reason, detail = :detail, reason_at = :now,"
        " next_attempt_at = :at,"
        " suspect = coalesce(:suspect, suspect)",
        {"now": now, "at": at, "reason": error.reason, "detail": error.detail, "suspect": suspect},
    )


def spool_lost(tx: Transaction, claim: Claim, detail: str, now: int) -> bool:
    """The spooled image vanished or changed: it has to be fetched again."""
    return _move(
        tx,
        claim,
        State.FETCHED,
        "state = 'received', event = 'spool_lost', reason = 'spool.lost', detail = :detail, reason_at = :now,"
        " attempts = 0,"
        " fetched_at = NULL, spool = NULL, format = NULL, width = NULL, height = NULL, bytes = NULL,"
        " sha256 = NULL",
        {"now": now, "detail": detail},
    )


def release(tx: Transaction, claim: Claim) -> bool:
    """Gives a claim back unused, as if it had never been taken."""
    done = tx.db.execute(
        "UPDATE jobs SET holder = NULL, lease_until = NULL, attempts = attempts - 1"
        " WHERE id = ? AND holder = ?",
        (claim.job.id, claim.holder),
    )
    return done.rowcount == 1


def release_all(tx: Transaction, now: int) -> list[str]:
    """Voids every claim. Only for a start: the lock says that no other process can hold one.

    An attempt that a crash cut off is none: a job whose time ended meanwhile is still tried once. But a job
    that is cut off again and again waits, and has been tried. A wait for the archive that is longer than any
    for one that is away is of a clock that was set since, or for a key that is taken. It ends.

    Gives the ids of the jobs that were cut off in a download.
    """
    cut_off = tx.db.execute(
        "SELECT seq, id, deadline,"
        " (SELECT count(*) FROM history WHERE job = jobs.seq AND event = 'cut_off') AS before"
        " FROM jobs WHERE holder IS NOT NULL AND state = 'received'"
    ).fetchall()
    for row in cut_off:
        again_at = crash_retry_at(now, row["before"], row["deadline"])
        tx.db.execute(
            "UPDATE jobs SET holder = NULL, lease_until = NULL, event = 'cut_off', updated_at = :now,"
            " attempts = max(attempts - :none, 0), next_attempt_at = :at WHERE seq = :seq",
            {"seq": row["seq"], "none": again_at is None, "at": again_at, "now": now},
        )
    tx.db.execute(
        "UPDATE jobs SET holder = NULL, lease_until = NULL, attempts = max(attempts - 1, 0)"
        " WHERE holder IS NOT NULL"
    )
    tx.db.execute(
        "UPDATE jobs SET next_attempt_at = NULL WHERE state = 'fetched' AND next_attempt_at > ?",
        (now + UPLOAD_MAX,),
    )
    return [row["id"] for row in cut_off]


def spool_file_recovered(tx: Transaction, job_id: str) -> None:
    """A whole file of the job was found in the spool: it is taken next, even where its time is over."""
    tx.db.execute(
        "UPDATE jobs SET attempts = 0, next_attempt_at = NULL"
        " WHERE id = ? AND state = 'received' AND holder IS NULL",
        (job_id,),
    )


def release_overdue_leases(tx: Transaction, monotonic: int, kept: Collection[str] = ()) -> int:
    """Voids claims whose lease has ended; whoever held one can write nothing with it any more.

    Args:
        tx: the transaction.
        monotonic: ms, on the holders' clock.
        kept: holders whose claims stand all the same.
    """
    return tx.db.execute(
        "UPDATE jobs SET holder = NULL, lease_until = NULL WHERE holder IS NOT NULL AND lease_until < ?"
        " AND holder NOT IN (SELECT value FROM json_each(?))",
        (monotonic, json.dumps(list(kept))),
    ).rowcount


def touch(tx: Transaction) -> None:
    """Writes something that changes nothing, to find out whether the file can be written."""
    # An UPDATE to the same values would not do: SQLite compares, and leaves the page and the disk alone.
    (version,) = tx.db.execute("PRAGMA user_version").fetchone()
    tx.db.execute(f"PRAGMA user_version = {version:d}")


def changed_by_others(tx: Transaction, others: int | None, last: int) -> tuple[int, int]:
    """Marks the jobs as changed that other processes have changed since the last look.

    Args:
        tx: the transaction.
        others: what SQLite said then of other connections' commits; ``None`` at the first look.
        last: the last line of the history then.

    Returns:
        Both as they are now.
    """
    (present,) = tx.db.execute("PRAGMA data_version").fetchone()
    (newest,) = tx.db.execute("SELECT coalesce(max(seq), 0) FROM history").fetchone()
    if others is not None and present != others:
        changed = tx.db.execute(
            "SELECT DISTINCT jobs.id FROM history JOIN jobs ON jobs.seq = history.job WHERE history.seq > ?",
            (last,),
        )
        # Something, at any rate: a wait may have been set that no line of the history tells of.
        tx.changed.extend([row["id"] for row in changed] or [""])
    return present, newest


def expire(tx: Transaction, now: int, limit: int = 500) -> list[str]:
    """Moves jobs to ``expired`` whose time is over and which were tried. Gives their ids."""
    ids = []
    for row in _past_deadline(tx, now, limit):
        (job_id,) = tx.db.execute(
            f"UPDATE jobs SET state = 'expired', {_EXPIRED}, next_attempt_at = NULL, updated_at = :now"  # noqa: S608 - a constant
            " WHERE seq = :seq RETURNING id",
            {"now": now, "seq": row["seq"]},
        ).fetchone()
        ids.append(job_id)
    tx.changed.extend(ids)
    return ids


def mark_at_risk(tx: Transaction, ids: Sequence[str], now: int) -> None:
    """Notes that little is left of these jobs' lives."""
    tx.db.executemany(
        "UPDATE jobs SET at_risk_at = :now, event = 'at_risk', updated_at = :now"
        " WHERE id = :id AND state = 'received' AND at_risk_at IS NULL",
        [{"id": job_id, "now": now} for job_id in ids],
    )
    tx.changed.extend(ids)


def shift_waits(tx: Transaction, by: int, now: int) -> None:
    """Moves the ends of waits by so many ms, after the wall clock was set by as much.

    Those that began since then are right already: moved by an hour, they would last an hour.
    """
    tx.db.execute(
        "UPDATE jobs SET next_attempt_at = next_attempt_at + ?"
        " WHERE next_attempt_at IS NOT NULL AND updated_at <= ?",
        (by, now - by),
    )


def retry(tx: Transaction, job_id: str, now: int) -> Job:
    """An operator wants the job tried again now.

    Raises:
        LedgerError: ``ledger.unknown_job``, or ``ledger.wrong_state`` where there is nothing to try.
    """
    row = tx.db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        raise LedgerError("ledger.unknown_job", f"There is no job {job_id}.")
    state = State(row["state"])
    if state in (State.SUBMITTED, State.ARCHIVED):
        raise LedgerError("ledger.wrong_state", f"Job {job_id} is {state}: there is nothing to try again.")
    if row["image_url"] is None:
        raise LedgerError(
            "ledger.wrong_state", f"Job {job_id} is {state}, and the provider has named no image to fetch."
        )
    if row["holder"] is None:
        moves = state in UNSUCCESSFUL
        tx.db.execute(
            "UPDATE jobs SET state = :state, event = 'retried', reason = NULL, detail = NULL,"
            " reason_at = NULL, at_risk_at = NULL,"
            " attempts = CASE WHEN :moves THEN 0 ELSE attempts END, next_attempt_at = NULL,"
            " suspect = NULL, updated_at = :now WHERE seq = :seq",
            {"state": State.RECEIVED if moves else state, "moves": moves, "now": now, "seq": row["seq"]},
        )
        tx.changed.append(job_id)
    return types.job(tx.db.execute("SELECT * FROM jobs WHERE seq = ?", (row["seq"],)).fetchone())


def _answered(tx: Transaction, job_id: str, answer: Answer, ask_at: int, now: int) -> bool:
    said = tx.db.execute(
        "SELECT seq, provider_status, reason FROM jobs WHERE id = ? AND state = 'submitted'", (job_id,)
    ).fetchone()
    if said is None:
        return False
    values = {"seq": said["seq"], "ask_at": ask_at, "now": now, "status": answer.status}
    tx.db.execute(
        "UPDATE jobs SET ask_at = :ask_at, asks = asks + 1, provider_status = coalesce(:status,"
        " provider_status) WHERE seq = :seq",
        values,
    )
    if (answer.reason, answer.status or said["provider_status"]) == (said["reason"], said["provider_status"]):
        return False
    tx.db.execute(
        "UPDATE jobs SET event = 'asked', reason = :reason, detail = :detail, reason_at ="
        " CASE WHEN :reason IS NULL THEN NULL ELSE :now END, updated_at = :now WHERE seq = :seq",
        {**values, "reason": answer.reason, "detail": answer.detail},
    )
    tx.changed.append(job_id)
    return True


def _bind_ticket(tx: Transaction, number: str, job_id: str, now: int) -> bool:
    """Binds a ticket to the first job that uses it; gives whether it is this one's."""
    tx.db.execute(
        "INSERT INTO tickets (number, job, at) VALUES (?, ?, ?) ON CONFLICT (number) DO NOTHING",
        (number, job_id, now),
    )
    (owner,) = tx.db.execute("SELECT job FROM tickets WHERE number = ?", (number,)).fetchone()
    return bool(owner == job_id)


class _Said(NamedTuple):
    """A completion as the columns of its job, in the order in which they are inserted."""

    id: str
    ref: str | None
    source_url: str | None
    endpoint: str | None
    created_at: int
    confirmed_at: int | None
    state: State
    event: str
    reason: str | None
    detail: str | None
    reason_at: int | None
    image_url: str | None
    promised_width: int | None
    promised_height: int | None
    deadline: int | None
    found_at: int | None
    received_at: int
    updated_at: int


# What fails takes its whole transaction with it, as the writer would have it anyway: so SQLite need keep no
# copies of pages to take back this statement alone.
_INSERT_COMPLETED = (
    f"INSERT OR ROLLBACK INTO jobs ({', '.join(_Said._fields)})"  # noqa: S608 - the names above
    f" VALUES ({', '.join('?' for _ in _Said._fields)}) ON CONFLICT (id) DO NOTHING"
)
_UPDATE_COMPLETED = (
    "UPDATE jobs SET state = :state, event = :event, reason = :reason, detail = :detail,"
    " reason_at = :reason_at, image_url = :image_url, promised_width = :promised_width,"
    " promised_height = :promised_height, deadline = :deadline, found_at = :found_at,"
    " received_at = :received_at, updated_at = :updated_at, confirmed_at = :confirmed_at,"
    " ref = coalesce(ref, :ref), source_url = coalesce(:source_url, source_url),"
    " endpoint = coalesce(endpoint, :endpoint), late_at = NULL, attempts = 0,"
    " next_attempt_at = NULL, holder = NULL, lease_until = NULL, suspect = NULL,"
    " at_risk_at = NULL, refreshes = 0 WHERE seq = :seq"
)


def _columns(delivery: Delivery, state: State, now: int) -> _Said:
    said = delivery.completion
    failure = said.failure
    found_at = now if delivery.found else None
    return _Said(
        id=said.id,
        ref=delivery.ref,
        source_url=said.source_url,
        endpoint=delivery.endpoint,
        created_at=now,
        confirmed_at=found_at,
        state=state,
        event="failed" if failure else "received",
        reason=failure.reason if failure else None,
        detail=failure.detail if failure else None,
        reason_at=now if failure else None,
        image_url=said.image_url,
        promised_width=said.width,
        promised_height=said.height,
        deadline=None if failure else delivery.deadline,
        found_at=found_at,
        received_at=now,
        updated_at=now,
    )


def _keep(tx: Transaction, seq: int, delivery: Delivery) -> None:
    tx.db.execute("INSERT OR REPLACE INTO bodies (job, body) VALUES (?, ?)", (seq, delivery.body))
    tx.changed.append(delivery.completion.id)


def _brings_something_new(said: Completion, state: State, image_url: str | None) -> bool:
    if state is State.SUBMITTED:
        return True
    if said.image_url is None:
        return False
    if state is State.FAILED:
        return True
    return state in (State.REJECTED, State.EXPIRED) and said.image_url != image_url


_FURTHER = "Deliveries since then that named further URLs, of which only the number is kept: "
"""Stands in the file before the number, which is read back: a change of it takes a migration."""


def _note_other_url(tx: Transaction, seq: int, state: State, url: str, now: int) -> list[str]:
    # Written past the trigger, because the job itself does not change; and once for each URL.
    noted = tx.db.execute(
        "SELECT seq, event, detail FROM history WHERE job = ? AND event IN (?, ?)",
        (seq, OTHER_URL, OTHER_URLS),
    ).fetchall()
    kept = {row["detail"] for row in noted if row["event"] == OTHER_URL}
    if url in kept:
        return []
    event, detail = (OTHER_URL, url) if len(kept) < OTHERS_KEPT else (OTHER_URLS, f"{_FURTHER}1")
    counted = next((row for row in noted if row["event"] == OTHER_URLS), None)
    if event == OTHER_URLS and counted is not None:
        before = int(counted["detail"].removeprefix(_FURTHER))
        tx.db.execute(
            "UPDATE history SET detail = ? WHERE seq = ?", (f"{_FURTHER}{before + 1}", counted["seq"])
        )
    else:
        tx.db.execute(
            "INSERT INTO history (job, at, event, before, after, reason, detail)"
            " VALUES (?, ?, ?, ?, ?, 'ledger.other_url', ?)",
            (seq, now, event, state, state, detail),
        )
    return [event]


def _note_late(tx: Transaction, seq: int, state: State, now: int) -> str:
    tx.db.execute("UPDATE jobs SET late_at = ? WHERE seq = ?", (now, seq))
    tx.db.execute(
        "INSERT INTO history (job, at, event, before, after) VALUES (?, ?, 'late_delivery', ?, ?)",
        (seq, now, state, state),
    )
    count(tx, LATE)
    return "late_delivery"


def _promote(tx: Transaction, now: int) -> None:
    """Puts jobs whose wait is over back into the index that claims are taken from."""
    tx.db.execute(
        "UPDATE jobs SET next_attempt_at = NULL WHERE seq IN"
        " (SELECT seq FROM jobs INDEXED BY jobs_waiting WHERE next_attempt_at <= ? ORDER BY next_attempt_at"
        " LIMIT 1000)",
        (now,),
    )


_FRESH = "INDEXED BY jobs_to_fetch WHERE attempts = 0"
_TRIED = "INDEXED BY jobs_to_fetch_again WHERE attempts > 0"
_EXPIRED = (
    "event = 'expired', reason = 'fetch.expired', reason_at = :now, detail ="
    " 'The URL''s life ended. The last attempt said: ' || coalesce(reason || ', ' || detail, 'nothing')"
)


def _ready(tx: Transaction, which: str, condition: str, now: int, limit: int) -> list[sqlite3.Row]:
    return tx.db.execute(
        f"SELECT seq, deadline FROM jobs {which} AND state = 'received' AND next_attempt_at IS NULL"  # noqa: S608 - constants
        f" AND holder IS NULL AND {condition} ORDER BY deadline LIMIT ?",
        (now, max(limit, 0)),
    ).fetchall()


def _past_deadline(tx: Transaction, now: int, limit: int) -> list[sqlite3.Row]:
    found = _ready(tx, _TRIED, "deadline <= ?", now, limit)
    found += tx.db.execute(
        "SELECT seq FROM jobs INDEXED BY jobs_waiting_to_fetch WHERE state = 'received'"
        " AND next_attempt_at IS NOT NULL AND deadline <= ? ORDER BY deadline LIMIT ?",
        (now, max(limit - len(found), 0)),
    ).fetchall()
    return found


def _claims(tx: Transaction, chosen: Sequence[sqlite3.Row], terms: Lease) -> list[Claim]:
    claims = []
    for number, row in enumerate(chosen):
        holder = f"{terms.holder}:{number}"
        claimed = tx.db.execute(
            "UPDATE jobs SET holder = ?, lease_until = ?, attempts = attempts + 1, next_attempt_at = NULL"
            " WHERE seq = ? RETURNING *",
            (holder, terms.lease_until, row["seq"]),
        ).fetchone()
        claims.append(Claim(types.job(claimed), holder))
    return claims


def _move(
    tx: Transaction, claim: Claim, state: State, sets: str, values: dict[str, str | int | None]
) -> bool:
    done = tx.db.execute(
        f"UPDATE jobs SET {sets}, holder = NULL, lease_until = NULL, updated_at = :now"  # noqa: S608 - the callers above
        " WHERE id = :id AND state = :from AND holder = :holder",
        {"id": claim.job.id, "from": state, "holder": claim.holder, **values},
    )
    if done.rowcount == 1:
        tx.changed.append(claim.job.id)
    return done.rowcount == 1
