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
    """One image to archive: the spooled file at ``path`` is complete and verified, ``key`` is as `render_key`
    made it, and ``received_at`` is when the completion was recorded.
    """

    job_id: str
    path: Path
    image: Image
    key: str
    ref: str | None
    received_at: datetime


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe found out about one ability of the store, such as ``conditional-writes``, and in a
    sentence what that means here.
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
    """The state of one object, with the store's own names for it in ``stored``.

    ``sha256`` is hex, or ``None`` where the bytes were not read and the store keeps no checksum. ``format``
    is ``jpeg``, ``png`` or ``webp``, by the store or the first bytes, or ``None``. ``modified_at`` is UTC.
    ``metadata`` are decoded, and empty where they cannot be read.
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
        """Return a local file, or a URL that works for five minutes. Raise ``archive.missing`` without the
        image.
        """

    async def local_file(self, stored: StoredObject, image: Image, scratch: Path) -> Path:
        """Return a local file with the image's bytes, to be read and not changed.

        ``scratch`` receives the bytes if the archive is not local; the caller removes it. Raise
        ``archive.missing`` without the image, what the store answered, or ``spool.disk`` where ``scratch``
        cannot be written.
        """


class Archive(ImageReader, Protocol):
    """Keeps images for good. What fails is raised as `ArchiveError`."""

    @property
    def uri(self) -> str:
        """The archive's address, without secrets."""

    async def probe(self) -> tuple[ProbeResult, ...]:
        """Write, read, compare and remove a small object; later puts rely on what was found."""

    async def put(self, item: SpooledImage) -> StoredObject:
        """Archive an image. Return once the store has proved that it holds exactly these bytes.

        If the key holds the same bytes already, the put succeeds, even where the spooled file is lost. Raise
        ``archive.occupied`` if the key holds other bytes, ``spool.lost`` if the spooled file vanished or is
        not what was verified.
        """

    async def aclose(self) -> None:
        """Wait for running puts, then close connections and threads."""


class SmallPictures(Protocol):
    """Small pictures beside the archived images, under hidden keys: no listing and no audit shows them.

    What fails is raised as `ArchiveError`.
    """

    async def keep_picture(self, key: str, content: bytes) -> None:
        """Keep a WebP; one that is there already stays."""

    async def has_picture(self, key: str) -> bool:
        """Return whether there is one."""

    async def picture(self, key: str) -> bytes | None:
        """Return one, or ``None`` where there is none, or where it is larger than any is made."""

    async def remove_pictures(self, prefix: str, before: datetime) -> int:
        """Remove those that were kept before a time. Return their number."""


MAX_PICTURE = 8 << 20
"""Bytes of a small picture: more than a WebP of 1,600 pixels square has, whatever it shows."""


class Inventory(Archive, SmallPictures, Protocol):
    """An archive whose objects can be listed, inspected and removed."""

    def entries(self, after: str | None = None) -> AsyncIterator[Sequence[ListedObject]]:
        """Yield all objects behind the address ``after`` in pages, always in the same order, without those of
        a running probe or put.
        """

    def object_at(self, key: str) -> StoredObject:
        """Return the address of an object with this key, whether or not it exists."""

    async def inspect(self, stored: StoredObject, depth: Depth = Depth.PROVED) -> ObjectInfo:
        """Return the state of one object. Raise ``archive.missing`` if it is not there."""

    async def remove(self, stored: StoredObject) -> None:
        """Remove an object and its metadata; an object that is not there is no error."""
