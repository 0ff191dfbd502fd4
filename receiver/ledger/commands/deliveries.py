"""Records what the webhook received: completions, and bodies that are not completions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from receiver.core.completion import Completion
from receiver.core.errors import ReceiverError
from receiver.core.jobs import UNSUCCESSFUL, State, completed_as
from receiver.ledger.commands.attempts import NO_SUSPECT, PROMISE, assigned, promise
from receiver.ledger.connection import Row
from receiver.ledger.counters import ADOPTED, FOUND, LATE, count
from receiver.ledger.submissions import confirm_by_mark
from receiver.ledger.transaction import Transaction
from receiver.ledger.types import Delivery, Recorded

OTHER_URL = "other_url"
"""Event: a later delivery named another URL, and the first one stands."""

OTHER_URLS = "other_urls"
"""Event: further URLs were named than are kept; the history notes it once."""

MAX_UNREAD = 10_000
MAX_UNREAD_BYTES = 64 * 2**20
"""How many deliveries that are no completions are kept, and how many bytes of them: the newest."""

UNREAD_BATCH = 16
"""So many may come beyond the limits before the oldest go, because it takes a scan of all."""

REF_DROPPED = "ref_dropped"
"""Event: the delivery's reference was none, and the job has none from it."""

OTHERS_KEPT = 20
"""Other URLs that the history of one job keeps: a sender with the secret can name new ones without end."""


def record_all(tx: Transaction, deliveries: Sequence[Delivery]) -> list[Recorded | None]:
    """Do what `record` does for each, while new jobs share their statements."""
    new: dict[str, Delivery] = {}
    for delivery in deliveries:
        if not (delivery.found or delivery.mark or delivery.ref_dropped) and _is_of_job(tx, delivery):
            new.setdefault(delivery.completion.id, delivery)
    inserted = _insert(
        tx, [_columns(it, tx.now) for it in new.values()], {job_id: it.body for job_id, it in new.items()}
    )
    tx.changed.extend(inserted)
    as_new = {
        state: Recorded(state, False, tx.now, (state.value,))
        for state in (State.RECEIVED, State.FAILED, State.REJECTED)
    }
    recorded: list[Recorded | None] = []
    for delivery in deliveries:
        job_id = delivery.completion.id
        if job_id in inserted and new[job_id] is delivery:
            recorded.append(as_new[completed_as(delivery.completion.failure)])
        else:
            recorded.append(record(tx, delivery))
    return recorded


def record_together(tx: Transaction, deliveries: Sequence[Delivery]) -> list[Recorded]:
    """Record the outputs of one run in one transaction; they come with no ticket and no mark of others.

    What the announcement of the run says holds for each of them.
    """
    announced = "SELECT ref, endpoint FROM jobs WHERE id = ?"
    for ref, endpoint in tx.db.execute(announced, (deliveries[0].completion.id,)).fetchall():
        deliveries = [replace(it, ref=it.ref or ref, endpoint=it.endpoint or endpoint) for it in deliveries]
    recorded = record_all(tx, deliveries)
    return [it for it in recorded if it is not None]


