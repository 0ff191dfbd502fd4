"""The migration of archived images from a folder to a bucket, beside a running server.

Each image is put like a fresh upload, proved, and only then recorded at its new place. So the ledger is the
checkpoint, and an interrupted run is simply started again.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

from receiver.archive.base import Depth, Inventory, ListedObject, ObjectInfo, SpooledImage
from receiver.core.concurrency import map_concurrently
from receiver.core.errors import ArchiveError, SpoolError
from receiver.core.jobs import Job, State, StoredObject
from receiver.ledger import ArchivedJob, Ledger
from receiver.operations.archive_scan import finding, has_objects, retry_unavailable
from receiver.operations.audit import mismatch
from receiver.operations.checkpoint import Finding

PAGE = 500

SINGLE_IMAGE_REASONS = frozenset(
    {"archive.missing", "archive.occupied", "archive.unproved", "archive.too_large"}
)
"""Reasons that concern one image; the migration continues with the others."""

RETRY_WAITS = (1.0, 5.0, 20.0)
"""Seconds between attempts to put an image while the archive does not answer."""


@dataclass(kw_only=True, eq=False)
class Migrator:
    """Moves images from a folder to another archive, ``concurrency`` at a time.

    ``throttle`` waits until the next image may be put.
    """

    ledger: Ledger
    source: Inventory
    target: Inventory
    concurrency: int
    throttle: Callable[[], Awaitable[None]]
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    counts: Counter[str] = field(default_factory=Counter, init=False)
    findings: list[Finding] = field(default_factory=list, init=False)

    async def move(self, on_progress: Callable[[int], None]) -> None:
        """Put, prove and record every image of the source in the target. Count those done to ``on_progress``.

        Raise `ArchiveError` if the target accepts nothing.
        """
        await has_objects(self.source)  # raises if it is unreachable: every image would look lost
        after = 0
        while page := await self.ledger.archived_jobs(after=after, limit=PAGE):
            pending = [one for one in page if _lies_in(one.job, self.source)]
            self.counts["elsewhere"] += len(page) - len(pending)
            await map_concurrently(pending, self.concurrency, self._move)
            after = page[-1].seq
            on_progress(sum(self.counts[name] for name in ("elsewhere", "moved", "failed")))

    async def remove(self, on_progress: Callable[[int], None]) -> None:
        """Remove each file of the source whose image is recorded and proved in the target."""
        done = 0
        async for page in self.source.entries():
            await map_concurrently(page, self.concurrency, self._remove)
            done += len(page)
            on_progress(done)

    async def _move(self, numbered: ArchivedJob) -> None:
        job, source = numbered.job, numbered.stored

        async def put() -> StoredObject:
            await self.throttle()
            return await self.target.put(item)

        try:
            item = await self._item(numbered)
            stored = await retry_unavailable(put, self.sleep, RETRY_WAITS)
        except (ArchiveError, SpoolError) as error:
            reason, detail = error.reason, error.detail
            if isinstance(error, SpoolError):  # to the target archive, the source's file is a spool file
                reason = "archive.altered" if error.reason == "spool.lost" else "archive.unavailable"
                detail = f"{source.uri} cannot be read, or does not hold what was archived."
            elif error.reason not in SINGLE_IMAGE_REASONS:
                raise
            self.counts["failed"] += 1
            self.findings.append(finding(job.id, source.uri, reason, detail))
            return
        if await self.ledger.relocated(job.id, source, stored):
            self.counts["moved"] += 1
            self.counts["bytes"] += numbered.image.bytes

    async def _item(self, numbered: ArchivedJob) -> SpooledImage:
        job, image = numbered.job, numbered.image
        path = await self.source.locate(numbered.stored, image)
        assert isinstance(path, Path), "the source is a folder"
        # The key of the folder, whatever RECEIVER_ARCHIVE_KEY is now, so that a second run finds the object.
        key = unquote(numbered.stored.uri.removeprefix(_root(self.source)))
        received = datetime.fromtimestamp((job.received_at or job.updated_at) / 1000, UTC)
        return SpooledImage(job.id, path, image, key, job.ref, received)

    async def _remove(self, listed: ListedObject) -> None:
        if listed.unreadable is not None:
            self.counts["left"] += 1
            self.findings.append(finding(None, listed.uri, "archive.unreadable", listed.unreadable))
            return
        file = StoredObject(listed.uri)
        try:
            info = await self.source.inspect(file, Depth.PROVED)
        except ArchiveError as error:
            if error.reason != "archive.missing":
                raise
            return  # removed meanwhile
        try:
            job = await self.ledger.job(info.metadata.get("job-id", ""))
            if job is None or job.state is not State.ARCHIVED or not _lies_in(job, self.target):
                self.counts["left"] += 1
                return
            assert job.stored is not None
            assert job.image is not None
            wrong = mismatch(info, job.id, job.image, file)
            wrong = wrong or mismatch(await self._inspect(job.stored), job.id, job.image, job.stored)
        except ArchiveError as error:
            if error.reason != "archive.missing":
                raise
            wrong = error.reason, error.detail
        if wrong is not None:
            self.counts["left"] += 1
            self.findings.append(finding(info.metadata.get("job-id"), listed.uri, *wrong))
            return
        await self.source.remove(file)
        self.counts["removed"] += 1

    async def _inspect(self, stored: StoredObject) -> ObjectInfo:
        """Inspect an object of the target, down to its bytes if nothing less proves them."""
        await self.throttle()
        info = await retry_unavailable(lambda: self.target.inspect(stored, Depth.PROVED), self.sleep)
        if info.sha256 is None:
            info = await retry_unavailable(lambda: self.target.inspect(stored, Depth.DEEP), self.sleep)
        return info


def _lies_in(job: Job, archive: Inventory) -> bool:
    return job.stored is not None and job.stored.uri.startswith(_root(archive))


def _root(archive: Inventory) -> str:
    return f"{archive.uri.rstrip('/')}/"
