"""The work behind the ledger: claim → fetch → verify → record, and claim → archive → record.

The two stages meet at the ledger alone. A commit rings, a clock ticks; whatever happened meanwhile (a
restart, a retry from the command line, a crash) is found there and needs no path of its own.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from receiver import schedule
from receiver.archive import Archive, Item, render_key
from receiver.errors import (
    ArchiveError,
    FetchError,
    ImageError,
    LedgerError,
    ReceiverError,
    SpoolError,
    UrlError,
)
from receiver.fetch.fetch import Fetcher
from receiver.gate import Gate
from receiver.ledger import Claim, Ledger
from receiver.spool import Spool, Whole, job_and_sha256
from receiver.stage import Stage
from receiver.states import Image, State
from receiver.verify import Promise, Verifier

log = structlog.get_logger("receiver.worker")

TICK_SECONDS = 1.0
"""The longest that a wait's end or a deadline goes unnoticed."""

TIDY_SECONDS = 30.0
"""The longest that the end of a lease goes unnoticed."""

LEASE_SLACK = timedelta(minutes=5)
"""What a lease lasts beyond the work's own limit, for verifying and recording."""

UPLOAD_LEASE = timedelta(hours=1)

HOPELESS = frozenset(
    {
        "fetch.too_large",
        "image.wrong_size",
        "image.too_many_pixels",
        "image.animated",
        "image.trailing_data",
    }
)
"""Reasons that another download of the same URL would only repeat."""