def record(tx: Transaction, delivery: Delivery) -> Recorded | None:
    """Record a completion; return ``None``, and change nothing, where ticket or mark is of another job.

    An exception here would have the whole batch committed again, one command at a time.
    """
    completion = delivery.completion
    named = delivery.ticket is not None or delivery.mark is not None
    if named and not delivery.found and not _is_of_job(tx, delivery):
        return None
    events: list[str] = []
    if delivery.mark is not None and confirm_by_mark(tx, delivery.mark, completion.id):
        events.append("submitted")
    columns = _columns(delivery, tx.now)
    known = tx.db.execute(
        "SELECT seq, state, image_url, received_at, found_at, late_at FROM jobs WHERE id = ?",
        (completion.id,),
    ).fetchone()
    if known is None:
        if delivery.found:
            columns["event"] = ADOPTED
            count(tx, ADOPTED)
        seq = _insert(tx, [columns], {completion.id: delivery.body})[completion.id]
    else:
        if not _is_news(completion, known):
            return _recorded_duplicate(tx, delivery, known, events)
        seq = known["seq"]
        if delivery.found:
            columns["event"] = FOUND
            count(tx, FOUND, completion.failure.reason if completion.failure else "")
        if columns["state"] == State.REJECTED:  # it is received first: there is no other move to that state
            tx.db.execute(_UPDATE_COMPLETED, {"seq": seq, **columns, "state": State.RECEIVED.value})
            columns["event"] = State.REJECTED.value
        tx.db.execute(_UPDATE_COMPLETED, {"seq": seq, **columns})
        tx.db.execute(_REPLACE_BODY, (seq, delivery.body))
    tx.changed.append(completion.id)
    if delivery.ref_dropped:
        detail = "X-Receiver-Ref came twice, or is not 1 to 200 printable ASCII characters."
        events.append(_note(tx, seq, State(columns["state"]), REF_DROPPED, None, detail))
    return Recorded(State(columns["state"]), False, tx.now, (*events, columns["event"]))


def _recorded_duplicate(tx: Transaction, delivery: Delivery, known: Row, events: list[str]) -> Recorded:
    """Note in the history what is new in a delivery that does not move its job."""
    seq, state, url = known["seq"], State(known["state"]), delivery.completion.image_url
    if known["found_at"] is not None and known["late_at"] is None and not delivery.found:
        tx.db.execute("UPDATE jobs SET late_at = ? WHERE seq = ?", (tx.now, seq))
        count(tx, LATE)
        events.append(_note(tx, seq, state, "late_delivery"))
    if url is not None and url != known["image_url"]:
        events += _record_other_url(tx, seq, state, url)
    return Recorded(state, True, known["received_at"], tuple(events))


def record_unread(tx: Transaction, error: ReceiverError, body: bytes, provider: str | None = None) -> None:
    """Keep an authenticated body that is no completion, for an operator to inspect; the oldest may go."""
    (seq,) = tx.db.execute(
        "INSERT INTO unread (at, outcome, detail, body, provider) VALUES (?, ?, ?, ?, ?) RETURNING seq",
        (tx.now, error.reason, error.detail, body, provider),
    ).fetchone()
    if seq % UNREAD_BATCH == 0:
        tx.db.execute(
            "DELETE FROM unread WHERE seq <> ? AND seq <= (SELECT max(seq) FROM (SELECT seq,"
            " row_number() OVER newest AS number, sum(length(body)) OVER newest AS bytes"
            " FROM unread WINDOW newest AS (ORDER BY seq DESC)) AS kept WHERE number > ? OR bytes > ?)",
            (seq, MAX_UNREAD, MAX_UNREAD_BYTES),
        )


def _is_of_job(tx: Transaction, delivery: Delivery) -> bool:
    """Return whether no other job is known to own the ticket or the mark that came with a delivery.

    A ticket of a submission names its mark, and the submission's job is known once the provider has answered.
    Until then, and for other tickets, the first job that uses a ticket owns it.
    """
    job_id, ticket = delivery.completion.id, delivery.ticket
    if ticket is None and delivery.mark is None:
        return True
    signed = None if ticket is None else ticket.partition("~")[2]
    known = {
        row["mark"]: row["job"]
        for row in tx.db.execute(
            "SELECT mark, job FROM submissions WHERE mark IN (?, ?) AND job IS NOT NULL",
            (signed, delivery.mark),
        )
    }
    if any(owner != job_id for owner in known.values()):
        return False
    if ticket is None or signed in known:
        return True
    tx.db.execute(
        "INSERT INTO tickets (number, job, at) VALUES (?, ?, ?) ON CONFLICT (number) DO NOTHING",
        (ticket, job_id, tx.now),
    )
    (owner,) = tx.db.execute("SELECT job FROM tickets WHERE number = ?", (ticket,)).fetchone()
    return bool(owner == job_id)


