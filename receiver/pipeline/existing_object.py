"""Checks whether an object that is already at a job's key is the job's own image, archived before.

That happens after a crash between an upload and its record, and after an older ledger was restored. The
ledger does not know the object then, so its metadata, bytes and pixels are all checked again.
"""

import asyncio
from dataclasses import dataclass, field

from receiver.archive import metadata
from receiver.archive.base import Depth, Inventory
from receiver.archive.metadata import ArchivedImage
from receiver.core.errors import ArchiveError, ImageError, SpoolError
from receiver.core.jobs import StoredObject
from receiver.ledger import Claim
from receiver.pipeline.spool import Spool
from receiver.verify.decoder import ExpectedSize
from receiver.verify.verifier import Verifier


@dataclass(frozen=True, slots=True, eq=False)
class ExistingObjectVerifier:
    """Proves that an object is a job's image. One object is read at a time."""

    archive: Inventory
    spool: Spool
    verifier: Verifier
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def verify(self, claim: Claim, stored: StoredObject) -> ArchivedImage:
        """Read a whole object. Raise ``archive.occupied`` where it is not the promised image of a job."""
        info = await self.archive.inspect(stored, Depth.QUICK)
        archived = metadata.read(info)
        if archived is None or archived.id != claim.job.id:
            raise _another(claim, stored, "its metadata do not say that it is the job's")
        async with self._one_at_a_time:
            await self._prove(claim, archived)
        return archived

    async def _prove(self, claim: Claim, archived: ArchivedImage) -> None:
        image, job = archived.image, claim.job
        # Held bytes do not count: the very jobs that wait for this may take up RECEIVER_MAX_SPOOL_BYTES.
        if image.bytes > self.spool.room_bytes(0):
            raise SpoolError("spool.full", f"The disk has no room to look at {archived.stored.uri}.")
        part = self.spool.part(f"{claim.holder}:archived")
        try:
            path = await self.archive.local_file(archived.stored, image, part)
            if await self.spool.sha256(path) != image.sha256:
                raise _another(claim, archived.stored, "its bytes are not those that its metadata name")
            found = await self.verifier.verify(path, ExpectedSize(job.promised_width, job.promised_height))
        except ImageError as error:
            raise _another(claim, archived.stored, f"it is not the promised image: {error.detail}") from error
        finally:
            await self.spool.remove(part)
        if (found.format, found.width, found.height) != (image.format, image.width, image.height):
            raise _another(claim, archived.stored, "it is another image than its metadata say")


def _another(claim: Claim, stored: StoredObject, why: str) -> ArchiveError:
    return ArchiveError(
        "archive.occupied",
        f"{stored.uri} holds other bytes than job {claim.job.id}, and {why.rstrip('.')}. Move that object"
        f" away; `receiver retry {claim.job.id}` then archives the job's image at once.",
    )
