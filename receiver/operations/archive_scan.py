"""A scan of an archive: page after page of its objects, with a checkpoint of what was found."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar
from urllib.parse import unquote

from receiver.archive.base import Depth, Inventory, ListedObject, ObjectInfo
from receiver.core.errors import ArchiveError
from receiver.core.jobs import StoredObject
from receiver.ledger import Ledger
from receiver.operations.checkpoint import Checkpoint, Finding

T = TypeVar("T")

RETRY_WAITS = (1.0, 5.0)
"""Seconds between attempts to inspect an object while the archive does not answer."""

UNREADABLE = frozenset({"archive.missing", "archive.unreadable"})
"""Reasons for which an object cannot be inspected, and others can."""


@dataclass(frozen=True, slots=True)
class ArchiveScan:
    """An archive, the ledger it is compared with, and how to go through it.

    Attributes:
        concurrency: objects at a time.
        throttle: waits until the next object may be inspected.
    """

    ledger: Ledger
    archive: Inventory
    checkpoint: Checkpoint
    concurrency: int
    throttle: Callable[[], Awaitable[None]]
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    async def pages(
        self, on_progress: Callable[[int], None]
    ) -> AsyncIterator[tuple[Sequence[ListedObject], list[ListedObject]]]:
        """Continue the listing after the checkpoint, which is saved after each page.

        Yield all objects of a page that can be read, and those among them that `_unknown` returns. What
        cannot be read is reported. ``on_progress`` is called with the number of objects done.
        """
        checkpoint = self.checkpoint
        async for page in self.archive.entries(checkpoint.position.get("after_object")):
            for listed in page:
                if listed.unreadable is not None:
                    self.report(finding(None, listed.uri, "archive.unreadable", listed.unreadable))
            readable = [listed for listed in page if listed.unreadable is None]
            yield readable, await _unknown(self.ledger, readable)
            checkpoint.counts["objects"] += len(page)
            checkpoint.position["after_object"] = page[-1].uri
            await checkpoint.save()
            on_progress(checkpoint.counts["objects"])

    async def inspect(self, inspect: Callable[[], Awaitable[ObjectInfo]]) -> ObjectInfo:
        """Inspect an object within the rate limit."""
        await self.throttle()
        return await retry_unavailable(inspect, self.sleep)

    async def inspect_listed(self, listed: ListedObject, depth: Depth) -> ObjectInfo | Finding | None:
        """Inspect an object of a page. Return a finding if it is unreadable, ``None`` if it is gone."""
        try:
            return await self.inspect(lambda: self.archive.inspect(StoredObject(listed.uri), depth))
        except ArchiveError as error:
            if error.reason not in UNREADABLE:
                raise
            gone = error.reason == "archive.missing"
            return None if gone else finding(None, listed.uri, error.reason, error.detail)

    def report(self, found: Finding) -> None:
        self.checkpoint.add(found)
        self.checkpoint.counts[found["reason"]] += 1


def finding(job_id: str | None, uri: str | None, reason: str, detail: str) -> Finding:
    return {"job": job_id, "uri": uri, "reason": reason, "detail": detail}


async def has_objects(archive: Inventory) -> bool:
    """Return whether an archive has an object. Raise `ArchiveError` if it is missing, or cannot be listed."""
    async for _ in archive.entries():
        return True
    return False


async def retry_unavailable(
    step: Callable[[], Awaitable[T]],
    sleep: Callable[[float], Awaitable[object]],
    waits: Sequence[float] = RETRY_WAITS,
) -> T:
    """Do a step; if the archive does not answer, repeat it after each of the waits."""
    for seconds in waits:
        try:
            return await step()
        except ArchiveError as error:
            if error.reason != "archive.unavailable" or error.permanent:
                raise
        await sleep(seconds)
    return await step()


async def _unknown(ledger: Ledger, page: Sequence[ListedObject]) -> list[ListedObject]:
    """Return the objects whose key does not name a job that is archived at that key.

    The key nearly always names the job, and asking the ledger is a thousand times cheaper than asking the
    store. Only the metadata of the returned objects have to be read.
    """
    ids = {entry.uri: _possible_ids(entry.uri) for entry in page}
    known = await ledger.archive_uris({job_id for found in ids.values() for job_id in found})
    return [entry for entry in page if entry.uri not in {known.get(job_id) for job_id in ids[entry.uri]}]


def _possible_ids(uri: str) -> Collection[str]:
    """Return what may be a job's id in a URI: its last part with and without suffix, and the part before."""
    path = PurePosixPath(unquote(uri) if uri.startswith("file:") else uri)
    return {path.stem, path.name, path.parent.name}
