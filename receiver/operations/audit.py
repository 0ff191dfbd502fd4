"""Every archived job against its object, and every object against the ledger. The archive is only read."""

from collections.abc import Callable

from receiver.archive.base import Depth, ListedObject, ObjectInfo
from receiver.archive.locator import ArchiveLocator
from receiver.core.concurrency import map_concurrently
from receiver.core.errors import ArchiveError
from receiver.core.jobs import Image, Job, State, StoredObject
from receiver.ledger import ArchivedJob, AuditFinding
from receiver.operations.archive_scan import Walk, be_there

PAGE = 500
"""Jobs to a commit, and to a save of how far the audit is."""

Told = Callable[[str, int], None]
"""Called with what is gone through (``jobs``, ``objects``) and how many of them are done."""


class Auditor:
    """Goes through the ledger, then through the archive.

    Args:
        walk: through the archive, which is listed for objects without a job, and the ledger, where what is
            found is noted and no job is changed.
        places: where objects are looked at, wherever their job says that they lie.
        depth: how closely they are.
    """

    def __init__(self, walk: Walk, places: ArchiveLocator, depth: Depth) -> None:
        self._walk = walk
        self._ledger = walk.ledger
        self._archive = walk.archive
        self._journal = walk.journal
        self._places = places
        self._depth = depth

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
        await self._journal.save(finished_at=self._walk.now())

    # The jobs.

    async def _jobs(self, told: Told) -> None:
        journal = self._journal
        while True:
            told("jobs", journal.counts["jobs"])
            page = await self._ledger.archived_jobs(after=journal.place.get("after_job", 0), limit=PAGE)
            if not page:
                break
            found = await map_concurrently(page, self._walk.hands, self._check)
            damage = [one for one in found if one is not None]
            broken = {one.seq for one in damage}
            await self._ledger.record_audit([one.seq for one in page if one.seq not in broken], damage)
            by_seq = {one.seq: one.job for one in page}
            for one in damage:
                job = by_seq[one.seq]
                self._walk.note(job.id, job.stored.uri if job.stored else None, one.reason, one.detail)
            journal.counts["jobs"] += len(page)
            journal.place["after_job"] = page[-1].seq
            await journal.save()
        journal.place["jobs_done"] = True
        await journal.save()

    async def _check(self, numbered: ArchivedJob) -> AuditFinding | None:
        job = numbered.job
        while True:
            found = await self._judge(job)
            if found is None:
                return None
            present = await self._ledger.job(job.id)
            if present is None or present.stored == job.stored:
                return AuditFinding(numbered.seq, *found)
            job = present  # moved to another place meanwhile

    async def _judge(self, job: Job) -> tuple[str, str] | None:
        assert job.stored is not None
        assert job.image is not None
        stored = job.stored
        try:
            info = await self._walk.look(lambda: self._places.inspect(stored, self._depth))
        except ArchiveError as error:
            if error.reason != "archive.missing":
                raise
            return error.reason, error.detail
        return judge(info, job.id, job.image, stored)

    # The objects.

    async def _objects(self, told: Told) -> None:
        async for _, strangers in self._walk.pages(lambda done: told("objects", done)):
            for found in await map_concurrently(strangers, self._walk.hands, self._stranger):
                if found is not None:
                    self._walk.note(*found)

    async def _stranger(self, listed: ListedObject) -> tuple[str | None, str, str, str] | None:
        """What an object is whose name tells no archived job that lies there."""
        try:
            info = await self._walk.look(lambda: self._archive.inspect(StoredObject(listed.uri), Depth.QUICK))
        except ArchiveError as error:
            if error.reason != "archive.missing":
                raise
            return None  # removed meanwhile
        job_id = info.metadata.get("job-id")
        if job_id is None:
            return None, listed.uri, "archive.foreign", "It names no job."
        job = await self._ledger.job(job_id)
        if job is None:
            detail = f"It names job {job_id}, which the ledger does not know; `receiver rebuild` takes it in."
            return job_id, listed.uri, "archive.foreign", detail
        if job.stored is not None and job.state is State.ARCHIVED:
            if job.stored.uri == listed.uri:
                return None
            detail = f"Job {job_id} is archived as {job.stored.uri}."
            return job_id, listed.uri, "archive.duplicate", detail
        if job.state is State.FETCHED:
            return None  # on its way at this moment
        detail = f"It names job {job_id}, which is {job.state}; `receiver rebuild` takes it in."
        return job_id, listed.uri, "archive.foreign", detail


def judge(info: ObjectInfo, job_id: str, image: Image, stored: StoredObject) -> tuple[str, str] | None:
    """Whether an object is the image of its job: ``None``, or a reason and a sentence."""
    kept = info.metadata
    if info.bytes != image.bytes:
        return "archive.altered", f"It has {info.bytes} bytes instead of {image.bytes}."
    if info.sha256 is not None and info.sha256 != image.sha256:
        return "archive.altered", f"Its SHA-256 is {info.sha256} instead of {image.sha256}."
    if info.sha256 is None and not kept.get("sha256"):
        return "archive.unproved", "The store keeps no SHA-256 of it, and its metadata name none; see --deep."
    if info.sha256 is None and stored.etag and info.stored.etag != stored.etag:
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
