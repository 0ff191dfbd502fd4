"""The rebuild: the ledger from the metadata of the archive's objects."""

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
from receiver.operations.archive_scan import ArchiveScan


@dataclass(frozen=True, slots=True)
class _Refused:
    """An object from which no job was rebuilt."""

    uri: str
    job_id: str | None
    reason: str
    detail: str


class Rebuilder:
    """Adds the jobs of the archive's objects to the ledger. Jobs that it knows are not overwritten."""

    def __init__(self, scan: ArchiveScan) -> None:
        self._scan = scan
        self._ledger = scan.ledger
        self._counts = scan.checkpoint.counts

    async def run(self, on_progress: Callable[[int], None]) -> None:
        """Continue after the checkpoint, to the end.

        Args:
            on_progress: called with the number of objects done.

        Raises:
            ArchiveError: the archive cannot be read; the next run continues here.
            LedgerError: the ledger cannot be read or written; the next run continues here.
        """
        async for page, unknown in self._scan.pages(on_progress):
            self._counts[Rebuilt.KNOWN] += len(page) - len(unknown)
            found = await map_concurrently(unknown, self._scan.concurrency, self._read)
            # In the archive's order, whichever was read first: of two objects of a job the first is taken.
            images = [one for one in found if isinstance(one, ArchivedImage)]
            outcomes = await asyncio.gather(*(self._ledger.rebuild(image) for image in images))
            for image, outcome in zip(images, outcomes, strict=True):
                self._count(image, outcome)
            for one in found:
                if isinstance(one, _Refused):
                    self._scan.report(one.job_id, one.uri, one.reason, one.detail)
        await self._scan.checkpoint.save(finished_at=self._scan.now())

    async def _read(self, listed: ListedObject) -> "ArchivedImage | _Refused | None":
        try:
            info = await self._inspect(listed, Depth.PROVED)
            image = metadata.read(info)
            if image is not None and info.sha256 is None:
                info = await self._inspect(listed, Depth.DEEP)
        except ArchiveError as error:
            if error.reason == "archive.unreadable":
                return _Refused(listed.uri, None, error.reason, error.detail)
            if error.reason != "archive.missing":
                raise
            return None  # removed meanwhile
        job_id = info.metadata.get("job-id")
        if image is None:
            if job_id is None:
                return _Refused(listed.uri, None, "archive.foreign", "It names no job.")
            return _Refused(
                listed.uri, job_id, "archive.mislabelled", "Its metadata are not those of an archived image."
            )
        if info.sha256 != image.image.sha256:
            detail = f"Its SHA-256 is {info.sha256} instead of {image.image.sha256}."
            return _Refused(listed.uri, job_id, "archive.altered", detail)
        return image

    async def _inspect(self, listed: ListedObject, depth: Depth) -> ObjectInfo:
        stored = StoredObject(listed.uri)
        return await self._scan.inspect(lambda: self._scan.archive.inspect(stored, depth))

    def _count(self, image: ArchivedImage, outcome: Rebuilt) -> None:
        self._counts[outcome] += 1
        if outcome is Rebuilt.DUPLICATE:
            detail = f"Job {image.id} is archived elsewhere."
            self._scan.report(image.id, image.stored.uri, "archive.duplicate", detail)
        elif outcome is Rebuilt.CONFLICT:
            detail = f"The ledger knows another image of job {image.id}."
            self._scan.report(image.id, image.stored.uri, "archive.mislabelled", detail)
