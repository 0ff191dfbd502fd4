"""Moves archived images from a folder to a bucket, while they are asked for.

Each is put like a fresh upload, proved, and only then recorded at its new place; so the ledger alone says how
far it is, and a run that was cut off anywhere is simply begun again.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

from receiver.archive.base import Depth, Inventory, Item, ListedObject, ObjectInfo
from receiver.core.concurrency import map_concurrently
from receiver.core.errors import ArchiveError, SpoolError
from receiver.core.jobs import Job, State, StoredObject
from receiver.ledger import ArchivedJob, Ledger
from receiver.operations.archive_scan import be_there, finding, patiently
from receiver.operations.audit import judge
from receiver.operations.checkpoint import Finding

PAGE = 500

ABOUT_ONE_IMAGE = frozenset({"archive.missing", "archive.occupied", "archive.unproved", "archive.too_large"})
"""Reasons for which the others go on."""

WAITS = (1.0, 5.0, 20.0)
"""Seconds before an image is put again that the archive did not take just now."""

Told = Callable[[str, int], None]
"""Called with what is done (``images``, ``files``) and how many were gone through."""


class Migrator:
    """Moves what lies in one archive to another.

    Args:
        ledger: says what lies where.
        source: the folder.
        target: where to.
        hands: images at a time.
        turn: waits until the next image may be put.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        source: Inventory,
        target: Inventory,
        hands: int,
        turn: Callable[[], Awaitable[None]],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._source = source
        self._target = target
        self._hands = hands
        self._turn = turn
        self._sleep = sleep
        self.counts: Counter[str] = Counter()
        self.findings: list[Finding] = []

    async def move(self, told: Told) -> None:
        """Copies, proves and records every image that lies in the source.

        Raises:
            ArchiveError: the target does not take anything.
            LedgerError: what was put cannot be recorded.
        """
        await be_there(self._source)
        after = 0
        while page := await self._ledger.archived_jobs(after=after, limit=PAGE):
            waiting = [one for one in page if _is_below(one.job, self._source)]
            self.counts["elsewhere"] += len(page) - len(waiting)
            await map_concurrently(waiting, self._hands, self._move)
            after = page[-1].seq
            told("images", self.counts["elsewhere"] + sum(self.counts[name] for name in ("moved", "failed")))

    async def remove(self, told: Told) -> None:
        """Removes those files from the source whose image is recorded, and now proved, to lie in the target.

        Raises:
            ArchiveError: the target cannot be asked, or a file cannot be removed.
        """
        done = 0
        async for page in self._source.entries():
            await map_concurrently(page, self._hands, self._remove)
            done += len(page)
            told("files", done)

    async def _move(self, numbered: ArchivedJob) -> None:
        job = numbered.job
        assert job.stored is not None
        try:
            stored = await self._put(await self._item(job))
        except (ArchiveError, SpoolError) as error:
            reason, detail = error.reason, error.detail
            if isinstance(error, SpoolError):  # which is what a file that is about to be put is to an archive
                reason = "archive.altered" if error.reason == "spool.lost" else "archive.unavailable"
                detail = f"{job.stored.uri} cannot be read, or does not hold what was archived."
            elif error.reason not in ABOUT_ONE_IMAGE:
                raise
            self.counts["failed"] += 1
            self.findings.append(finding(job.id, job.stored.uri, reason, detail))
            return
        if await self._ledger.relocated(job.id, job.stored, stored):
            self.counts["moved"] += 1
            self.counts["bytes"] += job.image.bytes if job.image else 0

    async def _item(self, job: Job) -> Item:
        assert job.stored is not None
        assert job.image is not None
        path = await self._source.locate(job.stored, job.image)
        assert isinstance(path, Path), "the source is a folder"
        # The same key as in the folder, whatever template is set now: a run that is begun again finds it.
        key = unquote(job.stored.uri.removeprefix(_root(self._source)))
        received = datetime.fromtimestamp((job.received_at or job.updated_at) / 1000, UTC)
        return Item(job.id, path, job.image, key, job.ref, received)

    async def _put(self, item: Item) -> StoredObject:
        for wait in WAITS:
            await self._turn()
            try:
                return await self._target.put(item)
            except ArchiveError as error:
                if error.reason != "archive.unavailable" or error.pause:
                    raise
            await self._sleep(wait)
        return await self._target.put(item)

    async def _remove(self, listed: ListedObject) -> None:
        """Removes one file, if its image lies in the target: as the ledger says, and as both prove."""
        lying = StoredObject(listed.uri)
        try:
            info = await self._source.inspect(lying, Depth.PROVED)
        except ArchiveError as error:
            if error.reason != "archive.missing":
                raise
            return  # removed meanwhile
        try:
            job = await self._ledger.job(info.metadata.get("job-id", ""))
            if job is None or job.state is not State.ARCHIVED or not _is_below(job, self._target):
                self.counts["left"] += 1
                return
            assert job.stored is not None
            assert job.image is not None
            wrong = judge(info, job.id, job.image, lying)
            wrong = wrong or judge(await self._proof(job.stored), job.id, job.image, job.stored)
        except ArchiveError as error:
            if error.reason != "archive.missing":
                raise
            wrong = error.reason, error.detail
        if wrong is not None:
            self.counts["left"] += 1
            self.findings.append(finding(info.metadata.get("job-id"), listed.uri, *wrong))
            return
        await self._source.remove(lying)
        self.counts["removed"] += 1

    async def _proof(self, stored: StoredObject) -> ObjectInfo:
        await self._turn()
        info = await patiently(lambda: self._target.inspect(stored, Depth.PROVED), self._sleep)
        if info.sha256 is None:
            info = await patiently(lambda: self._target.inspect(stored, Depth.DEEP), self._sleep)
        return info


def _is_below(job: Job, archive: Inventory) -> bool:
    return job.stored is not None and job.stored.uri.startswith(_root(archive))


def _root(archive: Inventory) -> str:
    return f"{archive.uri.rstrip('/')}/"
