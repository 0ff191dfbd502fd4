"""Every archived job against its object, and every object against the ledger. The archive is only read."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote

from receiver.archive import Depth, Entry, Held, Inventory
from receiver.archive.places import Places
from receiver.errors import ArchiveError
from receiver.hands import each
from receiver.journal import Finding, Journal
from receiver.ledger import Damage, Ledger, Numbered
from receiver.states import Image, Job, State, Stored

PAGE = 500
"""Jobs to a commit, and to a save of how far the audit is."""

WAITS = (1.0, 5.0)
"""Seconds before an object is looked at again, of which an archive that does not answer was asked."""

Told = Callable[[str, int], None]
"""Called with what is gone through (``jobs``, ``objects``) and how many of them are done."""


class Auditor:
    """Goes through the ledger, then through the archive.

    Args:
        ledger: whose jobs are checked; what is found is noted there, and no job is changed.
        archive: is listed for objects without a job.
        places: where objects are looked at, wherever their job says that they lie.
        journal: how far it is, and what it found.
        depth: how closely objects are looked at.
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
        places: Places,
        journal: Journal,
        depth: Depth,
        hands: int,
        turn: Callable[[], Awaitable[None]],
        now: Callable[[], int],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._places = places
        self._journal = journal
        self._depth = depth
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
        await be_there(self._archive)
        if not self._journal.place.get("jobs_done"):
            await self._jobs(told)
        await self._objects(told)
        await self._journal.save(finished_at=self._now())

    # The jobs.

    async def _jobs(self, told: Told) -> None:
        journal = self._journal
        while True:
            told("jobs", journal.counts["jobs"])
            page = await self._ledger.archived_jobs(after=journal.place.get("after_job", 0), limit=PAGE)
            if not page:
                break
            found = await each(page, self._hands, self._check)
            damage = [one for one in found if one is not None]
            broken = {one.seq for one in damage}
            await self._ledger.audited([one.seq for one in page if one.seq not in broken], damage)
            by_seq = {one.seq: one.job for one in page}
            for one in damage:
                job = by_seq[one.seq]
                self._note(job.id, job.stored.uri if job.stored else None, one.reason, one.detail)
            journal.counts["jobs"] += len(page)
            journal.place["after_job"] = page[-1].seq
            await journal.save()
        journal.place["jobs_done"] = True
        await journal.save()

    async def _check(self, numbered: Numbered) -> Damage | None:
        job = numbered.job
        while True:
            found = await self._judge(job)
            if found is None:
                return None
            present = await self._ledger.job(job.id)
            if present is None or present.stored == job.stored:
                return Damage(numbered.seq, *found)
            job = present  # moved to another place meanwhile

    async def _judge(self, job: Job) -> tuple[str, str] | None:
        assert job.stored is not None
        assert job.image is not None
        stored = job.stored
        try:
            held = await self._look(lambda: self._places.look(stored, self._depth))
        except ArchiveError as error:
            if error.reason != "archive.missing":
                raise
            return error.reason, error.detail
        return judge(held, job.id, job.image, stored)

    # The objects.

    async def _objects(self, told: Told) -> None:
        journal = self._journal
        async for page in self._archive.entries(journal.place.get("after_object")):
            strangers = await without_job(self._ledger, page)
            for finding in await each(strangers, self._hands, self._stranger):
                if finding is not None:
                    self._note(*finding)
            journal.counts["objects"] += len(page)
            journal.place["after_object"] = page[-1].uri
            await journal.save()
            told("objects", journal.counts["objects"])

    async def _stranger(self, entry: Entry) -> tuple[str | None, str, str, str] | None:
        """What an object is whose name tells no archived job that lies there."""
        try:
            held = await self._look(lambda: self._archive.look(Stored(entry.uri), Depth.QUICK))
        except ArchiveError as error:
            if error.reason != "archive.missing":
                raise
            return None  # removed meanwhile
        job_id = held.metadata.get("job-id")
        if job_id is None:
            return None, entry.uri, "archive.foreign", "It names no job."
        job = await self._ledger.job(job_id)
        if job is None:
            detail = f"It names job {job_id}, which the ledger does not know; `receiver rebuild` takes it in."
            return job_id, entry.uri, "archive.foreign", detail
        if job.stored is not None and job.state is State.ARCHIVED:
            if job.stored.uri == entry.uri:
                return None
            detail = f"Job {job_id} is archived as {job.stored.uri}."
            return job_id, entry.uri, "archive.duplicate", detail
        if job.state is State.FETCHED:
            return None  # on its way at this moment
        detail = f"It names job {job_id}, which is {job.state}; `receiver rebuild` takes it in."
        return job_id, entry.uri, "archive.foreign", detail

    async def _look(self, look: Callable[[], Awaitable[Held]]) -> Held:
        await self._turn()
        return await patiently(look, self._sleep)

    def _note(self, job_id: str | None, uri: str | None, reason: str, detail: str) -> None:
        self._journal.note(finding(job_id, uri, reason, detail))
        self._journal.counts[reason] += 1


def finding(job_id: str | None, uri: str | None, reason: str, detail: str) -> Finding:
    """A line of the journal."""
    return {"job": job_id, "uri": uri, "reason": reason, "detail": detail}


def judge(held: Held, job_id: str, image: Image, stored: Stored) -> tuple[str, str] | None:
    """Whether an object is the image of its job: ``None``, or a reason and a sentence."""
    kept = held.metadata
    if held.bytes != image.bytes:
        return "archive.altered", f"It has {held.bytes} bytes instead of {image.bytes}."
    if held.sha256 is not None and held.sha256 != image.sha256:
        return "archive.altered", f"Its SHA-256 is {held.sha256} instead of {image.sha256}."
    if held.sha256 is None and not kept.get("sha256"):
        return "archive.unproved", "The store keeps no SHA-256 of it, and its metadata name none; see --deep."
    if held.sha256 is None and stored.etag and held.stored.etag != stored.etag:
        return "archive.unproved", "It was written anew, and the store keeps no SHA-256 of it; see --deep."
    wanted = {
        "job-id": job_id,
        "sha256": image.sha256,
        "width": str(image.width),
        "height": str(image.height),
    }
    wrong = [name for name, value in wanted.items() if kept.get(name) != value]
    if wrong:
        return "archive.mislabelled", f"Its metadata are others than its job's: {', '.join(wrong)}."
    return None


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


async def without_job(ledger: Ledger, page: Sequence[Entry]) -> list[Entry]:
    """Those objects whose name tells no job that is archived there.

    An object's key nearly always tells its job, and asking the ledger for that is a thousand times cheaper
    than asking the store; for the others it takes a look at their metadata.
    """
    names = {entry.uri: _ids(entry.uri) for entry in page}
    known = await ledger.places({name for found in names.values() for name in found})
    return [entry for entry in page if entry.uri not in {known.get(name) for name in names[entry.uri]}]


def _ids(uri: str) -> Collection[str]:
    """What may be the job's id in an address: a part of the path, or its last one without its ending."""
    path = PurePosixPath(unquote(uri) if uri.startswith("file:") else uri)
    return {path.stem, path.name, path.parent.name}


async def patiently(look: Callable[[], Awaitable[Held]], sleep: Callable[[float], Awaitable[object]]) -> Held:
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
