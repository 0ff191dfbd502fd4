"""Thumbnails of archived images: made at the first request, and kept in a folder of bounded size."""

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog
from anyio import to_thread

from receiver.archive.base import ImageReader
from receiver.core.concurrency import cancel
from receiver.core.errors import ArchiveError, ImageError, ReceiverError, SpoolError
from receiver.core.jobs import Image, Job, State
from receiver.verify.verifier import Verifier

log = structlog.get_logger("receiver.page")

SIDE = 320
"""The most pixels that a thumbnail is wide and high."""

THUMBNAIL_MEMORY = 1 << 30
"""Bytes that the decoding of one image may take; larger images have no thumbnail."""

MAX_SOURCE_BYTES = 64 << 20
"""Larger images have no thumbnail: they may have to be downloaded from the bucket."""

MAX_FILES = 2_000
"""Of some 10 KB each. Beyond them the oldest tenth is removed."""

MIN_FREE = 512 << 20
"""Bytes of the disk that stay free: the ledger and images with a deadline need them more."""

MAX_WAITING = 100
"""Thumbnails that may wait to be made; a request for one more gets none."""

WAIT_SECONDS = 3.0
"""How long a request waits for a thumbnail to be made. A browser opens six connections to a host: where an
archive hangs, they must not all wait for it, or the page could not be loaded either."""

RETRY_SECONDS = 300.0
"""Until a thumbnail that could not be made is tried again."""


class Thumbnails:
    """Makes and keeps the thumbnails.

    They are made one after the other, in a child process like every decoding, so that the dashboard takes at
    most one core and never delays a webhook.

    Args:
        folder: where they are kept; made when first needed.
        archive: where images are read.
        verifier: decodes; not the one that decodes images with a deadline.
        max_files: how many are kept.
        min_free: bytes of the disk; with less, none are made.
        wait: seconds that a request waits; the thumbnail is still made, for the next request.
        monotonic: seconds.
    """

    def __init__(
        self,
        folder: Path,
        archive: ImageReader,
        verifier: Verifier,
        *,
        max_files: int = MAX_FILES,
        min_free: int = MIN_FREE,
        wait: float = WAIT_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._archive = archive
        self._verifier = verifier
        self._max_files = max_files
        self._min_free = min_free
        self._wait = wait
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._tasks: dict[str, asyncio.Task[bytes | None]] = {}
        self._failed_at: dict[str, float] = {}

    async def of(self, job: Job) -> bytes | None:
        """Return the thumbnail of an archived job, as WebP; ``None`` where there is none, or none yet."""
        if job.state is not State.ARCHIVED or job.stored is None or job.image is None:
            return None
        digest = job.image.sha256
        path = self._folder / f"{digest}.webp"
        if (kept := await to_thread.run_sync(_read, path)) is not None:
            return kept
        if job.image.bytes > MAX_SOURCE_BYTES or self._failed_lately(digest):
            return None
        task = self._tasks.get(digest)
        if task is None:
            if len(self._tasks) >= MAX_WAITING:
                return None
            task = asyncio.create_task(self._in_turn(job, job.image, path), name="thumbnail")
            self._tasks[digest] = task
            task.add_done_callback(lambda _: self._tasks.pop(digest))
        await asyncio.wait([task], timeout=self._wait)
        return task.result() if task.done() and not task.cancelled() else None

    async def aclose(self) -> None:
        """End what is under way."""
        await cancel(self._tasks.values())

    async def _in_turn(self, job: Job, image: Image, path: Path) -> bytes | None:
        async with self._lock:
            try:
                return await self._make(job, image, path)
            except Exception:
                log.exception("unexpected error", job=job.id)  # a bug costs only the thumbnail
                return None

    async def _make(self, job: Job, image: Image, path: Path) -> bytes | None:
        assert job.stored is not None
        name = secrets.token_hex(8)
        scratch, part = self._folder / f"{name}.image", self._folder / f"{name}.part"
        try:
            await to_thread.run_sync(self._prepare)
            source = await self._archive.local_file(job.stored, image, scratch)
            await self._verifier.thumbnail(source, part, SIDE)
            return await to_thread.run_sync(lambda: part.replace(path).read_bytes())
        except (ArchiveError, ImageError, SpoolError) as error:
            self._note_failure(job, image.sha256, error)
            return None
        except OSError as error:
            self._note_failure(job, image.sha256, SpoolError("spool.disk", f"{error.strerror}."))
            return None
        finally:
            await to_thread.run_sync(_remove, scratch, part)

    def _prepare(self) -> None:
        """Make the folder, and room in it. Blocks."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if shutil.disk_usage(self._folder).free < self._min_free:
            raise SpoolError("spool.full", "The disk has no room for small pictures.")
        with os.scandir(self._folder) as entries:
            kept = sorted(entries, key=lambda entry: entry.stat().st_mtime)
        # The oldest go first; files that a crash left behind are among them.
        if len(kept) >= self._max_files:
            for entry in kept[: len(kept) - self._max_files + self._max_files // 10 + 1]:
                _remove(Path(entry.path))

    def _failed_lately(self, digest: str) -> bool:
        at = self._failed_at.get(digest)
        return at is not None and self._monotonic() - at < RETRY_SECONDS

    def _note_failure(self, job: Job, digest: str, error: ReceiverError) -> None:
        log.info("no thumbnail", job=job.id, reason=error.reason, detail=error.detail)
        if len(self._failed_at) >= self._max_files:
            self._failed_at.clear()
        self._failed_at[digest] = self._monotonic()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)
