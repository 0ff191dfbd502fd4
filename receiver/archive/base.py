"""The archive: one small interface over a folder and over S3. What it says is kept was proved to be kept.

``folder`` and ``s3`` are imported by `open_archive` alone, so that who keeps images in a folder never waits
for boto3 to load.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from receiver.archive import metadata
from receiver.archive.key import MAX_KEY, check_template, render_key
from receiver.core.errors import ConfigError
from receiver.core.jobs import Image, Stored

__all__ = [
    "Archive",
    "Depth",
    "Entry",
    "Finding",
    "Held",
    "Images",
    "Inventory",
    "Item",
    "check_template",
    "open_archive",
    "render_key",
]

MAX_PREFIX = 1024 - MAX_KEY - 1
"""Bytes of a bucket's prefix, so that prefix, slash and key stay within the 1,024 that S3 gives to a key."""

BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")
"""What some store takes: today's rules of S3 are stricter, but its oldest buckets, and other stores, have
names with upper case and underscores, and of up to 255 characters."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image to keep.

    Attributes:
        job_id: the provider's id of the job.
        path: the spooled file, complete and verified.
        image: what the spooled bytes were found to be.
        key: where to keep it, as `render_key` gave it.
        ref: the submitter's own reference, if there is one.
        received_at: when the completion was recorded, UTC.
        provider: whose result it is.
    """

    job_id: str
    path: Path
    image: Image
    key: str
    ref: str | None
    received_at: datetime
    provider: str = "ximilar"

    def metadata(self) -> dict[str, str]:
        """What is kept beside the bytes: enough to rebuild the job's row. Values are printable ASCII.

        `receiver.archive.metadata.decode_all` reads them back.
        """
        pairs = {
            "job-id": self.job_id,
            "ref": self.ref,
            "sha256": self.image.sha256,
            "width": str(self.image.width),
            "height": str(self.image.height),
            "received-at": self.received_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "provider": self.provider,
        }
        return {name: metadata.encode(value) for name, value in pairs.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a probe learned of the store.

    Attributes:
        name: what was tried, such as ``conditional-writes``.
        honoured: whether the store does it.
        detail: a sentence: what that means here.
    """

    name: str
    honoured: bool
    detail: str


class Depth(StrEnum):
    """How closely an object is looked at."""

    QUICK = "quick"
    """Size and metadata, and the store's own checksum where it tells one; nothing is read."""
    PROVED = "proved"
    """The checksum as well: of an object the store's own, if it keeps one; of a file by reading it."""
    DEEP = "deep"
    """All of its bytes are read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object as a listing shows it.

    Attributes:
        uri: where it lies.
        bytes: its size.
    """

    uri: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Held:
    """One object as it was found.

    Attributes:
        stored: where it lies, with the store's own names for this state of it.
        bytes: its size.
        sha256: of its bytes, hex; ``None`` where it was not read and the store keeps none.
        format: ``jpeg``, ``png`` or ``webp``, as store or first bytes say; ``None`` for anything else.
        changed_at: when it was written, UTC.
        metadata: what is kept beside the bytes, decoded; empty where that cannot be read.
    """

    stored: Stored
    bytes: int
    sha256: str | None
    format: str | None
    changed_at: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)


class Images(Protocol):
    """Where archived images can be read."""

    async def locate(self, stored: Stored, image: Image) -> Path | str:
        """Where to read an archived image: a local file, or a URL that works for five minutes.

        Raises:
            ArchiveError: ``archive.missing`` if it is not there.
        """

    async def local(self, stored: Stored, image: Image, spare: Path) -> Path:
        """A file on this machine with the bytes of an archived image, to be read and not changed.

        Args:
            stored: where it lies.
            image: what it is.
            spare: where the bytes are put if they lie on no disk of this machine; the caller removes it.

        Raises:
            ArchiveError: ``archive.missing`` if it is not there, or what the store said.
            SpoolError: ``spool.disk`` if ``spare`` cannot be written.
        """


class Archive(Images, Protocol):
    """Where images are kept for good."""

    @property
    def uri(self) -> str:
        """The archive's address, for people; without secrets."""

    async def probe(self) -> tuple[Finding, ...]:
        """Writes, reads, compares and removes a small object; what it learns is used from then on.

        Raises:
            ArchiveError: the archive cannot be used as it is.
        """

    async def put(self, item: Item) -> Stored:
        """Keeps an image and returns once the store has proved that it holds these very bytes.

        The same bytes at the key already are a success, whoever brought them, and even where the spooled file
        is lost by now.

        Raises:
            ArchiveError: not kept, or not proved; ``archive.occupied`` if other bytes stand at the key.
            SpoolError: ``spool.lost`` if the spooled file vanished or is not what was verified.
        """

    async def aclose(self) -> None:
        """Waits for what is under way and lets go of connections and threads."""


class Inventory(Archive, Protocol):
    """An archive that can be gone through."""

    def entries(self, after: str | None = None) -> AsyncIterator[Sequence[Entry]]:
        """All objects, in pages, always in the same order; not what a probe or a put has under way.

        Args:
            after: the address of an object: begins behind it.

        Raises:
            ArchiveError: it cannot be listed.
        """

    def at(self, key: str) -> Stored:
        """Where an object of this key lies, or would lie."""

    async def look(self, stored: Stored, depth: Depth = Depth.PROVED) -> Held:
        """Looks at one object.

        Raises:
            ArchiveError: ``archive.missing`` if it is not there; any other reason if it could not be seen.
        """

    async def remove(self, stored: Stored) -> None:
        """Removes an object and what is kept beside it; one that is not there is no error.

        Raises:
            ArchiveError: it could not be removed.
        """


def open_archive(
    uri: str, *, uploads: int = 8, environ: Mapping[str, str] | None = None, used: bool = False
) -> Inventory:
    """Opens the archive at an address. Touches neither the disk nor the network: `Archive.probe` does.

    Args:
        uri: ``file:///folder`` or ``s3://bucket/prefix``; the prefix may be missing.
        uploads: how many images are put at a time.
        environ: variables of the AWS SDK (``AWS_…``) that hold beside those of the process: endpoint, region,
            access key and CA bundle. All others the SDK takes from the process alone.
        used: whether images were put there before; then a folder that is gone is not made anew.

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
        from receiver.archive.folder import FolderArchive  # noqa: PLC0415 - loaded by those who use it

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

        return open_s3(bucket, prefix, uploads=uploads, environ=environ or {})
    raise ConfigError("RECEIVER_ARCHIVE: must begin with file:// or s3://")
