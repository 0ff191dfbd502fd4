"""Rows of the ledger as the rest of the program knows them."""

import sqlite3

from receiver.states import Event, Image, Job, Problem, State, Stored


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
