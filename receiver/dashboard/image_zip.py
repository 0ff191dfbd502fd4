"""Sends archived images as one ZIP of any size.

Each image is read whole, and compared with its SHA-256, before its first byte is sent. What cannot be had is
listed in a text at the end of the ZIP; an answer that ends before that has no directory, and opens nowhere.
"""

import asyncio
import hashlib
import secrets
import shutil
import tempfile
import zlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

import anyio
import structlog
from anyio import to_thread

from receiver.archive.base import ImageReader
from receiver.archive.key import render_key
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
    """An image that can be sent: its name in the ZIP, where its bytes are, and their CRC.

    ``content`` is the whole of a small one, which need not be read again.
    """

    name: str
    size: int
    at: int
    path: Path
    crc: int
    content: bytes


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
        if self._running >= AT_A_TIME:
            raise ArchiveError("archive.crowded")
        folder = self.scratch / f"zip-{secrets.token_hex(8)}"
        await to_thread.run_sync(_make_room, folder, self.min_free)
        return self._stream(selected, folder)

    async def _stream(self, selected: Selection, folder: Path) -> AsyncGenerator[bytes]:
        self._running += 1
        zipped, missing = ZipStream(folder), _Missing(folder)
        try:
            async with aclosing(selected), aclosing(self._got_ready(selected, folder)) as images:
                async for job_id, job, ready in images:
                    if isinstance(ready, ReceiverError):
                        await to_thread.run_sync(missing.add, job_id, job, ready)
                        continue
                    yield await to_thread.run_sync(_head, zipped, ready)
                    if ready.content:
                        yield ready.content
                    else:
                        async for block in _blocks(ready.path, ready.size):
                            yield block
                    if ready.path.parent == folder:
                        await to_thread.run_sync(ready.path.unlink)
            if missing.number:
                log.warning("images are missing in a ZIP", number=missing.number)
                text, size, crc = missing.whole()
                yield zipped.entry(MISSING, size=size, crc=crc, at=missing.at)
                while block := await to_thread.run_sync(text.read, _BLOCK):
                    yield block
            for block in zipped.end():
                yield block
        finally:
            self._running -= 1
            zipped.close()
            missing.close()
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))

    async def _got_ready(
        self, selected: Selection, folder: Path
    ) -> AsyncGenerator[tuple[str, Job | None, Ready | ReceiverError]]:
        """Yield each selected image as soon as it and all before it are ready, or cannot be had."""
        waiting: deque[tuple[str, Job | None, asyncio.Task[Ready | ReceiverError]]] = deque()
        failures, more = 0, True
        refusal: ReceiverError | None = None
        try:
            while more or waiting:
                while more and len(waiting) <= AHEAD:
                    try:
                        job_id, job = await anext(selected)
                    except StopAsyncIteration:
                        more = False
                        break
                    waiting.append(
                        (job_id, job, asyncio.create_task(self._get(job_id, job, folder, refusal)))
                    )
                if waiting:
                    job_id, job, task = waiting.popleft()
                    ready = await task
                    of_all = isinstance(ready, ArchiveError) and ready.reason not in OF_ONE_IMAGE
                    failures = failures + 1 if of_all else 0
                    if failures >= FAILURES and isinstance(ready, ArchiveError):
                        refusal = ready
                    yield job_id, job, ready
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
            crc, content = await to_thread.run_sync(_checked, path, job.image)
            at = job.archived_at or job.updated_at
            return Ready(name_of(job, job.image), job.image.bytes, at, path, crc, content)
        except ReceiverError as error:
            return error


class _Missing:
    """The list of the images that are not in a ZIP; in a file, since it may be of all of them."""

    def __init__(self, folder: Path) -> None:
        self._file: BinaryIO = tempfile.SpooledTemporaryFile(1 << 20, dir=str(folder))  # type: ignore[assignment]  # noqa: SIM115
        self._crc = 0
        self.number = 0
        self.at = int(datetime.now(UTC).timestamp() * 1000)

    def add(self, job_id: str, job: Job | None, error: ReceiverError) -> None:
        """Add a line. Blocks."""
        if not self.number:
            self._write("These images were selected, and are not in this ZIP: id, reference, reason.\n\n")
        self.number += 1
        reason, detail = (error.reason, error.detail) if isinstance(error, ReceiverError) else ("", "")
        columns = (job_id, job.ref or "" if job else "", reason, detail)
        self._write(
            "\t".join(visible(column).replace("\n", " ").replace("\t", " ") for column in columns) + "\n"
        )

    def whole(self) -> tuple[BinaryIO, int, int]:
        """Return the list to be read, its bytes and its CRC."""
        size = self._file.tell()
        self._file.seek(0)
        return self._file, size, self._crc

    def close(self) -> None:
        self._file.close()

    def _write(self, text: str) -> None:
        raw = text.encode()
        self._crc = zlib.crc32(raw, self._crc)
        self._file.write(raw)


def _make_room(folder: Path, size: int) -> None:
    with spool_errors():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < size:
            raise SpoolError("spool.full", "This machine's disk has no room to bring it from the archive.")


def _head(zipped: ZipStream, ready: Ready) -> bytes:
    return zipped.entry(ready.name, size=ready.size, crc=ready.crc, at=ready.at)


def name_of(job: Job, image: Image) -> str:
    """Return an image's name within a ZIP, which no other job has: its day, its provider and its id."""
    received = datetime.fromtimestamp((job.received_at or job.updated_at) / 1000, UTC)
    key = render_key("{received:%Y-%m-%d}/{id}.{ext}", job, image, received)
    return key.replace(":", "/")  # which Windows takes in no name, and no bare id holds


def _checked(path: Path, image: Image) -> tuple[int, bytes]:
    """Return the CRC of a file that holds exactly an image's bytes, and the bytes of a small one. Blocks."""
    crc, size, digest, block = 0, 0, hashlib.sha256(), b""
    try:
        with path.open("rb") as file:
            while more := file.read(_BLOCK):
                block, crc, size = more, zlib.crc32(more, crc), size + len(more)
                digest.update(block)
    except OSError as error:
        raise ArchiveError("archive.unreadable", f"It cannot be read: {error.strerror}.") from error
    if (size, digest.hexdigest()) != (image.bytes, image.sha256):
        raise ArchiveError("archive.altered")
    return crc, block if len(block) == size else b""


async def _blocks(path: Path, size: int) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        while block := await file.read(_BLOCK):
            size -= len(block)
            yield block
    if size:
        raise RuntimeError(f"{path.name} changed while it was sent")  # ends the answer, which then has no end
