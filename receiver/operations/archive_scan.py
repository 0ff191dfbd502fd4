"""A walk through an archive: object after object, patiently, and with a journal of what it finds.

What an audit, a rebuild and a migration have in common.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

from receiver.archive.base import Inventory, ListedObject, ObjectInfo
from receiver.core.errors import ArchiveError
from receiver.ledger import Ledger
from receiver.operations.checkpoint import Finding, Journal

WAITS = (1.0, 5.0)
"""Seconds before an object is looked at again, of which an archive that does not answer was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What goes through the archive, and with what.

    Attributes:
        ledger: says which job is archived where.
        archive: is gone through.
        journal: how far it is, and what it found.
        hands: objects at a time.
        turn: waits until the next object may be looked at.
        now: the time, ms since the epoch.
        sleep: waits so many seconds.
    """

    ledger: Ledger
    archive: Inventory
    journal: Journal
    hands: int
    turn: Callable[[], Awaitable[None]]
    now: Callable[[], int]
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    async def pages(
        self, told: Callable[[int], None]
    ) -> AsyncIterator[tuple[Sequence[ListedObject], list[ListedObject]]]:
        """Goes on where the journal says, page by page, and keeps how far it is when a page was done.

        Args:
            told: called with how many objects are done.

        Yields:
            All objects of a page, and those of them whose name tells no job that is archived there.

        Raises:
            ArchiveError: the archive cannot be listed.
            LedgerError: the ledger cannot be asked or written.
        """
        journal = self.journal
        async for page in self.archive.entries(journal.place.get("after_object")):
            yield page, await _without_job(self.ledger, page)
            journal.counts["objects"] += len(page)
            journal.place["after_object"] = page[-1].uri
            await journal.save()
            told(journal.counts["objects"])

    async def look(self, look: Callable[[], Awaitable[ObjectInfo]]) -> ObjectInfo:
        """Looks at an object when its turn has come. See `patiently`."""
        await self.turn()
        return await patiently(look, self.sleep)

    def note(self, job_id: str | None, uri: str | None, reason: str, detail: str) -> None:
        """Notes and counts what was found."""
        self.journal.note(finding(job_id, uri, reason, detail))
        self.journal.counts[reason] += 1


def finding(job_id: str | None, uri: str | None, reason: str, detail: str) -> Finding:
    """A line of the journal."""
    return {"job": job_id, "uri": uri, "reason": reason, "detail": detail}


async def be_there(archive: Inventory) -> bool:
    """Lists a first page: of a bucket or a folder that is away, every single object would seem to be lost.

    Returns:
        Whether anything lies there.

    Raises:
        ArchiveError: it is not there, or cannot be listed.
    """
    async for _ in archive.entries():
        return True
    return False


async def patiently(
    look: Callable[[], Awaitable[ObjectInfo]], sleep: Callable[[float], Awaitable[object]]
) -> ObjectInfo:
    """Looks, and where the archive does not answer, looks again after a while.

    Raises:
        ArchiveError: the object is missing, or the archive refuses or does not answer for good.
    """
    for wait in WAITS:
        try:
            return await look()
        except ArchiveError as error:
            if error.reason != "archive.unavailable" or error.pause:
                raise
        await sleep(wait)
    return await look()


async def _without_job(ledger: Ledger, page: Sequence[ListedObject]) -> list[ListedObject]:
    """Those objects whose name tells no job that is archived there.

    An object's key nearly always tells its job, and asking the ledger for that is a thousand times cheaper
    than asking the store; for the others it takes a look at their metadata.
    """
    names = {entry.uri: _ids(entry.uri) for entry in page}
    known = await ledger.archive_uris({name for found in names.values() for name in found})
    return [entry for entry in page if entry.uri not in {known.get(name) for name in names[entry.uri]}]


def _ids(uri: str) -> Collection[str]:
    """What may be the job's id in an address: a part of the path, or its last one without its ending."""
    path = PurePosixPath(unquote(uri) if uri.startswith("file:") else uri)
    return {path.stem, path.name, path.parent.name}
