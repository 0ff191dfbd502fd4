"""Jobs, their states and the legal transitions between them.

Work in progress is a lease and not a state: a state exists only if a restart treats it differently. What a
page has hundreds of is a named tuple, or a dataclass that nobody changes but that is not frozen: a frozen one
takes three times as long to make, and more the more fields it has.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

from receiver.core.clock import milliseconds
from receiver.core.completion import Failure, split_id


class State(StrEnum):
    SUBMITTED = "submitted"
    """The job was submitted or announced; there is no completion yet."""
    RECEIVED = "received"
    """A completion is durably recorded; the image is not safe yet; a deadline runs."""
    FETCHED = "fetched"
    """The verified image is on the local disk, fsynced; the deadline does not matter any more."""
    ARCHIVED = "archived"
    """The archive was proved to hold the same bytes."""
    FAILED = "failed"
    """The provider says that the job, or its one record, failed."""
    REJECTED = "rejected"
    """The URL is not allowed, or what it gave is not the promised image."""
    EXPIRED = "expired"
    """The URL expired before the image was safe."""


MOVES: Mapping[State, frozenset[State]] = {
    State.SUBMITTED: frozenset({State.RECEIVED, State.FAILED}),
    State.RECEIVED: frozenset({State.FETCHED, State.REJECTED, State.EXPIRED}),
    State.FETCHED: frozenset({State.ARCHIVED, State.RECEIVED}),
    State.ARCHIVED: frozenset(),
    State.FAILED: frozenset({State.RECEIVED}),
    State.REJECTED: frozenset({State.RECEIVED}),
    State.EXPIRED: frozenset({State.RECEIVED}),
}
"""The legal transitions from each state; the ledger's trigger refuses all others."""

UNSUCCESSFUL = (State.FAILED, State.REJECTED, State.EXPIRED)
"""Final states of jobs whose image is not archived: a retry or new information moves them to ``received``."""

FINAL = (State.ARCHIVED, *UNSUCCESSFUL)
"""States that no further work leaves."""


def completed_as(failure: Failure | None) -> State:
    """Return the state that a completion makes of its job."""
    if failure is None:
        return State.RECEIVED
    return State.FAILED if failure.reason.startswith("provider.") else State.REJECTED


def overdue_cutoff(now: int, overdue_after: timedelta) -> int:
    """Return the time before which a job that is still ``submitted`` is overdue; ms since the epoch."""
    return now - milliseconds(overdue_after)


@dataclass(slots=True, unsafe_hash=True)
class Image:
    """What was read from an image's bytes: ``jpeg``, ``png`` or ``webp``, its pixels and the file's size.

    ``sha256`` is of the file, 64 lower-case hex digits. ``accepted`` is the reason for which verification
    refused the bytes, where an operator took them all the same. Then the format is what their beginning says,
    or ``None``, and the pixels are not known.
    """

    format: str | None
    width: int | None
    height: int | None
    bytes: int
    sha256: str
    accepted: str | None = None

    @property
    def extension(self) -> str:
        """The file name extension, without the dot."""
        return "jpg" if self.format == "jpeg" else self.format or "bin"

    @property
    def content_type(self) -> str:
        return f"image/{self.format}" if self.format else "application/octet-stream"


def image_format(head: bytes | bytearray) -> str | None:
    """Return the image format of a file, by its first 12 bytes."""
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    return "webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


@dataclass(slots=True, unsafe_hash=True)
class StoredObject:
    """Where an object lies in the archive: ``s3://bucket/key`` or ``file:///path``."""

    uri: str
    etag: str | None = None
    version: str | None = None


class Problem(NamedTuple):
    """Why a job has its state, or why its last attempt failed, at ``at`` (ms since the epoch)."""

    reason: str
    detail: str
    at: int


class Job(NamedTuple):
    """A job in the ledger. All times are whole milliseconds since the epoch, UTC.

    Attributes:
        id: of the job in the ledger; `core.completion` says how it is made.
        provider: the provider's name.
        endpoint: the kind of upscaling, such as ``upscale_2x``.
        attempts: how often work was begun in the present state.
        refreshes: how many other URLs the provider has named since the delivery.
        deadline: when the image URL expires.
        confirmed_at: when the provider itself confirmed what was delivered.
        promised_width: pixels, as the completion says; so the height, the file's bytes and its media type.
        suspect: the last answer that was not the promised image: the bytes' checksum, or the refusal's text.
        suspects: how often that answer came.
        suspect_since: when it came first.
        spool: the verified file's name in the spool, while the job is ``fetched``.
    """

    id: str
    state: State
    image: Image | None = None
    stored: StoredObject | None = None
    problem: Problem | None = None
    provider: str = ""
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
    promised_bytes: int | None = None
    promised_type: str | None = None
    suspect: str | None = None
    suspects: int = 0
    suspect_since: int | None = None
    spool: str | None = None
    submitted_at: int | None = None
    received_at: int | None = None
    fetched_at: int | None = None
    archived_at: int | None = None
    updated_at: int = 0

    @property
    def provider_id(self) -> str:
        return split_id(self.id)[0]

    @property
    def output(self) -> int:
        """Which of the outputs of the provider's job this is, from 1."""
        return split_id(self.id)[1]


class Event(NamedTuple):
    """An entry of a job's history at ``at``, ms since the epoch; the first has no state before it."""

    at: int
    event: str
    before: State | None
    after: State
    reason: str | None
    detail: str | None
