"""Images are read from where their job says that they lie, whichever archive new ones go to.

That can differ while a folder is being moved to a bucket, and after ``RECEIVER_ARCHIVE`` was set anew.
"""

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from receiver.archive import Depth, Inventory, ObjectInfo, open_archive
from receiver.core.errors import ArchiveError, ConfigError
from receiver.core.jobs import Image, StoredObject

READS = 4
"""Reads at a time from a place that new images do not go to."""


class ArchiveLocator:
    """Reads from one archive, and from any other place that the ledger names.

    The ledger is what says where to read, and nothing but our own archives' addresses is ever written there.

    Args:
        archive: the one that new images go to; it is not closed here.
        environ: the AWS SDK's variables, should a bucket have to be opened.
    """

    def __init__(self, archive: Inventory, environ: Mapping[str, str]) -> None:
        self._archive = archive
        self._environ = environ
        self._others: dict[str, Inventory] = {}
        self._opening = asyncio.Lock()

    async def locate(self, stored: StoredObject, image: Image) -> Path | str:
        """See `ImageReader.locate`."""
        return await (await self._place(stored)).locate(stored, image)

    async def local_file(self, stored: StoredObject, image: Image, scratch: Path) -> Path:
        """See `ImageReader.local_file`."""
        return await (await self._place(stored)).local_file(stored, image, scratch)

    async def inspect(self, stored: StoredObject, depth: Depth = Depth.PROVED) -> ObjectInfo:
        """See `Inventory.inspect`."""
        return await (await self._place(stored)).inspect(stored, depth)

    async def aclose(self) -> None:
        """Closes what was opened here."""
        for other in self._others.values():
            await other.aclose()

    async def _place(self, stored: StoredObject) -> Inventory:
        if stored.uri.startswith(f"{self._archive.uri}/"):
            return self._archive
        scheme, _, rest = stored.uri.partition("://")
        # One bucket's client reads from all of them; so does one for all folders.
        uri = f"s3://{rest.partition('/')[0]}" if scheme == "s3" else "file:///"
        async with self._opening:
            if uri not in self._others:
                try:
                    # In a thread, because boto3 takes a while to load.
                    opened = await asyncio.to_thread(
                        partial(open_archive, uri, uploads=READS, environ=self._environ)
                    )
                except ConfigError as error:
                    raise ArchiveError("archive.misconfigured", f"{stored.uri}: {error}") from None
                self._others[uri] = opened
        return self._others[uri]