_REPLACE_BODY = (
    "INSERT INTO bodies (job, body) VALUES (?, ?) ON CONFLICT (job) DO UPDATE SET body = excluded.body"
)
_UPDATE_COMPLETED = (
    f"UPDATE jobs SET {assigned('state', 'event', 'reason', 'detail', 'reason_at')}, {PROMISE},"  # noqa: S608 - constants
    f" {assigned('found_at', 'received_at', 'updated_at', 'confirmed_at')},"
    " ref = coalesce(ref, :ref), source_url = coalesce(:source_url, source_url),"
    " endpoint = coalesce(endpoint, :endpoint), late_at = NULL, attempts = 0,"
    " next_attempt_at = NULL, holder = NULL, lease_until = NULL,"
    f" {NO_SUSPECT}, at_risk_at = NULL, refreshes = 0 WHERE seq = :seq"
)


def _insert(
    tx: Transaction, jobs: Sequence[Mapping[str, Any]], bodies: Mapping[str, bytes]
) -> dict[str, int]:
    """Insert those jobs that are new, with their bodies; return their numbers by id."""
    # sqlite3 takes 1 µs for each None and for bytes, and much less for a number, a text and a bytearray.
    columns = zip(jobs[0], zip(*[job.values() for job in jobs], strict=True), strict=True) if jobs else ()
    bound = {name: column for name, column in columns if column.count(None) < len(jobs)}
    values = list(zip(*bound.values(), strict=True))
    end = "ON CONFLICT (id) DO NOTHING RETURNING id, seq"
    inserted: dict[str, int] = dict(tx.insert(tx.db, "jobs", tuple(bound), values, end))
    kept = [(seq, bytearray(bodies[job_id])) for job_id, seq in inserted.items()]
    tx.insert(tx.db, "bodies", ("job", "body"), kept)
    return inserted


def _columns(delivery: Delivery, now: int) -> dict[str, Any]:
    completion = delivery.completion
    failure = completion.failure
    state = completed_as(failure).value  # sqlite3 is slow with subclasses of str
    found_at = now if delivery.found else None
    return {
        "id": completion.id,
        "ref": delivery.ref,
        "source_url": completion.source_url,
        "endpoint": delivery.endpoint,
        "created_at": now,
        "confirmed_at": found_at,
        "state": state,
        "event": state,
        "reason": failure.reason if failure else None,
        "detail": failure.detail if failure else None,
        "reason_at": now if failure else None,
        **promise(completion, None if failure else delivery.deadline),
        "found_at": found_at,
        "received_at": now,
        "updated_at": now,
    }


def _is_news(completion: Completion, known: Row) -> bool:
    state, url = State(known["state"]), completion.image_url
    if state is State.SUBMITTED:
        return True
    if completion.failure is not None or state not in UNSUCCESSFUL:
        return False
    if url is None:  # only the provider may say what came of the job; where it was asked, it has
        return state is State.FAILED and known["found_at"] is None
    return state is State.FAILED or url != known["image_url"]


def _record_other_url(tx: Transaction, seq: int, state: State, url: str) -> list[str]:
    """Note a URL that does not count, once for each URL, and of too many only that there were more."""
    entries = tx.db.execute(
        "SELECT event, detail FROM history WHERE job = ? AND event IN (?, ?)", (seq, OTHER_URL, OTHER_URLS)
    ).fetchall()
    kept = {row["detail"] for row in entries if row["event"] == OTHER_URL}
    if url in kept:
        return []
    if len(kept) < OTHERS_KEPT:
        return [_note(tx, seq, state, OTHER_URL, "ledger.other_url", url)]
    if len(kept) == len(entries):
        detail = "Later deliveries named further URLs, which are not kept."
        _note(tx, seq, state, OTHER_URLS, "ledger.other_url", detail)
    return [OTHER_URLS]


def _note(tx: Transaction, seq: int, state: State, event: str, *why: str | None) -> str:
    """Write an event that does not change the job, with reason and detail, into its history; return it."""
    reason, detail = why or (None, None)
    tx.db.execute(
        "INSERT INTO history (job, at, event, before, after, reason, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (seq, tx.now, event, state, state, reason, detail),
    )
    return event
