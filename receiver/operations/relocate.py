"""Archives that were moved as a whole: the ledger learns where their images lie now.

A server notices by itself that its archive was moved, once an hour and at its start: the images are gone from
where they lay, and are found under the same keys in the archive that it has now.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from receiver.archive import moved
from receiver.archive.base import Depth, Inventory, ObjectInfo
from receiver.core.concurrency import cancel, map_concurrently, run_forever
from receiver.core.errors import ArchiveError
from receiver.core.jobs import StoredObject
from receiver.ledger import ArchivedJob, Ledger
from receiver.operations.archive_scan import UNREADABLE, finding
from receiver.operations.checkpoint import Finding

log = structlog.get_logger("receiver.archive")

EVERY_SECONDS = 3600.0
RETRY_SECONDS = 60.0
"""Between two rounds, and after one that found the archive away."""

PAGE = 1000
"""Jobs in one commit."""

SAMPLE = 100
"""Images that are looked at before all of a former archive count as moved."""

MISSES = 5
"""Images of other archives that are not found here, after which no further one is looked for."""

GONE = frozenset({"archive.missing", "archive.no_bucket", "archive.denied"})

OnProgress = Callable[[int], None]
"""Called with the number of images done."""


class Inspector(Protocol):
    """Inspects objects of any archive."""

    async def inspect(self, stored: StoredObject, depth: Depth = Depth.PROVED) -> ObjectInfo:
        """See `Inventory.inspect`."""


@dataclass(eq=False)
class Relocator:
    """Records that images lie in the archive now; ``locator`` inspects them where they lay."""

    ledger: Ledger
    archive: Inventory
    locator: Inspector
    _task: asyncio.Task[None] | None = field(default=None, init=False)

    def start(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """Start the hourly rounds; the first begins at once."""

        async def step() -> float:
            try:
                if count := await self.settle():
                    log.info("archive moved", images=count, to=self.archive.uri)
            except ArchiveError:  # the worker's probes report it
                return RETRY_SECONDS
            return EVERY_SECONDS

        self._task = asyncio.create_task(
            run_forever(step, log, retry=RETRY_SECONDS, sleep=sleep), name="relocation"
        )

    async def stop(self) -> None:
        """Stop; a round can be interrupted anywhere."""
        if self._task is not None:
            await cancel([self._task])

    async def settle(self) -> int:
        """Find out whether the archive was moved, and record it. Return how many images were.

        Raises:
            ArchiveError: an archive cannot be read.
            LedgerError: the ledger cannot be read or written.
        """
        own = f"{self.archive.uri}/"
        roots: dict[str, bool] = {}
        misses = after = count = 0
        while misses < MISSES or any(roots.values()):
            page = await self.ledger.archived_jobs(after=after, limit=PAGE, outside=own)
            if not page:
                break
            after = page[-1].seq
            for one in page:
                root = _root_of(one, roots)
                if root is None and misses < MISSES:
                    root = await self._former_root(one)
                    if root is not None:
                        roots[root] = await self._all_moved(root)
                    misses += root is None or not roots[root]
            for root in (root for root, whole in roots.items() if whole):
                count += await _record(self.ledger, self.archive, root, page)
        return count

    async def _former_root(self, one: ArchivedJob) -> str | None:
        """Return the root of the archive from which an image was moved here, if it was."""
        stored, image = one.job.stored, one.job.image
        assert stored is not None
        assert image is not None
        try:
            await self.locator.inspect(stored, Depth.QUICK)
        except ArchiveError as error:
            if error.reason == "archive.unreadable":
                return None
            if error.reason not in GONE:
                raise
            found = await moved.find(self.archive, stored, image)
            return None if found is None else found[0]
        return None

    async def _all_moved(self, root: str) -> bool:
        """Whether a sample of what lay below a root is gone from there, and lies in the archive now."""
        async for one in spread(self.ledger, root, SAMPLE):
            if await self._former_root(one) != root:
                return False
        return True


async def move(
    ledger: Ledger,
    root: str,
    target: Inventory,
    *,
    sample: int | None,
    concurrency: int,
    on_progress: OnProgress,
) -> tuple[int, int, list[Finding]]:
    """Record that what lay below a root lies in the target, if all that is looked at does.

    ``root`` ends with a slash. ``sample`` says how many images are looked at; ``None``: all.

    Returns:
        How many images were looked at, for how many the ledger was changed, and what is wrong. With findings
        nothing is changed.

    Raises:
        ArchiveError: the target cannot be read.
        LedgerError: the ledger cannot be read or written.
    """
    findings: list[Finding] = []

    async def check(one: ArchivedJob) -> None:
        assert one.job.stored is not None
        assert one.job.image is not None
        there = target.object_at(moved.key_below(root, one.job.stored.uri))
        try:
            if not await moved.holds(target, there, one.job.image):
                findings.append(finding(one.job.id, there.uri, "archive.altered", "It holds other bytes."))
        except ArchiveError as error:
            if error.reason not in UNREADABLE:
                raise
            findings.append(finding(one.job.id, there.uri, error.reason, error.detail))

    checked = count = 0
    if sample is None:
        async for page in _pages(ledger, root, target):
            await map_concurrently(page, concurrency, check)
            checked += len(page)
            on_progress(checked)
    else:
        chosen = [one async for one in spread(ledger, root, sample, outside=f"{target.uri}/")]
        await map_concurrently(chosen, concurrency, check)
        checked = len(chosen)
    if not findings:
        async for page in _pages(ledger, root, target):
            count += await _record(ledger, target, root, page)
            on_progress(count)
    return checked, count, findings


async def spread(
    ledger: Ledger, root: str, sample: int, outside: str | None = None
) -> AsyncIterator[ArchivedJob]:
    """Yield jobs whose images lie below a root: the oldest, the newest, and some between them."""
    oldest = await ledger.archived_jobs(after=0, limit=1, inside=root, outside=outside)
    newest = await ledger.archived_jobs(after=0, limit=1, inside=root, outside=outside, newest_first=True)
    if not oldest or not newest:
        return
    yield oldest[0]
    first, last = oldest[0].seq, newest[0].seq
    at = first
    for number in range(1, sample):
        after = max(at, first + (last - first) * number // (sample - 1) - 1)
        if after >= last:
            return
        (one,) = await ledger.archived_jobs(after=after, limit=1, inside=root, outside=outside)
        yield one
        at = one.seq


async def _pages(ledger: Ledger, root: str, target: Inventory) -> AsyncIterator[tuple[ArchivedJob, ...]]:
    after = 0
    while page := await ledger.archived_jobs(after=after, limit=PAGE, inside=root, outside=f"{target.uri}/"):
        yield page
        after = page[-1].seq


async def _record(ledger: Ledger, target: Inventory, root: str, page: tuple[ArchivedJob, ...]) -> int:
    addresses = [
        (one.seq, one.job.stored.uri, target.object_at(moved.key_below(root, one.job.stored.uri)).uri)
        for one in page
        if one.job.stored is not None and one.job.stored.uri.startswith(root)
    ]
    return await ledger.readdress(addresses) if addresses else 0


def _root_of(one: ArchivedJob, roots: dict[str, bool]) -> str | None:
    assert one.job.stored is not None
    uri = one.job.stored.uri
    return next((root for root in roots if uri.startswith(root)), None)
