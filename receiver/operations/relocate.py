"""Updates the addresses of images in the ledger after an archive was moved as a whole.

A server looks once, at its start: images are gone from where they lay, and are found under the same keys in
the archive that it has now. `ArchiveLocator` reads them from there meanwhile.
"""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from receiver.archive import moved
from receiver.archive.base import Depth, Inventory
from receiver.archive.locator import ArchiveLocator
from receiver.core.concurrency import map_concurrently, run_forever
from receiver.core.errors import ArchiveError
from receiver.ledger import ArchivedJob, Ledger
from receiver.operations.archive_scan import UNREADABLE, finding
from receiver.operations.checkpoint import Finding

log = structlog.get_logger("receiver.archive")

RETRY_SECONDS = 60.0
"""After an attempt that found the archive away."""

PAGE = 1000
"""Jobs in one commit."""

SAMPLE = 100
"""Images that are looked at before all of a former archive count as moved."""

CONCURRENCY = 8
"""Images that are looked at together where the sample shows that not all were moved."""

GONE = frozenset({"archive.missing", "archive.no_bucket", "archive.denied", "archive.misconfigured"})


@dataclass(eq=False)
class Relocator:
    """Records that images lie in the archive now; ``locator`` inspects them where they lay."""

    ledger: Ledger
    archive: Inventory
    locator: ArchiveLocator

    async def run(self) -> None:
        """Search now, and again until the archives answer. It can be cancelled at any point."""

        async def step() -> float | None:
            try:
                if count := await self.record_moved():
                    log.info("archive moved", images=count, to=self.archive.uri)
            except ArchiveError:  # the worker's probes report it
                return RETRY_SECONDS
            return None

        await run_forever(step, log, retry=RETRY_SECONDS)

    async def record_moved(self) -> int:
        """Find out whether archives were moved here, and record it. Return how many images were."""
        roots: set[str] = set()
        async for archived in spread(self.ledger, "", self.archive):
            if not archived.stored.uri.startswith(tuple(roots)):
                root = await self._former_root(archived)
                roots |= {root} if root is not None else set()
        return sum([await self._follow(root) for root in roots])

    async def _follow(self, root: str) -> int:
        """Record which images of a former archive lie here. One that still lies where it lay stays there."""

        async def is_here(archived: ArchivedJob) -> bool:
            return await self._former_root(archived) == root

        all_here = all([await is_here(one) async for one in spread(self.ledger, root, self.archive)])
        # The former place may only be unreachable: what is not here keeps its address.
        check = None if all_here else partial(map_concurrently, limit=CONCURRENCY, work=is_here)
        return (await _record(self.ledger, root, self.archive, check))[1]

    async def _former_root(self, archived: ArchivedJob) -> str | None:
        """Return from which root an image was moved here; ``None`` if it lies where it lay, or nowhere."""
        try:
            await self.locator.inspect(archived.stored, Depth.QUICK)
        except ArchiveError as error:
            if error.reason == "archive.unreadable":
                return None
            if error.reason not in GONE:
                raise
            found = await moved.find(self.archive, archived.stored, archived.image)
            return None if found is None else found[0]
        return None


async def move(
    ledger: Ledger,
    root: str,
    target: Inventory,
    *,
    check_all: bool,
    concurrency: int,
    on_progress: Callable[[int], None],
) -> tuple[int, int, list[Finding]]:
    """Record that what lay below a root, which ends with a slash, lies in the target.

    A sample is looked at, and nothing is recorded if something is wrong with it. With ``check_all`` each
    image is looked at, and recorded if it is there. ``on_progress`` is called with the number of images done.

    Return how many images were looked at, for how many the ledger was changed, and what is wrong.
    """
    findings: list[Finding] = []

    async def is_there(archived: ArchivedJob) -> bool:
        there = target.object_at(moved.key_below(root, archived.stored.uri))
        reason, detail = "archive.altered", "It holds other bytes."
        try:
            if await moved.holds(target, there, archived.image):
                return True
        except ArchiveError as error:
            if error.reason not in UNREADABLE:
                raise
            reason, detail = error.reason, error.detail
        findings.append(finding(archived.job.id, there.uri, reason, detail))
        return False

    check = partial(map_concurrently, limit=concurrency, work=is_there)
    if check_all:
        return *await _record(ledger, root, target, check, on_progress), findings
    sample = [archived async for archived in spread(ledger, root, target)]
    await check(sample)
    count = 0
    if not findings:
        _, count = await _record(ledger, root, target, None, on_progress)
    return len(sample), count, findings


async def spread(ledger: Ledger, root: str, target: Inventory) -> AsyncIterator[ArchivedJob]:
    """Yield jobs whose images lie below a root, not in the target: the oldest, the newest, some between."""
    outside = f"{target.uri}/"
    oldest = await ledger.archived_jobs(after=0, limit=1, inside=root, outside=outside)
    newest = await ledger.archived_jobs(after=0, limit=1, inside=root, outside=outside, newest_first=True)
    if not oldest or not newest:
        return
    yield oldest[0]
    first, last = oldest[0].seq, newest[0].seq
    at = first
    for number in range(1, SAMPLE):
        after = max(at, first + (last - first) * number // (SAMPLE - 1) - 1)
        if after >= last:
            return
        (archived,) = await ledger.archived_jobs(after=after, limit=1, inside=root, outside=outside)
        yield archived
        at = archived.seq


async def _record(
    ledger: Ledger,
    root: str,
    target: Inventory,
    check: Callable[[Sequence[ArchivedJob]], Awaitable[Sequence[bool]]] | None,
    on_progress: Callable[[int], object] = lambda _: None,
) -> tuple[int, int]:
    """Record that what lay below a root lies in the target: all, or what the check of a page says is there.

    Return how many images there were, and for how many the ledger was changed.
    """
    after = seen = count = 0
    while page := await ledger.archived_jobs(after=after, limit=PAGE, inside=root, outside=f"{target.uri}/"):
        there = page if check is None else itertools.compress(page, await check(page))
        addresses = []
        for archived in there:
            uri = archived.stored.uri
            addresses.append((archived.seq, uri, target.object_at(moved.key_below(root, uri)).uri))
        count += await ledger.readdress(addresses) if addresses else 0
        seen += len(page)
        on_progress(seen)
        after = page[-1].seq
    return seen, count
