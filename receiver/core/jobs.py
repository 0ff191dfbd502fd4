"""The states of a job and the legal moves between them. A state exists only if a restart treats it so."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """Where a job stands. Work in progress is a lease, not a state."""

    SUBMITTED = "submitted"
    """We asked the provider, or were told to expect the job; no completion yet."""
    RECEIVED = "received"
    """A completion is durably recorded; the image is not safe yet; a deadline runs."""
    FETCHED = "fetched"
    """The verified image lies on our own disk, fsynced; no deadline any more."""
    ARCHIVED = "archived"
    """The object is in the archive and was proved to hold the same bytes."""
    FAILED = "failed"
    """The provider says that the job, or its one record, failed."""
    REJECTED = "rejected"
    """The URL is not allowed, or what it gave is not the promised image."""
    EXPIRED = "expired"
    """The URL's life ended before the bytes were safe."""


MOVES: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.SUBMITTED: frozenset({State.RECEIVED, State.FAILED}),
        State.RECEIVED: frozenset({State.FETCHED, State.REJECTED, State.EXPIRED}),
        State.FETCHED: frozenset({State.ARCHIVED, State.RECEIVED}),
        State.ARCHIVED: frozenset(),
        State.FAILED: frozenset({State.RECEIVED}),
        State.REJECTED: frozenset({State.RECEIVED}),
        State.EXPIRED: frozenset({State.RECEIVED}),
    }
)
"""From each state, the states that it can leave to. The ledger's trigger refuses every other move."""

UNSUCCESSFUL = (State.FAILED, State.REJECTED, State.EXPIRED)
"""Final states of jobs whose image is not archived: a retry or new information moves them to ``received``."""

FINAL = (State.ARCHIVED, *UNSUCCESSFUL)
"""States that no further work leaves."""


def overdue_cutoff(now: int, overdue_after: timedelta) -> int:
    """Return the time before which a job that is still ``submitted`` is overdue; ms since the epoch."""
    return now - int(overdue_after.total_seconds() * 1000)


@dataclass(frozen=True, slots=True)
class Image:
    """What the bytes themselves say of an image.

    Attributes:
        format: ``jpeg``, ``png`` or ``webp``.
        width: pixels.
        height: pixels.
        bytes: the file's size.
        sha256: of the whole file, 64 lower-case hex digits.
    """

    format: str
    width: int
    height: int
    bytes: int
    sha256: str

    @property
    def extension(self) -> str:
        """The usual ending of a file of this format, without the dot."""
        return "jpg" if self.format == "jpeg" else self.format

    @property
    def content_type(self) -> str:
        """The IANA media type of this format."""
        return f"image/{self.format}"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Where an object lies in the archive.

    Attributes:
        uri: ``s3://bucket/key`` or ``file:///path``.
        etag: the store's own entity tag, where it has one.
        version: the store's version id, where it keeps versions.
    """

    uri: str
    etag: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a job is where it is, or why its last attempt did not succeed.

    Attributes:
        reason: one of ``errors.REASONS``.
        detail: a sentence for the operator.
        at: ms since the epoch, UTC.
    """

    reason: str
    detail: str
    at: int


@dataclass(frozen=True, slots=True)
class Job:
    """One job as the ledger knows it. All times are whole milliseconds since the epoch, UTC.

    Attributes:
        id: the provider's id of the job.
        endpoint: the kind of upscaling that was asked for, where we know it.
        attempts: how often the present state's work was begun.
        refreshes: how many other URLs the provider has named since the delivery.
        next_attempt_at: not before this time, while the job waits; ``None`` means as soon as can be.
        deadline: when the image URL's life ends.
        confirmed_at: when the provider itself confirmed what was delivered.
        promised_width: pixels, as the completion says; ``None`` where it says nothing.
        promised_height: likewise.
        image: what was found in the verified bytes.
        suspect: checksum of the last bytes that came and were not the promised image.
        spool: the verified file's name in the spool, while the job is ``fetched``.
    """

    id: str
    state: State
    ref: str | None = None
    endpoint: str | None = None
    attempts: int = 0
    refreshes: int = 0
    next_attempt_at: int | None = None
    deadline: int | None = None
    image_url: str | None = None
    source_url: str | None = None
    confirmed_at: int | None = None
    promised_width: int | None = None
    promised_height: int | None = None
    image: Image | None = None
    suspect: str | None = None
    spool: str | None = None
    stored: StoredObject | None = None
    problem: Problem | None = None
    submitted_at: int | None = None
    received_at: int | None = None
    fetched_at: int | None = None
    archived_at: int | None = None
    updated_at: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a job's history.

    Attributes:
        at: ms since the epoch, UTC.
        event: what happened, in a word.
        before: the state before, ``None`` at the beginning.
        after: the state after.
        reason: one of ``errors.REASONS`` where something went wrong.
        detail: a sentence for the operator.
    """

    at: int
    event: str
    before: State | None
    after: State
    reason: str | None
    detail: str | None
