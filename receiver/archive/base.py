"""The archive's interface, which a folder and S3 implement.

`open_archive` imports ``folder`` or ``s3`` on demand, so that a folder's users do not load boto3.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from receiver.archive.key import MAX_KEY
from receiver.core.errors import ConfigError
from receiver.core.jobs import Image, StoredObject

MAX_PREFIX = 1024 - MAX_KEY - 1
"""Bytes of a bucket's prefix, so that prefix, slash and key stay within the 1,024 bytes of an S3 key."""

BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")
"""Wider than today's rules of S3: its oldest buckets, and other stores, have names with upper case and
underscores, and of up to 255 characters."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image to archive.

    Attributes:
        path: the spooled file, complete and verified.
        key: as `render_key` made it.
        ref: the submitter's own reference.
        received_at: when the completion was recorded.
    """

    job_id: str
    path: Path
    image: Image
    key: str
    ref: str | None
    received_at: datetime
    provider: str = "ximilar"


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
    """One object of a listing.

    Attributes:
        unreadable: why it, or all of a folder, cannot be read; ``None`` for every sound object.
    """

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

        Args:
            stored: the object.
            image: what it holds.
            scratch: receives the bytes if the archive is not local; the caller removes it.

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

    async def put(self, item: Item) -> StoredObject:
        """Archive an image. Return once the store has proved that it holds exactly these bytes.

        If the key holds the same bytes already, the put succeeds, even where the spooled file is lost.

        Raises:
            ArchiveError: not archived, or not proved; ``archive.occupied`` if the key holds other bytes.
            SpoolError: ``spool.lost`` if the spooled file vanished or is not what was verified.
        """

    async def aclose(self) -> None:
        """Wait for running puts, then close connections and threads."""


class Inventory(Archive, Protocol):
    """An archive whose objects can be listed, inspected and removed."""

    def entries(self, after: str | None = None) -> AsyncIterator[Sequence[ListedObject]]:
        """Yield all objects in pages, always in the same order, without those of a running probe or put.

        Args:
            after: the address of an object; the listing starts behind it.

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


def open_archive(
    uri: str,
    *,
    uploads: int = 8,
    environ: Mapping[str, str] | None = None,
    used: bool = False,
    public_url: str | None = None,
) -> Inventory:
    """Open the archive at an address. Uses neither the disk nor the network: `Archive.probe` does.

    Args:
        uri: ``file:///folder`` or ``s3://bucket/prefix``; the prefix is optional.
        uploads: how many images are put at a time.
        environ: variables of the AWS SDK (``AWS_…``) that hold beside those of the process: endpoint, region,
            access key and CA bundle. All others the SDK takes from the process alone.
        used: whether images were put there before; a folder that has vanished is then not made again.
        public_url: the endpoint of S3 for presigned URLs, if people reach the store by another one.

    Raises:
        ConfigError: the address is no such thing, or the SDK cannot use its variables.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise ConfigError("RECEIVER_ARCHIVE: must be file:///folder or s3://bucket/prefix") from None
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise ConfigError(
            "RECEIVER_ARCHIVE: must be file:///folder or s3://bucket/prefix, and nothing behind"
        )
    if parts.scheme == "file":
        folder = Path(url2pathname(parts.path))
        if parts.netloc not in {"", "localhost"} or not folder.is_absolute() or "\0" in str(folder):
            raise ConfigError("RECEIVER_ARCHIVE: a folder is written file:///folder, with its whole path")
        from receiver.archive.folder import FolderArchive  # noqa: PLC0415 - loaded on demand

        return FolderArchive(folder, uploads=uploads, used=used)
    if parts.scheme == "s3":
        bucket, prefix = parts.netloc, parts.path.strip("/")
        if not BUCKET.fullmatch(bucket):
            raise ConfigError(
                "RECEIVER_ARCHIVE: must be s3://bucket/prefix, the bucket's name of at least three letters,"
                " digits, dots, dashes and underscores"
            )
        dotted = prefix != "" and not {"", ".", ".."}.isdisjoint(prefix.split("/"))
        if dotted or len(prefix.encode()) > MAX_PREFIX or not prefix.isprintable():
            raise ConfigError(
                f"RECEIVER_ARCHIVE: the prefix must be plain text of at most {MAX_PREFIX} bytes"
            )
        from receiver.archive.s3 import open_s3  # noqa: PLC0415 - boto3 takes a quarter of a second to load

        return open_s3(bucket, prefix, uploads=uploads, environ=environ or {}, public_url=public_url)
    raise ConfigError("RECEIVER_ARCHIVE: must begin with file:// or s3://")
