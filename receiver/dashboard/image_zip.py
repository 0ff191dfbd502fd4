"""Sends archived images as one ZIP of any size.

Each image is read whole, and compared with its SHA-256, before its first byte is sent. What cannot be had is
listed in a text at the end of the ZIP; an answer that ends before that has no directory, and opens nowhere.
"""

import asyncio
import hashlib
import secrets
import shutil
import zlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anyio
import structlog
from anyio import to_thread

from receiver.archive.base import ImageReader
from receiver.archive.key import render_key
from receiver.core.clock import wall_clock
from receiver.core.concurrency import cancel
from receiver.core.disk import spool_errors
from receiver.core.errors import ArchiveError, LedgerError, ReceiverError, SpoolError
from receiver.core.jobs import Image, Job, State
from receiver.dashboard.presenters import visible
from receiver.dashboard.zip_stream import ZipStream
from receiver.ledger import Ledger

log = structlog.get_logger("receiver.page")

AT_A_TIME = 2
"""ZIPs at a time: each reads from the archive all the while, beside the uploads of new images."""

AHEAD = 3
"""Images that are got ready while one is sent; of a bucket, so many lie on this machine's disk."""

MIN_FREE = 512 << 20
"""Bytes of the disk that stay free beside the images of a bucket."""

FAILURES = 3
"""Images in a row that the archive does not give, after which it is not asked for the others."""

OF_ONE_IMAGE = frozenset({"archive.missing", "archive.altered", "archive.unreadable"})
"""Reasons that say nothing about other images."""

MISSING = "MISSING.txt"
_BLOCK = 256 * 1024


class Ready(NamedTuple):
    """An image that can be sent: its name and time in the ZIP, where its bytes are, and their CRC."""

    name: str
    at: int
    path: Path
    size: int
    crc: int


Selection = AsyncGenerator[tuple[str, Job | None]]
"""Ids, each with its job where there is one."""


@dataclass(eq=False)
class ImageZips:
    """Makes the ZIPs; ``scratch`` is a folder for images on their way from a bucket."""

    ledger: Ledger
    archive: ImageReader
    scratch: Path
    min_free: int = MIN_FREE
    _running: int = field(default=0, init=False)

    async def open(self, selected: Selection) -> AsyncGenerator[bytes]:
        """Return the ZIP of the selected images, with a list of those that are missing, piece by piece.

        Raises:
            ArchiveError: ``archive.crowded``: as many are being sent as may be at a time.
            SpoolError: nothing can be written on this machine's disk.
        """
        stream = self._stream(selected)
        await anext(stream)  # once it has begun, its closing always frees its place
        return stream

    async def _stream(self, selected: Selection) -> AsyncGenerator[bytes]:
        if self._running >= AT_A_TIME:
            raise ArchiveError("archive.crowded")
        self._running += 1
        folder = self.scratch / f"zip-{secrets.token_hex(8)}"
        zipped = ZipStream(folder)
        missing, number = folder / MISSING, 0
        try:
            await to_thread.run_sync(_make_room, folder, self.min_free)
            yield b""
            async with aclosing(selected), aclosing(self._got_ready(selected, folder)) as images:
                async for job_id, job, ready in images:
                    if isinstance(ready, ReceiverError):
                        await to_thread.run_sync(_note, missing, job_id, job, ready)
                        number += 1
                        continue
                    async for block in _entry(zipped, ready):
                        yield block
                    if ready.path.parent == folder:
                        await to_thread.run_sync(ready.path.unlink)
            if number:
                log.warning("images are missing in a ZIP", number=number)
                size, crc, _ = await to_thread.run_sync(_read, missing)
                async for block in _entry(zipped, Ready(MISSING, wall_clock(), missing, size, crc)):
                    yield block
            for block in zipped.end():
                yield block
        finally:
            self._running -= 1
            zipped.close()
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))

    async def _got_ready(
        self, selected: Selection, folder: Path
    ) -> AsyncGenerator[tuple[str, Job | None, Ready | ReceiverError]]:
        """Yield each selected image as soon as it and all before it are ready, or cannot be had."""
        waiting: deque[tuple[str, Job | None, asyncio.Task[Ready | ReceiverError]]] = deque()
        failures = 0
        refusal: ReceiverError | None = None

        async def first() -> tuple[str, Job | None, Ready | ReceiverError]:
            nonlocal failures, refusal
            job_id, job, task = waiting.popleft()
            ready = await task
            of_all = isinstance(ready, ArchiveError) and ready.reason not in OF_ONE_IMAGE
            failures = failures + 1 if of_all else 0
            if failures >= FAILURES and isinstance(ready, ArchiveError):
                refusal = refusal or ready
            return job_id, job, ready

        try:
            async for job_id, job in selected:
                task = asyncio.create_task(self._get(job_id, job, folder, refusal))
                waiting.append((job_id, job, task))
                if len(waiting) > AHEAD:
                    yield await first()
            while waiting:
                yield await first()
        finally:
            await cancel(task for _, _, task in waiting)

    async def _get(
        self, job_id: str, job: Job | None, folder: Path, refusal: ReceiverError | None
    ) -> Ready | ReceiverError:
        try:
            if job is None:
                raise LedgerError("ledger.unknown_job")
            if job.state is not State.ARCHIVED or job.stored is None or job.image is None:
                raise LedgerError("ledger.wrong_state", f"It is {job.state}, and not archived.")
            if refusal is not None:
                return ArchiveError(refusal.reason, f"Not tried any more. {refusal.detail}")
            await to_thread.run_sync(_make_room, folder, job.image.bytes + self.min_free)
            target = folder / secrets.token_hex(8)
            try:
                path = await self.archive.local_file(job.stored, job.image, target)
            except ArchiveError:
                moved = await self.ledger.job(job_id)  # such as by `receiver archive-migrate`, just now
                if moved is None or moved.stored is None or moved.stored == job.stored:
                    raise
                path = await self.archive.local_file(moved.stored, job.image, target)
            crc = await to_thread.run_sync(_checked, path, job.image)
            at = job.archived_at or job.updated_at
            return Ready(name_of(job, job.image), at, path, job.image.bytes, crc)
        except ReceiverError as error:
            return error