class _SuspectError(Exception):
    """The bytes that came are not the promised image."""

    def __init__(self, cause: ImageError, sha256: str) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.sha256 = sha256


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the worker works with."""

    ledger: Ledger
    fetcher: Fetcher
    verifier: Verifier
    spool: Spool
    archive: Archive


@dataclass(frozen=True, slots=True)
class Plan:
    """How the worker works.

    Attributes:
        fetches: downloads at a time.
        uploads: uploads at a time.
        fetch_time: the longest that one download may take.
        key: the template of the archive's keys.
        grace: how long work under way may go on after `Worker.stop`.
    """

    fetches: int
    uploads: int
    fetch_time: timedelta
    key: str
    grace: timedelta = timedelta(seconds=4)


class Worker:
    """Runs both stages until it is stopped.

    Args:
        rooms: ledger, fetcher, verifier, spool and archive.
        plan: how many at a time, and how long.
        now: the time, ms since the epoch.
        dice: gives a number in [0, 1), to spread retries.
    """

    def __init__(
        self, rooms: Rooms, plan: Plan, *, now: Callable[[], int], dice: Callable[[], float] = random.random
    ) -> None:
        self._rooms = rooms
        self._plan = plan
        self._now = now
        self._dice = dice
        self._stopping = asyncio.Event()
        self._left_behind: dict[str, str] = {}
        self._stages: list[asyncio.Task[None]] = []
        self._bells: list[asyncio.Task[None]] = []
        self._fetching = Stage("fetch", plan.fetches, self._claim_to_fetch, self._fetch, self._fetch_broke)
        self._archiving = Stage(
            "archive", plan.uploads, self._claim_to_archive, self._archive, self._archive_broke
        )
        self._gate = Gate(rooms.archive, self._archiving.wake.set)
        self._spool_was_full = False

    @property
    def archive_trouble(self) -> ArchiveError | None:
        """Why nothing is uploaded now, if so: what the archive said when it was last tried."""
        return self._gate.trouble

    async def spool_has_room(self) -> bool:
        """Whether the spool takes downloads, those under way aside."""
        return self._rooms.spool.room(await self._rooms.ledger.spool_bytes(), 0) > 0

    def alive(self) -> bool:
        """Whether both stages and the clock are running."""
        tasks = [*self._stages, *self._bells]
        return bool(tasks) and not any(task.done() for task in tasks)

    async def start(self) -> None:
        """Looks through the spool, then begins.

        Raises:
            SpoolError: ``spool.disk``.
            LedgerError: where the ledger cannot be read.
        """
        await self._look_through_spool()
        stages = (self._fetching.run(self._stopping), self._archiving.run(self._stopping))
        self._stages = [asyncio.create_task(run) for run in stages]
        self._bells = [asyncio.create_task(run) for run in (self._listen(), self._tick(), self._gate.keep())]

    async def stop(self) -> None:
        """Begins nothing more, gives what is under way its grace, and returns the rest to the ledger."""
        self._stopping.set()
        self._wake()
        for bell in self._bells:
            bell.cancel()
        # The stages end by themselves: cancelled in the middle of a claim, they would keep it.
        await asyncio.gather(*self._stages, *self._bells, return_exceptions=True)
        left = await asyncio.gather(
            self._fetching.finish(self._plan.grace), self._archiving.finish(self._plan.grace)
        )
        with suppress(LedgerError):  # the next start voids every claim
            for claim in [claim for claims in left for claim in claims]:
                await self._rooms.ledger.release(claim)

    # The first chain.

    async def _claim_to_fetch(self, hands: int) -> list[Claim]:
        room = self._rooms.spool.room(await self._rooms.ledger.spool_bytes(), self._fetching.busy)
        if not room and not self._spool_was_full:
            log.error("spool is full; downloads pause", reason="spool.full")
        self._spool_was_full = not room
        lease = _ms(self._plan.fetch_time + LEASE_SLACK)
        return await self._rooms.ledger.claim_to_fetch(min(hands, room), lease=lease) if room else []

    async def _fetch(self, claim: Claim) -> None:
        """Brings one image from the provider to our disk, verified."""
        ledger, spool, job = self._rooms.ledger, self._rooms.spool, claim.job
        part = spool.part(claim.holder)
        try:
            whole = await self._found_in_spool(job.id) or await self._download(claim, part)
            image = await self._verified(claim, whole)
            name = await spool.keep(whole.path, job.id, image)
            await self._insist(lambda: ledger.fetched(claim, image, name))
            log.info("fetched", job=job.id, bytes=image.bytes, sha256=image.sha256)
        except _SuspectError as suspect:
            await self._suspected(claim, suspect)
        except (UrlError, FetchError, SpoolError) as error:
            await self._not_fetched(claim, error)
        finally:
            await spool.remove(part)

    async def _found_in_spool(self, job_id: str) -> Whole | None:
        """What a crash left whole in the spool before the ledger knew of it."""
        name = self._left_behind.pop(job_id, None)
        if name is None:
            return None
        whole = await self._rooms.spool.check(name)
        if whole is None:
            await self._rooms.spool.remove(self._rooms.spool.path(name))
        return whole

    async def _download(self, claim: Claim, part: Path) -> Whole:
        assert claim.job.image_url is not None
        assert claim.job.deadline is not None
        left = (claim.job.deadline - self._now()) / 1000
        # A job whose time is over before its first attempt is tried all the same: it costs nothing.
        seconds = min(left, self._plan.fetch_time.total_seconds()) if left > 0 else None
        got = await self._rooms.fetcher.fetch(claim.job.image_url, part, seconds=seconds)
        return Whole(got.path, got.bytes, got.sha256)

    async def _verified(self, claim: Claim, whole: Whole) -> Image:
        promise = Promise(claim.job.promised_width, claim.job.promised_height)
        try:
            found = await self._rooms.verifier.verify(whole.path, promise)
        except ImageError as error:
            raise _SuspectError(error, whole.sha256) from error
        return Image(found.format, found.width, found.height, whole.bytes, whole.sha256)

    async def _suspected(self, claim: Claim, suspect: _SuspectError) -> None:
        """Bytes came, but not the promised image. The same bytes twice are no accident of the network."""
        if suspect.cause.reason in HOPELESS or suspect.sha256 == claim.job.suspect:
            await self._reject(claim, suspect.cause)
        else:
            await self._fetch_later(claim, suspect.cause, suspect=suspect.sha256)

    async def _not_fetched(self, claim: Claim, error: UrlError | FetchError | SpoolError) -> None:
        if isinstance(error, UrlError) or error.reason in HOPELESS:
            await self._reject(claim, error)
        else:
            await self._fetch_later(claim, error)

    async def _reject(self, claim: Claim, error: ReceiverError) -> None:
        await self._insist(lambda: self._rooms.ledger.rejected(claim, error))
        log.warning("rejected", job=claim.job.id, reason=error.reason, detail=error.detail)

    async def _fetch_later(self, claim: Claim, error: ReceiverError, *, suspect: str | None = None) -> None:
        job = claim.job
        assert job.deadline is not None
        wait = error.retry_after if isinstance(error, FetchError) else None
        at = schedule.fetch_again_at(self._now(), job.attempts, job.deadline, self._dice, wait)
        await self._insist(lambda: self._rooms.ledger.retry_later(claim, at, error, suspect=suspect))
        log.warning("not fetched", job=job.id, reason=error.reason, detail=error.detail, attempt=job.attempts)

    async def _fetch_broke(self, claim: Claim, bug: Exception) -> None:
        await self._fetch_later(claim, FetchError("fetch.unexpected", f"{type(bug).__name__}: see the log."))

    # The second chain.

    async def _claim_to_archive(self, hands: int) -> list[Claim]:
        if not self._gate.is_open:
            return []
        return await self._rooms.ledger.claim_to_archive(hands, lease=_ms(UPLOAD_LEASE))

    async def _archive(self, claim: Claim) -> None:
        """Brings one image from our disk to the archive, proved."""
        ledger, job = self._rooms.ledger, claim.job
        try:
            stored = await self._rooms.archive.put(self._item(claim))
            self._gate.worked()
            await self._insist(lambda: ledger.archived(claim, stored))
            log.info("archived", job=job.id, uri=stored.uri)
            await self._rooms.spool.remove(self._rooms.spool.path(job.spool or ""))
        except ArchiveError as error:
            await self._not_archived(claim, error)
        except SpoolError as error:
            await self._spool_failed(claim, error)

    def _item(self, claim: Claim) -> Item:
        job = claim.job
        assert job.image is not None
        assert job.spool is not None
        assert job.received_at is not None
        received = datetime.fromtimestamp(job.received_at / 1000, UTC)
        key = render_key(
            self._plan.key,
            job_id=job.id,
            ref=job.ref,
            sha256=job.image.sha256,
            extension=job.image.extension,
            endpoint=job.endpoint or "",
            received_at=received,
        )
        return Item(job.id, self._rooms.spool.path(job.spool), job.image, key, job.ref, received)

    async def _not_archived(self, claim: Claim, error: ArchiveError) -> None:
        self._gate.failed(error)
        at = schedule.upload_again_at(self._now(), claim.job.attempts, self._dice)
        await self._insist(lambda: self._rooms.ledger.retry_later(claim, at, error))
        log.warning("not archived", job=claim.job.id, reason=error.reason, detail=error.detail)

    async def _spool_failed(self, claim: Claim, error: SpoolError) -> None:
        if error.reason == "spool.lost":
            await self._insist(lambda: self._rooms.ledger.spool_lost(claim, error))
        else:
            at = schedule.upload_again_at(self._now(), claim.job.attempts, self._dice)
            await self._insist(lambda: self._rooms.ledger.retry_later(claim, at, error))
        log.error("spool failed", job=claim.job.id, reason=error.reason, detail=error.detail)

    async def _archive_broke(self, claim: Claim, bug: Exception) -> None:
        error = ArchiveError("archive.unexpected", f"{type(bug).__name__}: see the log.")
        await self._not_archived(claim, error)

    # What both need.

    async def _insist(self, verb: Callable[[], Awaitable[bool]]) -> None:
        """Records what was done, however long the ledger cannot be written: the work is not done twice."""
        while True:
            try:
                await verb()
            except LedgerError as error:
                if error.reason == "ledger.stopping":
                    raise
                log.error("ledger cannot be written", reason=error.reason, detail=error.detail)  # noqa: TRY400 - no bug of ours
                await asyncio.sleep(TICK_SECONDS)
            else:
                return

    async def _listen(self) -> None:
        with self._rooms.ledger.changes() as changed:
            while True:
                await changed.wait()
                changed.clear()
                self._wake()

    def _wake(self) -> None:
        self._fetching.wake.set()
        self._archiving.wake.set()

    async def _tick(self) -> None:
        """Ends waits, deadlines and leases in time."""
        loop = asyncio.get_running_loop()
        tidied = loop.time()
        while True:
            wait = TICK_SECONDS
            try:
                due = await self._rooms.ledger.next_event_at()
                if due is not None and due > self._now():
                    wait = min(wait, (due - self._now()) / 1000)
                if (due is not None and due <= self._now()) or loop.time() - tidied > TIDY_SECONDS:
                    await self._tidy()
                    tidied = loop.time()
            except LedgerError as error:
                log.error("ledger cannot be used", reason=error.reason, detail=error.detail)  # noqa: TRY400 - no bug of ours
            self._wake()
            await asyncio.sleep(wait)

    async def _tidy(self) -> None:
        for job_id in await self._rooms.ledger.tidy():
            log.error("expired", job=job_id, reason="fetch.expired")

    async def _look_through_spool(self) -> None:
        """Removes what nobody waits for; remembers what a crash left whole."""
        spool, ledger = self._rooms.spool, self._rooms.ledger
        awaited = await ledger.spool_names()
        for name in await spool.names():
            if name in awaited:
                continue
            parts = job_and_sha256(name)
            job = await ledger.job(parts[0]) if parts is not None else None
            if job is not None and job.state is State.RECEIVED:
                self._left_behind[job.id] = name
            else:
                await spool.remove(spool.path(name))
                log.info("orphan removed from the spool", file=name)


def _ms(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)
