"""Records how an attempt at a claimed job ended. Each command returns False if the claim is void."""

import re
from collections.abc import Mapping
from typing import Any

from receiver.archive.metadata import ArchivedImage
from receiver.core.completion import Completion
from receiver.core.errors import ReceiverError
from receiver.core.jobs import Image, State, StoredObject
from receiver.ledger import rows
from receiver.ledger.transaction import Transaction
from receiver.ledger.types import Claim


def assigned(*columns: str) -> str:
    """Return assignments of values that have their columns' names."""
    return ", ".join(f"{column} = :{column}" for column in columns)


NO_ERROR = "reason = NULL, detail = NULL, reason_at = NULL"
NO_SUSPECT = "suspect = NULL, suspects = 0, suspect_since = NULL"
ERROR = "reason = :reason, detail = :detail, reason_at = :now"
PROMISE = assigned(
    *("image_url", "host", "promised_width", "promised_height", "promised_bytes", "promised_type", "deadline")
)
IMAGE = assigned("format", "width", "height", "bytes", "sha256", "accepted")
STORED = f"spool = NULL, {assigned('uri', 'etag', 'version')}"
EXPIRED = (
    "state = 'expired', event = 'expired', reason = 'fetch.expired', reason_at = :now, detail ="
    " 'The URL''s life ended. The last attempt said: ' || coalesce(reason || ', ' || detail, 'nothing')"
)


_END_OF_HOST = re.compile("[/?#]")


LONGEST_HOST = 255
"""No real host has more; what calls itself one would not fit into PostgreSQL's indexes."""


def host_of(url: str | None) -> str:
    """Return host and port as they stand in a URL, in lower case; an empty text without one."""
    return _END_OF_HOST.split(url.partition("://")[2], 1)[0].lower()[:LONGEST_HOST] if url else ""


def confirmed(tx: Transaction, claim: Claim, completion: Completion, deadline: int) -> Claim | None:
    """Replace what was delivered by what the provider itself says; return the claim, ``None`` if void."""
    found = tx.change(
        f"UPDATE jobs SET {PROMISE}, source_url = coalesce(:source, source_url), confirmed_at = :now,"  # noqa: S608 - a constant
        f" event = 'confirmed', updated_at = :now WHERE {_HELD} RETURNING {rows.JOB}",
        {
            **promise(completion, deadline),
            "source": completion.source_url,
            **_held(tx, claim, State.RECEIVED),
        },
    )
    return Claim(rows.job(found[0]), claim.holder, host_of(completion.image_url)) if found else None


def url_refreshed(tx: Transaction, claim: Claim, completion: Completion, deadline: int, at: int) -> bool:
    """Record that the provider names another URL, to be tried at ``at`` (ms since the epoch)."""
    assignments = (
        f"event = 'url_refreshed', {PROMISE}, attempts = 0, refreshes = refreshes + 1,"
        f" next_attempt_at = :at, {NO_SUSPECT}, at_risk_at = NULL"
    )
    return _move(tx, claim, State.RECEIVED, assignments, at=at, **promise(completion, deadline))


def expired(tx: Transaction, claim: Claim) -> bool:
    """Record that the URL has expired and the provider has no other."""
    if leave_away(tx, _HELD, _held(tx, claim, State.RECEIVED)):
        return False
    return _move(tx, claim, State.RECEIVED, EXPIRED)


def fetched(tx: Transaction, claim: Claim, image: Image, spool: str, note: str | None = None) -> bool:
    """Record that the verified image lies in the spool under this name, fsynced; a note goes to history."""
    assignments = (
        f"state = 'fetched', event = 'fetched', reason = NULL, detail = :note, reason_at = NULL,"
        f" {NO_SUSPECT}, attempts = 0, at_risk_at = NULL, fetched_at = :now, spool = :spool, {IMAGE}"
    )
    return _move(tx, claim, State.RECEIVED, assignments, spool=spool, note=note, **rows.values(image))


def was_fetched(
    tx: Transaction,
    claim: Claim,
    image: Image,  # noqa: ARG001 - its checksum is a part of the name
    spool: str,
    note: str | None = None,  # noqa: ARG001
) -> bool:
    """Return whether the job has this file in this instance's spool."""
    return _is(tx, claim, "state = 'fetched' AND spool = ? AND instance = ?", spool, tx.instance)


def archived(tx: Transaction, claim: Claim, stored: StoredObject) -> bool:
    """Record that the archive has proved to hold the image."""
    assignments = f"state = 'archived', event = 'archived', {NO_ERROR}, archived_at = :now, {STORED}"
    return _move(tx, claim, State.FETCHED, assignments, **rows.values(stored))


def was_archived(tx: Transaction, claim: Claim, stored: StoredObject) -> bool:
    return _is(tx, claim, "state = 'archived' AND uri = ?", stored.uri)


