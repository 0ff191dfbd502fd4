"""The ledger from the archive alone: each object says itself which job it is of."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from receiver import labels
from receiver.archive import Depth, Entry, Held, Inventory
from receiver.audit import finding, patiently, without_job
from receiver.errors import ArchiveError
from receiver.hands import each
from receiver.journal import Journal
from receiver.ledger import Ledger, Rebuilt, Shown
from receiver.states import Stored

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
        ledger: is added to; what it knows already stands.
        archive: is gone through.
        journal: how far it is, and what it could not use.
        hands: objects at a time.
        turn: waits until the next object may be looked at.
        now: the time, ms since the epoch.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        archive: Inventory,
        journal: Journal,
        hands: int,
        turn: Callable[[], Awaitable[None]],
        now: Callable[[], int],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._journal = journal
        self._hands = hands
        self._turn = turn
        self._now = now
        self._sleep = sleep

    async def run(self, told: Told) -> None:
        """Goes on where the journal says, to the end.

        Raises:
            ArchiveError: the archive cannot be asked; what was done is kept, and the next run goes on there.
            LedgerError: likewise of the ledger.
        """
        journal = self._journal
        async for page in self._archive.entries(journal.place.get("after_object")):
            unknown = await without_job(self._ledger, page)
            journal.counts[Rebuilt.KNOWN] += len(page) - len(unknown)
            seen = [one for one in await each(unknown, self._hands, self._see) if one is not None]
            # In the archive's order, whoever was seen first: of two objects of a job the first is the job's.
            jobs = [one for one in seen if isinstance(one, Shown)]
            outcomes = await asyncio.gather(*(self._ledger.rebuild(shown) for shown in jobs))
            for shown, outcome in zip(jobs, outcomes, strict=True):
                self._count(shown, outcome)
            for one in seen:
                if isinstance(one, _Refused):
                    self._note(one.job_id, one.uri, one.reason, one.detail)
            journal.counts["objects"] += len(page)
            journal.place["after_object"] = page[-1].uri
            await journal.save()
            told(journal.counts["objects"])
        await journal.save(finished_at=self._now())

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
        await self._turn()
        return await patiently(lambda: self._archive.look(Stored(entry.uri), depth), self._sleep)

    def _count(self, shown: Shown, outcome: Rebuilt) -> None:
        self._journal.counts[outcome] += 1
        if outcome is Rebuilt.DUPLICATE:
            detail = f"Job {shown.id} is archived elsewhere."
            self._note(shown.id, shown.stored.uri, "archive.duplicate", detail)
        elif outcome is Rebuilt.CONFLICT:
            detail = f"The ledger knows another image of job {shown.id}."
            self._note(shown.id, shown.stored.uri, "archive.mislabelled", detail)

    def _note(self, job_id: str | None, uri: str, reason: str, detail: str) -> None:
        self._journal.note(finding(job_id, uri, reason, detail))
        self._journal.counts[reason] += 1
