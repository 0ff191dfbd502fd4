"""The ledger from the archive alone: each object says itself which job it is of."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from receiver.archive import metadata
from receiver.archive.base import Depth, ListedObject, ObjectInfo
from receiver.archive.metadata import ArchivedImage
from receiver.core.concurrency import map_concurrently
from receiver.core.errors import ArchiveError
from receiver.core.jobs import StoredObject
from receiver.ledger import Rebuilt
from receiver.operations.archive_scan import Walk

Told = Callable[[int], None]
"""Called with how many objects are done."""


@dataclass(frozen=True, slots=True)
class _Refused:
    """An object of which no job was made."""

    uri: str
    job_id: str | None
    reason: str
    detail: str


class Rebuilder:
    """Goes through the archive and adds to the ledger what it lacks.

    Args:
        walk: through the archive, and the ledger that is added to; what that knows already stands.
    """

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._ledger = walk.ledger
        self._counts = walk.journal.counts

    async def run(self, told: Told) -> None:
        """Goes on where the journal says, to the end.

        Raises:
            ArchiveError: the archive cannot be asked; what was done is kept, and the next run goes on there.
            LedgerError: likewise of the ledger.
        """
        async for page, unknown in self._walk.pages(told):
            self._counts[Rebuilt.KNOWN] += len(page) - len(unknown)
            seen = [
                one for one in await map_concurrently(unknown, self._walk.hands, self._see) if one is not None
            ]
            # In the archive's order, whoever was seen first: of two objects of a job the first is the job's.
            jobs = [one for one in seen if isinstance(one, ArchivedImage)]
            outcomes = await asyncio.gather(*(self._ledger.rebuild(archived) for archived in jobs))
            for archived, outcome in zip(jobs, outcomes, strict=True):
                self._count(archived, outcome)
            for one in seen:
                if isinstance(one, _Refused):
                    self._walk.note(one.job_id, one.uri, one.reason, one.detail)
        await self._walk.journal.save(finished_at=self._walk.now())

    async def _see(self, listed: ListedObject) -> "ArchivedImage | _Refused | None":
        try:
            info = await self._look(listed, Depth.PROVED)
            archived = metadata.read(info)
            if archived is not None and info.sha256 is None:
                info = await self._look(listed, Depth.DEEP)
        except ArchiveError as error:
            if error.reason != "archive.missing":
                raise
            return None  # removed meanwhile
        job_id = info.metadata.get("job-id")
        if archived is None:
            if job_id is None:
                return _Refused(listed.uri, None, "archive.foreign", "It names no job.")
            return _Refused(
                listed.uri, job_id, "archive.mislabelled", "Its metadata are not those of an archived image."
            )
        if info.sha256 != archived.image.sha256:
            detail = f"Its SHA-256 is {info.sha256} instead of {archived.image.sha256}."
            return _Refused(listed.uri, job_id, "archive.altered", detail)
        return archived

    async def _look(self, listed: ListedObject, depth: Depth) -> ObjectInfo:
        return await self._walk.look(lambda: self._walk.archive.inspect(StoredObject(listed.uri), depth))

    def _count(self, archived: ArchivedImage, outcome: Rebuilt) -> None:
        self._counts[outcome] += 1
        if outcome is Rebuilt.DUPLICATE:
            detail = f"Job {archived.id} is archived elsewhere."
            self._walk.note(archived.id, archived.stored.uri, "archive.duplicate", detail)
        elif outcome is Rebuilt.CONFLICT:
            detail = f"The ledger knows another image of job {archived.id}."
            self._walk.note(archived.id, archived.stored.uri, "archive.mislabelled", detail)
