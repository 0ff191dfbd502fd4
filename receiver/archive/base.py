"""The archive's interface, which a folder and S3 implement."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from receiver.core.jobs import Image, StoredObject


@dataclass(frozen=True, slots=True)
class SpooledImage:
    """One image to archive.

    Attributes:
        path: the spooled file, complete and verified.
        key: as `render_key` made it.
        received_at: when the completion was recorded.
    """

    job_id: str
    path: Path
    image: Image
    key: str
    ref: str | None
    received_at: datetime


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe found out about one ability of the store.

    Attributes:
        name: of the ability, such as ``conditional-writes``.
        honoured: whether the store has it.
        detail: a sentence: what that means here.
    """

    name: str
    honoured: bool
    detail: str


class Depth(StrEnum):
    """How thoroughly an object is inspected."""

    QUICK = "quick"
    """Size, metadata, and the checksum that the store reports, if any; nothing is read."""
    PROVED = "proved"
    """The checksum as well: the store's own for an object, if it keeps one; read from the bytes of a file."""
    DEEP = "deep"
    """All bytes are read."""


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One object of a listing; ``unreadable`` says why it, or all of a folder, cannot be read."""

    uri: str
    bytes: int
    unreadable: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """The state of one object.

    Attributes:
        stored: its address, with the store's own names for this state of it.
        sha256: hex; ``None`` where the bytes were not read and the store keeps no checksum.
        format: ``jpeg``, ``png`` or ``webp``, by the store or the first bytes; ``None`` for anything else.
        modified_at: UTC.
        metadata: decoded; empty where it cannot be read.
    """

    stored: StoredObject
    bytes: int
    sha256: str | None
    format: str | None
    modified_at: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)


class ImageReader(Protocol):
    """Reads archived images."""

    async def locate(self, stored: StoredObject, image: Image) -> Path | str:
        """Return a local file, or a URL that works for five minutes.

        Raises:
            ArchiveError: ``archive.missing`` if the image is not there.
        """

    async def local_file(self, stored: StoredObject, image: Image, scratch: Path) -> Path:
        """Return a local file with the image's bytes, to be read and not changed.

        ``scratch`` receives the bytes if the archive is not local; the caller removes it.

        Raises:
            ArchiveError: ``archive.missing`` if the image is not there, or what the store answered.
            SpoolError: ``spool.disk`` if ``scratch`` cannot be written.
        """


class Archive(ImageReader, Protocol):
    """Keeps images for good."""

    @property
    def uri(self) -> str:
        """The archive's address, without secrets."""

    async def probe(self) -> tuple[ProbeResult, ...]:
        """Write, read, compare and remove a small object; later puts rely on what was found.

        Raises:
            ArchiveError: the archive cannot be used as it is.
        """

    async def put(self, item: SpooledImage) -> StoredObject:
        """Archive an image. Return once the store has proved that it holds exactly these bytes.

        If the key holds the same bytes already, the put succeeds, even where the spooled file is lost.

        Raises:
            ArchiveError: not archived, or not proved; ``archive.occupied`` if the key holds other bytes.
            SpoolError: ``spool.lost`` if the spooled file vanished or is not what was verified.
        """

    async def aclose(self) -> None:
        """Wait for running puts, then close connections and threads."""


class SmallPictures(Protocol):
    """Small pictures beside the archived images, under hidden keys: no listing and no audit shows them."""

    async def keep_picture(self, key: str, content: bytes) -> None:
        """Keep a WebP; one that is there already stays.

        Raises:
            ArchiveError: it was not kept.
        """

    async def has_picture(self, key: str) -> bool:
        """Return whether there is one.

        Raises:
            ArchiveError: the archive does not say.
        """

    async def picture(self, key: str) -> bytes | None:
        """Return one, or ``None`` where there is none, or where it is larger than any is made.

        Raises:
            ArchiveError: it cannot be read.
        """

    async def remove_pictures(self, prefix: str, before: datetime) -> int:
        """Remove those that were kept before a time. Return their number.

        Raises:
            ArchiveError: they cannot be listed or removed.
        """


MAX_PICTURE = 8 << 20
"""Bytes of a small picture: more than a WebP of 1,600 pixels square has, whatever it shows."""


class Inventory(Archive, SmallPictures, Protocol):
    """An archive whose objects can be listed, inspected and removed."""

    def entries(self, after: str | None = None) -> AsyncIterator[Sequence[ListedObject]]:
        """Yield all objects in pages, always in the same order, without those of a running probe or put.

        The listing starts behind the object of the address ``after``.

        Raises:
            ArchiveError: it cannot be listed.
        """

    def object_at(self, key: str) -> StoredObject:
        """Return the address of an object with this key, whether or not it exists."""

    async def inspect(self, stored: StoredObject, depth: Depth = Depth.PROVED) -> ObjectInfo:
        """Return the state of one object.

        Raises:
            ArchiveError: ``archive.missing`` if it is not there; another reason if it could not be inspected.
        """

    async def remove(self, stored: StoredObject) -> None:
        """Remove an object and its metadata; an object that is not there is no error.

        Raises:
            ArchiveError: it could not be removed.
        """
