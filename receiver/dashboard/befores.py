"""The small pictures of sources that the archive keeps, for the pages that compare them with the results."""

import asyncio
from dataclasses import dataclass

import structlog

from receiver.archive.base import SmallPictures
from receiver.archive.key import source_key
from receiver.core.errors import ArchiveError

log = structlog.get_logger("receiver.page")

PATIENCE_SECONDS = 2.0
"""How long a page waits for an archive; then it is shown without."""


@dataclass(frozen=True, slots=True, eq=False)
class Befores:
    """Finds and reads the pictures. An archive that gives no answer is taken for one that has none."""

    archive: SmallPictures

    async def has(self, job_id: str) -> bool:
        """Return whether there is a picture of a job's source."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await self.archive.has_picture(source_key(job_id))
        except (ArchiveError, TimeoutError):
            return False

    async def of(self, job_id: str) -> bytes | None:
        """Return the picture, a WebP; ``None`` where there is none."""
        try:
            return await self.archive.picture(source_key(job_id))
        except ArchiveError as error:
            log.info("no look at the source", job=job_id, reason=error.reason, detail=error.detail)
            return None
