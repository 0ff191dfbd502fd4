"""The audit: every archived job against its object, and every object against the ledger.

The archive is only read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from receiver.archive import metadata
from receiver.archive.base import Depth, ListedObject, ObjectInfo
from receiver.archive.locator import ArchiveLocator
from receiver.core.concurrency import map_concurrently
from receiver.core.errors import ArchiveError
from receiver.core.jobs import Image, State, StoredObject
from receiver.ledger import ArchivedJob, AuditFinding
from receiver.operations.archive_scan import UNREADABLE, ArchiveScan, finding, has_objects
from receiver.operations.checkpoint import Finding

PAGE = 500
"""Jobs in one commit."""

OnProgress = Callable[[str, int], None]
"""Called with what is checked (``jobs``, ``objects``) and how many of them are done."""


@dataclass(frozen=True, slots=True)
class Auditor:
    """Checks the ledger's archived jobs, then the archive's objects. Changes no job.

    ``locator`` inspects the objects, wherever their jobs are archived.
    """

    scan: ArchiveScan
    locator: ArchiveLocator
    depth: Depth

    async def run(self, on_progress: OnProgress) -> None:
        """Continue after the checkpoint, to the end. After an error, the next run continues here."""
        await has_objects(self.scan.archive)  # raises if it is unreachable: every object would look lost
        if not self.scan.checkpoint.position.get("jobs_done"):
            await self._check_jobs(on_progress)
        async for _, unknown in self.scan.pages(partial(on_progress, "objects")):
            for found in await map_concurrently(unknown, self.scan.concurrency, self._check_object):
                if found is not None:
                    self.scan.report(found)
        await self.scan.checkpoint.save(finished=True)

    async def _check_jobs(self, on_progress: OnProgress) -> None:
        counts, position = self.scan.checkpoint.counts, self.scan.checkpoint.position
        while True:
            on_progress("jobs", counts["jobs"])
            page = await self.scan.ledger.archived_jobs(after=position.get("after_job", 0), limit=PAGE)
            if not page:
                break
            found = await map_concurrently(page, self.scan.concurrency, self._check_job)
            sound = [one.seq for one, wrong in zip(page, found, strict=True) if wrong is None]
            await self.scan.ledger.record_audit(sound, [wrong for wrong in found if wrong is not None])
            for one, wrong in zip(page, found, strict=True):
                if wrong is not None:
                    self.scan.report(finding(one.job.id, one.stored.uri, wrong.reason, wrong.detail))
            counts["jobs"] += len(page)
            position["after_job"] = page[-1].seq
            await self.scan.checkpoint.save()
        position["jobs_done"] = True
        await self.scan.checkpoint.save()

    async def _check_job(self, numbered: ArchivedJob) -> AuditFinding | None:
        job_id, stored = numbered.job.id, numbered.stored
        while True:
            try:
                info = await self.scan.inspect(partial(self.locator.inspect, stored, self.depth))
                wrong = mismatch(info, job_id, numbered.image, stored)
            except ArchiveError as error:
                if error.reason not in UNREADABLE:
                    raise
                wrong = error.reason, error.detail
            if wrong is None:
                return None
            present = await self.scan.ledger.job(job_id)
            if present is None or present.stored is None or present.stored == stored:
                return AuditFinding(numbered.seq, *wrong)
            stored = present.stored  # its image was moved meanwhile

    async def _check_object(self, listed: ListedObject) -> Finding | None:
        """Return what is wrong with an object whose key names no job archived there."""
        info = await self.scan.inspect_listed(listed, Depth.QUICK)
        if not isinstance(info, ObjectInfo):
            return info
        job_id = info.metadata.get("job-id")
        if job_id is None:
            return finding(None, listed.uri, "archive.foreign", "It names no job.")
        job = await self.scan.ledger.job(job_id)
        if job is not None and job.state is State.ARCHIVED and job.stored is not None:
            if job.stored.uri == listed.uri:
                return None
            detail = f"Job {job_id} is archived as {job.stored.uri}."
            return finding(job_id, listed.uri, "archive.duplicate", detail)
        if job is not None and job.state is State.FETCHED:
            return None  # being archived at this moment
        what = "the ledger does not know" if job is None else f"is {job.state}"
        detail = f"It names job {job_id}, which {what}; `receiver rebuild` takes it in."
        return finding(job_id, listed.uri, "archive.foreign", detail)


def mismatch(info: ObjectInfo, job_id: str, image: Image, stored: StoredObject) -> tuple[str, str] | None:
    """Return why an object is not the image of its job, as reason and sentence; ``None`` if it is."""
    if info.bytes != image.bytes:
        return "archive.altered", f"It has {info.bytes} bytes instead of {image.bytes}."
    if info.sha256 is not None and info.sha256 != image.sha256:
        return "archive.altered", f"Its SHA-256 is {info.sha256} instead of {image.sha256}."
    if info.sha256 is None and not info.metadata.get("sha256"):
        return "archive.unproved", "The store keeps no SHA-256 of it, and its metadata name none; see --deep."
    if info.sha256 is None and stored.etag and info.stored.etag != stored.etag:
        return "archive.unproved", "It was written anew, and the store keeps no SHA-256 of it; see --deep."
    expected = metadata.of_image(job_id, image)
    wrong = [name for name, value in expected.items() if info.metadata.get(name) != value]
    if wrong:
        return "archive.mislabelled", f"Its metadata are others than its job's: {', '.join(wrong)}."
    return None