def _note(missing: Path, job_id: str, job: Job | None, error: ReceiverError) -> None:
    """Add a line to the list of the images that are not in a ZIP. Blocks."""
    columns = (job_id, job.ref or "" if job else "", error.reason, error.detail)
    line = "\t".join(visible(column).replace("\n", " ").replace("\t", " ") for column in columns)
    with missing.open("a", encoding="utf-8", newline="\n") as file:
        if not file.tell():
            file.write("These images were selected, and are not in this ZIP: id, reference, reason.\n\n")
        file.write(f"{line}\n")


def _make_room(folder: Path, size: int) -> None:
    with spool_errors():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < size:
            raise SpoolError("spool.full", "This machine's disk has no room to bring it from the archive.")


def name_of(job: Job, image: Image) -> str:
    """Return an image's name within a ZIP, which no other job has: its day, its provider and its id.

    Windows and macOS take names for the same that differ in case alone.
    """
    received = datetime.fromtimestamp((job.received_at or job.updated_at) / 1000, UTC)
    key = render_key("{received:%Y-%m-%d}/{id}", job, image, received)
    if key != key.lower() and "!" not in key:  # which stands before a digest already, and in no id
        key += f"!{hashlib.sha256(job.id.encode()).hexdigest()[:32]}"
    return f"{key.replace(':', '/')}.{image.extension}"  # no name on Windows and no bare id has a colon


def _checked(path: Path, image: Image) -> int:
    """Return the CRC of a file that holds exactly an image's bytes. Blocks."""
    try:
        size, crc, sha256 = _read(path)
    except OSError as error:
        raise ArchiveError("archive.unreadable", f"It cannot be read: {error.strerror}.") from error
    if (size, sha256) != (image.bytes, image.sha256):
        raise ArchiveError("archive.altered")
    return crc


def _read(path: Path) -> tuple[int, int, str]:
    """Return a file's size, its CRC and its SHA-256. Blocks."""
    crc, size, digest = 0, 0, hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            crc, size = zlib.crc32(block, crc), size + len(block)
            digest.update(block)
    return size, crc, digest.hexdigest()


async def _entry(zipped: ZipStream, ready: Ready) -> AsyncIterator[bytes]:
    yield await to_thread.run_sync(
        partial(zipped.entry, ready.name, size=ready.size, crc=ready.crc, at=ready.at)
    )
    left = ready.size
    async with await anyio.open_file(ready.path, "rb") as file:
        while block := await file.read(_BLOCK):
            left -= len(block)
            yield block
    if left:
        # This ends the answer, which then has no directory.
        raise RuntimeError(f"{ready.path.name} changed while it was sent")
