"""The states of a job and the legal moves between them. A state exists only if a restart treats it so."""

from collections.abc import Mapping
from dataclasses import dataclass
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

FINAL = frozenset({State.ARCHIVED, State.FAILED, State.REJECTED, State.EXPIRED})
"""States that stand until someone brings something new."""


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
class Stored:
    """Where an object lies in the archive.

    Attributes:
        uri: ``s3://bucket/key`` or ``file:///path``.
        etag: the store's own entity tag, where it has one.
        version: the store's version id, where it keeps versions.
    """

    uri: str
    etag: str | None = None
    version: str | None = None