def recognised(tx: Transaction, claim: Claim, found: ArchivedImage) -> bool:
    """Record that an object that was in the archive before was proved to be the job's image."""
    assignments = (
        "state = 'archived', event = 'recognised', reason = NULL, detail = :detail, reason_at = NULL,"
        f" archived_at = :now, {STORED}, {IMAGE}"
    )
    detail = (
        "The archive held an image of this job already, put before and proved now. It stands;"
        f" what was fetched since (SHA-256 {claim.job.image and claim.job.image.sha256}) was let go."
    )
    found_values = rows.values(found.stored) | rows.values(found.image)
    return _move(tx, claim, State.FETCHED, assignments, detail=detail, **found_values)


def was_recognised(tx: Transaction, claim: Claim, found: ArchivedImage) -> bool:
    return was_archived(tx, claim, found.stored)


def rejected(tx: Transaction, claim: Claim, error: ReceiverError) -> bool:
    """Record that the image may not be fetched, or is not what was promised."""
    if leave_away(tx, _HELD, _held(tx, claim, State.RECEIVED)):
        return False
    assignments = f"state = 'rejected', event = 'rejected', {ERROR}"
    return _move(tx, claim, State.RECEIVED, assignments, **_reported(error))


def retry_later(
    tx: Transaction,
    claim: Claim,
    at: int,
    error: ReceiverError,
    *,
    suspect: str | None = None,
    deadline: int | None = None,
) -> bool:
    """Record that the attempt failed; the job waits until ``at``, ms since the epoch.

    ``suspect`` identifies an answer that was not the promised image. The same one is counted. A new
    ``deadline`` replaces the present one.
    """
    assignments = (
        f"event = 'attempt_failed', {ERROR}, next_attempt_at = :at,"
        " at_risk_at = CASE WHEN :deadline IS NULL THEN at_risk_at END,"
        " deadline = coalesce(:deadline, deadline)"
    )
    if suspect is not None:
        assignments += (
            ", suspects = CASE WHEN suspect = :suspect THEN suspects + 1 ELSE 1 END,"
            " suspect_since = CASE WHEN suspect = :suspect THEN coalesce(suspect_since, :now) ELSE :now END,"
            " suspect = :suspect"
        )
    return _move(
        tx, claim, claim.job.state, assignments, at=at, suspect=suspect, deadline=deadline, **_reported(error)
    )


def spool_lost(tx: Transaction, claim: Claim, error: ReceiverError) -> bool:
    """Record that the spooled image is missing or damaged; the job is fetched again."""
    assignments = (
        f"state = 'received', event = 'spool_lost', {ERROR}, attempts = 0, fetched_at = NULL, spool = NULL,"
        " format = NULL, width = NULL, height = NULL, bytes = NULL, sha256 = NULL, accepted = NULL"
    )
    return _move(tx, claim, State.FETCHED, assignments, **_reported(error))


def leave_away(tx: Transaction, condition: str, values: Mapping[str, Any]) -> bool:
    """Let a job that cannot be fetched wait for the instance whose spool has its image, if one has it."""
    return bool(
        tx.change(
            "UPDATE jobs SET state = 'fetched', event = 'instance_awaited', reason = 'ledger.instance_dead',"  # noqa: S608
            " detail = 'The image is on the disk of an instance that does not run, and cannot be fetched"
            " again.', reason_at = :now, instance = (SELECT instance FROM away WHERE job = jobs.seq),"
            " attempts = 0,"
            f" next_attempt_at = NULL, at_risk_at = NULL, {NO_SUSPECT}, holder = NULL, lease_until = NULL,"
            f" updated_at = :now WHERE {condition} AND seq IN (SELECT job FROM away) RETURNING id",
            values,
        )
    )


def _is(tx: Transaction, claim: Claim, condition: str, *values: str) -> bool:
    found = tx.db.execute(f"SELECT 1 FROM jobs WHERE id = ? AND {condition}", (claim.job.id, *values))  # noqa: S608
    return found.fetchone() is not None


def _reported(error: ReceiverError) -> dict[str, str]:
    return {"reason": error.reason, "detail": error.detail}


def promise(completion: Completion, deadline: int | None) -> dict[str, Any]:
    return {
        "image_url": completion.image_url,
        "host": host_of(completion.image_url),
        "promised_width": completion.width,
        "promised_height": completion.height,
        "promised_bytes": completion.bytes,
        "promised_type": completion.content_type,
        "deadline": deadline,
    }


_HELD = "id = :id AND state = :from AND holder = :holder"


def _held(tx: Transaction, claim: Claim, state: State) -> dict[str, str | int]:
    return {"now": tx.now, "id": claim.job.id, "from": state, "holder": claim.holder}


def _move(tx: Transaction, claim: Claim, state: State, assignments: str, **values: str | int | None) -> bool:
    """Change the job and end the claim, if the job is in this state and the claim holds it."""
    done = tx.db.execute(
        f"UPDATE jobs SET {assignments}, holder = NULL, lease_until = NULL, updated_at = :now WHERE {_HELD}",  # noqa: S608 - the callers above
        {**values, **_held(tx, claim, state)},
    )
    if done.rowcount == 1:
        tx.changed.append(claim.job.id)
    return done.rowcount == 1
