"""The job as an object in the archive tells it: `Item.metadata` read back, and believed where it can be."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from receiver.archive.base import Held
from receiver.core.completion import is_job_id
from receiver.core.jobs import Image, Stored
from receiver.core.references import is_ref

PROVIDER = "ximilar"

LONGEST_SIDE = 10_000_000
"""Pixels. More than any image has, and far less than what the ledger cannot hold."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A job as its object in the archive shows it.

    Attributes:
        id: the job's.
        ref: the submitter's reference.
        image: what was archived.
        stored: where it lies.
        received_at: ms since the epoch.
        archived_at: likewise.
    """

    id: str
    ref: str | None
    image: Image
    stored: Stored
    received_at: int
    archived_at: int


def read(held: Held) -> Shown | None:
    """The job as an object's metadata tell it; ``None`` where they are not what `Item.metadata` writes."""
    kept: Mapping[str, str] = held.metadata
    job_id, sha256 = kept.get("job-id"), kept.get("sha256", "")
    width, height = _side(kept.get("width", "")), _side(kept.get("height", ""))
    received_at = _time(kept.get("received-at", ""))
    if (
        not is_job_id(job_id)
        or kept.get("provider") != PROVIDER
        or len(sha256) != 64
        or not set(sha256) <= set("0123456789abcdef")
        or width is None
        or height is None
        or received_at is None
        or held.format is None
    ):
        return None
    ref = kept.get("ref")
    return Shown(
        job_id,
        ref if is_ref(ref) else None,
        Image(held.format, width, height, held.bytes, sha256),
        held.stored,
        received_at=received_at,
        archived_at=int(held.changed_at.timestamp() * 1000),
    )


def _side(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 8):
        return None
    return int(text) if 1 <= int(text) <= LONGEST_SIDE else None


def _time(text: str) -> int | None:
    """RFC 3339 as ms since the epoch."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    if at.tzinfo is None or at.year < 1970:
        return None
    return round(at.astimezone(UTC).timestamp() * 1000)
