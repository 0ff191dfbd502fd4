"""The rebuild: the ledger from the metadata of the archive's objects."""

import asyncio
from collections.abc import Callable
from functools import partial

from receiver.archive import metadata
from receiver.archive.base import Depth, ListedObject, ObjectInfo
from receiver.archive.metadata import ArchivedImage
from receiver.core.concurrency import map_concurrently
from receiver.ledger import Rebuilt
from receiver.operations.archive_scan import ArchiveScan, finding
from receiver.operations.checkpoint import Finding


async def rebuild(scan: ArchiveScan, on_progress: Callable[[int], None]) -> None:
    """Add the jobs of the archive's objects to the ledger. Jobs that it knows are not overwritten.

    It continues after the checkpoint, to the end, and after an error so does the next run. ``on_progress`` is
    called with the objects done.
    """
    counts = scan.checkpoint.counts
    async for page, unknown in scan.pages(on_progress):
        counts[Rebuilt.KNOWN] += len(page) - len(unknown)
        found = await map_concurrently(unknown, scan.concurrency, partial(_read, scan))
        # In the archive's order, whichever was read first: of two objects of a job the first is taken.
        images = [one for one in found if isinstance(one, ArchivedImage)]
        outcomes = await asyncio.gather(*(scan.ledger.rebuild(image) for image in images))
        for image, outcome in zip(images, outcomes, strict=True):
            counts[outcome] += 1
            where = image.id, image.stored.uri
            if outcome is Rebuilt.DUPLICATE:
                detail = f"Job {image.id} is archived elsewhere."
                scan.report(finding(*where, "archive.duplicate", detail))
            elif outcome is Rebuilt.CONFLICT:
                detail = f"The ledger knows another image of job {image.id}."
                scan.report(finding(*where, "archive.mislabelled", detail))
        for wrong in (one for one in found if isinstance(one, dict)):
            scan.report(wrong)
    await scan.checkpoint.save(finished=True)


async def _read(scan: ArchiveScan, listed: ListedObject) -> ArchivedImage | Finding | None:
    """Return the image that an object holds, or why no job can be rebuilt from it."""
    info = await scan.inspect_listed(listed, Depth.PROVED)
    if not isinstance(info, ObjectInfo):
        return info
    job_id, image = info.metadata.get("job-id"), metadata.read(info)
    if image is None and job_id is None:
        return finding(None, listed.uri, "archive.foreign", "It names no job.")
    if image is None:
        detail = "Its metadata are not those of an archived image."
        return finding(job_id, listed.uri, "archive.mislabelled", detail)
    if info.sha256 is None:
        info = await scan.inspect_listed(listed, Depth.DEEP)
        if not isinstance(info, ObjectInfo):
            return info
    if info.sha256 != image.image.sha256:
        detail = f"Its SHA-256 is {info.sha256} instead of {image.image.sha256}."
        return finding(job_id, listed.uri, "archive.altered", detail)
    return image
