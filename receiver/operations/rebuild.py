"""The ledger from the archive alone: each object says itself which job it is of."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from receiver.archive import Depth, Entry, Held, labels
from receiver.archive.labels import Shown
from receiver.core.concurrency import map_concurrently
from receiver.core.errors import ArchiveError
from receiver.core.jobs import Stored
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
            jobs = [one for one in seen if isinstance(one, Shown)]
            outcomes = await asyncio.gather(*(self._ledger.rebuild(shown) for shown in jobs))
            for shown, outcome in zip(jobs, outcomes, strict=True):
                self._count(shown, outcome)
            for one in seen:
                if isinstance(one, _Refused):
                    self._walk.note(one.job_id, one.uri, one.reason, one.detail)
        await self._walk.journal.save(finished_at=self._walk.now())

    async def _see(self, entry: Entry) -> "Shown | _Refused | None":
        try:
            held = await self._look(entry, Depth.PROVED)
            shown = labels.read(held)
            if shown is not None and held.sha256 is None:
                held = await self._look(entry, Depth.DEEP)
        except ArchiveError as error:
            if error.reason != "archive.missing":
                raise
            return None  # removed meanwhile
        job_id = held.metadata.get("job-id")
        if shown is None:
            if job_id is None:
                return _Refused(entry.uri, None, "archive.foreign", "It names no job.")
            return _Refused(
                entry.uri, job_id, "archive.mislabelled", "Its metadata are not those of an archived image."
            )
        if held.sha256 != shown.image.sha256:
            detail = f"Its SHA-256 is {held.sha256} instead of {shown.image.sha256}."
            return _Refused(entry.uri, job_id, "archive.altered", detail)
        return shown

    async def _look(self, entry: Entry, depth: Depth) -> Held:
        return await self._walk.look(lambda: self._walk.archive.look(Stored(entry.uri), depth))

    def _count(self, shown: Shown, outcome: Rebuilt) -> None:
        self._counts[outcome] += 1
        if outcome is Rebuilt.DUPLICATE:
            detail = f"Job {shown.id} is archived elsewhere."
            self._walk.note(shown.id, shown.stored.uri, "archive.duplicate", detail)
        elif outcome is Rebuilt.CONFLICT:
            detail = f"The ledger knows another image of job {shown.id}."
            self._walk.note(shown.id, shown.stored.uri, "archive.mislabelled", detail)
