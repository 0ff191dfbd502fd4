"""Reads each image from the address in its job, even if new images go to another archive.

The two differ while a folder is being moved to a bucket, and after ``RECEIVER_ARCHIVE`` has changed. An image
that is not there any more is looked for in the archive of new ones: the whole archive may have been moved.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from receiver.archive import moved
from receiver.archive.base import Depth, Inventory, ObjectInfo
from receiver.archive.factory import open_archive
from receiver.core.errors import ArchiveError, ConfigError
from receiver.core.jobs import Image, StoredObject

T = TypeVar("T")

READS = 4
"""Reads at a time from an archive that gets no new images."""


@dataclass(eq=False)
class ArchiveLocator:
    """Reads from the ``archive`` of new images, which is not closed here, and from any other that the ledger
    names.

    Only addresses of the receiver's own archives are ever written to the ledger. ``environ`` and
    ``public_url`` are as for `open_archive`.
    """

    archive: Inventory
    environ: Mapping[str, str] = field(repr=False)
    public_url: str | None = None
    _others: dict[str, Inventory] = field(default_factory=dict, init=False)
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def locate(self, stored: StoredObject, image: Image) -> Path | str:
        return await self._read(stored, image, lambda archive, at: archive.locate(at, image))

    async def local_file(self, stored: StoredObject, image: Image, scratch: Path) -> Path:
        return await self._read(stored, image, lambda archive, at: archive.local_file(at, image, scratch))

    async def inspect(self, stored: StoredObject, depth: Depth = Depth.PROVED) -> ObjectInfo:
        return await (await self._archive_of(stored)).inspect(stored, depth)

    async def aclose(self) -> None:
        for other in self._others.values():
            await other.aclose()

    async def _read(
        self, stored: StoredObject, image: Image, read: Callable[[Inventory, StoredObject], Awaitable[T]]
    ) -> T:
        """Read an image from where it was put, or else from where its archive was moved to."""
        archive = await self._archive_of(stored)
        try:
            return await read(archive, stored)
        except ArchiveError:
            if archive is self.archive:
                raise
            found = await moved.find(self.archive, stored, image)
            if found is None:
                raise
        return await read(self.archive, found[1])

    async def _archive_of(self, stored: StoredObject) -> Inventory:
        if stored.uri.startswith(f"{self.archive.uri}/"):
            return self.archive
        scheme, _, rest = stored.uri.partition("://")
        # One client reads all prefixes of a bucket, and one archive all folders.
        uri = f"s3://{rest.partition('/')[0]}" if scheme == "s3" else "file:///"
        async with self._opening:
            if uri not in self._others:
                try:
                    # In a thread: boto3 takes a while to load.
                    self._others[uri] = await asyncio.to_thread(
                        open_archive, uri, uploads=READS, environ=self.environ, public_url=self.public_url
                    )
                except ConfigError as error:
                    raise ArchiveError("archive.misconfigured", f"{stored.uri}: {error}") from None
        return self._others[uri]
