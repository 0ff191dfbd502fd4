"""Rows of the ledger as the rest of the program knows them."""

from dataclasses import dataclass

from receiver.core.jobs import Event, Image, Job, Problem, State, StoredObject
from receiver.ledger.sqlite.driver import sqlite3


@dataclass(frozen=True, slots=True)
class Intent:
    """What is about to be submitted, or was.

    Attributes:
        key: names it: one image of one list, or of one call.
        mark: goes along in a header, and is found again in the provider's list.
        ref: the submitter's own reference.
        endpoint: such as ``upscale_2x``.
        source_url: the image, where it is a URL.
        at: when it was first about to be sent, ms since the epoch.
        job: the provider's id, once it is known.
    """

    key: str
    mark: str
    ref: str | None = None
    endpoint: str | None = None
    source_url: str | None = None
    at: int = 0
    job: str | None = None


@dataclass(frozen=True, slots=True)
class PendingJob:
    """A submitted job without a completion.

    Attributes:
        id: the provider's id of the job.
        submitted_at: ms since the epoch.
        asks: how often the provider was asked about it and had no completion.
        ask_at: when it is due to be asked about, ms since the epoch.
        unanswered: whether the last question about it had no answer at all.
    """

    id: str
    submitted_at: int
    asks: int
    ask_at: int
    unanswered: bool


@dataclass(frozen=True, slots=True)
class Transition:
    """A job that came or moved: one line of the history, as those who listen know it.

    Attributes:
        seq: its place in the one order of all lines.
        id: the provider's id of the job.
        ref: the submitter's own reference.
        event: what happened.
    """

    seq: int
    id: str
    ref: str | None
    event: Event


@dataclass(frozen=True, slots=True)
class TransitionPage:
    """A part of the history, oldest first.

    Attributes:
        transitions: the jobs that came or moved.
        until: the last line that was read, whether or not it was a transition.
        more: whether there may be more behind it.
        pruned: the last line of the history that was removed, at the moment of reading; 0 where none was.
    """

    transitions: tuple[Transition, ...]
    until: int
    more: bool
    pruned: int


@dataclass(frozen=True, slots=True)
class Notification:
    """What is to be told of a job that became final.

    Attributes:
        seq: the history's line in which it did.
        job: the provider's id of the job.
        at: when it did, ms since the epoch.
        body: what is sent.
        attempts: how often that was tried and failed.
        detail: what the last attempt met.
    """

    seq: int
    job: str
    at: int
    body: bytes
    attempts: int
    detail: str | None


def job(row: sqlite3.Row) -> Job:
    """A row of ``jobs`` as a ``Job``."""
    image = stored = problem = None
    if row["sha256"] is not None:
        image = Image(row["format"], row["width"], row["height"], row["bytes"], row["sha256"])
    if row["uri"] is not None:
        stored = StoredObject(row["uri"], row["etag"], row["version"])
    if row["reason"] is not None:
        problem = Problem(row["reason"], row["detail"] or "", row["reason_at"])
    return Job(
        id=row["id"],
        state=State(row["state"]),
        ref=row["ref"],
        endpoint=row["endpoint"],
        attempts=row["attempts"],
        refreshes=row["refreshes"],
        next_attempt_at=row["next_attempt_at"],
        deadline=row["deadline"],
        confirmed_at=row["confirmed_at"],
        image_url=row["image_url"],
        source_url=row["source_url"],
        promised_width=row["promised_width"],
        promised_height=row["promised_height"],
        image=image,
        suspect=row["suspect"],
        spool=row["spool"],
        stored=stored,
        problem=problem,
        submitted_at=row["submitted_at"],
        received_at=row["received_at"],
        fetched_at=row["fetched_at"],
        archived_at=row["archived_at"],
        updated_at=row["updated_at"],
    )


def event(row: sqlite3.Row) -> Event:
    """A row of ``history`` as an ``Event``."""
    return Event(
        at=row["at"],
        event=row["event"],
        before=State(row["before"]) if row["before"] else None,
        after=State(row["after"]),
        reason=row["reason"],
        detail=row["detail"],
    )


def line(row: sqlite3.Row) -> Event:
    """The line of ``history`` in a row that it shares with its job."""
    return Event(
        at=row["line_at"],
        event=row["line_event"],
        before=State(row["before"]) if row["before"] else None,
        after=State(row["after"]),
        reason=row["line_reason"],
        detail=row["line_detail"],
    )


def transition(row: sqlite3.Row) -> Transition:
    """A row of ``history`` with its job's ``id`` and ``ref`` as a ``Transition``."""
    return Transition(row["seq"], row["id"], row["ref"], event(row))


def notification(row: sqlite3.Row) -> Notification:
    """A row of ``notifications`` as a ``Notification``."""
    return Notification(row["seq"], row["job"], row["at"], row["body"], row["attempts"], row["detail"])


def intent(row: sqlite3.Row) -> Intent:
    """A row of ``submissions`` as an ``Intent``."""
    return Intent(
        key=row["key"],
        mark=row["mark"],
        ref=row["ref"],
        endpoint=row["endpoint"],
        source_url=row["source_url"],
        at=row["at"],
        job=row["job"],
    )


def silent(row: sqlite3.Row) -> PendingJob:
    """A row of ``jobs`` as a ``PendingJob``."""
    unanswered = row["reason"] is not None
    return PendingJob(row["id"], row["submitted_at"], row["asks"], row["ask_at"], unanswered)
