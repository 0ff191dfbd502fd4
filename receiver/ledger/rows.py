"""Rows of the ledger as the rest of the program knows them."""

from dataclasses import dataclass

from receiver.ledger.sqlite import sqlite3
from receiver.states import Event, Image, Job, Problem, State, Stored


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
class Silent:
    """A submitted job without a completion.

    Attributes:
        id: the provider's id of the job.
        submitted_at: ms since the epoch.
        asks: how often the provider was asked about it and had no completion.
    """

    id: str
    submitted_at: int
    asks: int


def job(row: sqlite3.Row) -> Job:
    """A row of ``jobs`` as a ``Job``."""
    image = stored = problem = None
    if row["sha256"] is not None:
        image = Image(row["format"], row["width"], row["height"], row["bytes"], row["sha256"])
    if row["uri"] is not None:
        stored = Stored(row["uri"], row["etag"], row["version"])
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


def silent(row: sqlite3.Row) -> Silent:
    """A row of ``jobs`` as a ``Silent``."""
    return Silent(row["id"], row["submitted_at"], row["asks"])
