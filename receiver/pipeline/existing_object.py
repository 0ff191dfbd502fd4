"""Another image stands at a job's key: is it the job's own, put there before?

So it is after a crash between an object's proof and the record of it, or with a ledger that was restored,
where the image had to be fetched again since and other bytes came. The ledger knows nothing of the object any
more: everything that it counts on is proved anew.
"""

import asyncio

from receiver.archive import Depth, Inventory, labels
from receiver.archive.labels import Shown
from receiver.core.errors import ArchiveError, ImageError, SpoolError
from receiver.core.jobs import Stored
from receiver.ledger import Claim
from receiver.pipeline.spool import Spool
from receiver.verify.decoder import Promise
from receiver.verify.verifier import Verifier


class ExistingObjectVerifier:
    """Tells a job's own image in the archive from any other.

    Args:
        archive: where it stands.
        spool: has room for one image that is looked at.
        verifier: judges it.
    """

    def __init__(self, *, archive: Inventory, spool: Spool, verifier: Verifier) -> None:
        self._archive = archive
        self._spool = spool
        self._verifier = verifier
        self._one_at_a_time = asyncio.Lock()

    async def verify(self, claim: Claim, stored: Stored) -> Shown:
        """Reads an object whole and finds that it is the promised image of a job.

        Raises:
            ArchiveError: ``archive.occupied`` if it is not; any other reason if it could not be seen.
            SpoolError: our own disk has no room to look at it, or fails.
        """
        held = await self._archive.look(stored, Depth.QUICK)
        shown = labels.read(held)
        if shown is None or shown.id != claim.job.id:
            raise _another(claim, stored, "its metadata do not say that it is the job's")
        async with self._one_at_a_time:
            await self._prove(claim, shown)
        return shown

    async def _prove(self, claim: Claim, shown: Shown) -> None:
        image, job = shown.image, claim.job
        # What RECEIVER_MAX_SPOOL_BYTES allows may be taken up by the very jobs that wait for this.
        if image.bytes > self._spool.room_bytes(0):
            raise SpoolError("spool.full", f"The disk has no room to look at {shown.stored.uri}.")
        part = self._spool.part(f"{claim.holder}:archived")
        try:
            path = await self._archive.local(shown.stored, image, part)
            if await self._spool.sha256(path) != image.sha256:
                raise _another(claim, shown.stored, "its bytes are not those that its metadata name")
            found = await self._verifier.verify(path, Promise(job.promised_width, job.promised_height))
        except ImageError as error:
            raise _another(claim, shown.stored, f"it is not the promised image: {error.detail}") from error
        finally:
            await self._spool.remove(part)
        if (found.format, found.width, found.height) != (image.format, image.width, image.height):
            raise _another(claim, shown.stored, "it is another image than its metadata say")


def _another(claim: Claim, stored: Stored, why: str) -> ArchiveError:
    return ArchiveError(
        "archive.occupied",
        f"{stored.uri} holds other bytes than job {claim.job.id}, and {why.rstrip('.')}. Move that object"
        f" away; `receiver retry {claim.job.id}` then archives the job's image at once.",
    )
