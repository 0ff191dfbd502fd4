"""Thumbnails of archived images: made at the first request, and kept in a folder of bounded size."""

import asyncio
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import structlog
from anyio import to_thread

from receiver.archive.base import ImageReader
from receiver.core.concurrency import cancel
from receiver.core.disk import spool_errors
from receiver.core.errors import ArchiveError, ImageError, SpoolError
from receiver.core.jobs import Image, Job, State, StoredObject
from receiver.verify.verifier import Verifier

log = structlog.get_logger("receiver.page")

SIDE = 320
"""The most pixels that a thumbnail is wide and high."""

PREVIEW_SIDE = 2_400
"""Pixels of what is compared with a source."""

MAX_PREVIEWS = 200
"""Files of some hundred KB each."""

PREVIEW_WAIT_SECONDS = 10.0
"""A job's page shows only one of them, and it takes some seconds to make."""

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


@dataclass(eq=False)
class Thumbnails:
    """Makes and keeps the thumbnails.

    They are made one after the other, in a child process like every decoding, so that the dashboard takes at
    most one core and never delays a webhook.

    Attributes:
        folder: where they are kept; made when first needed.
        verifier: decodes; not the one that decodes images with a deadline.
        side: the most pixels that one is wide and high.
        min_free: bytes of the disk; with less, none are made.
        wait: seconds that a request waits; the thumbnail is still made, for the next request.
    """

    folder: Path
    archive: ImageReader
    verifier: Verifier
    side: int = SIDE
    max_files: int = MAX_FILES
    min_free: int = MIN_FREE
    wait: float = WAIT_SECONDS
    monotonic: Callable[[], float] = time.monotonic
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _tasks: dict[str, asyncio.Task[bytes | None]] = field(default_factory=dict, init=False)
    _failed_at: dict[str, float] = field(default_factory=dict, init=False)

    @classmethod
    def for_comparison(cls, folder: Path, archive: ImageReader, verifier: Verifier) -> Self:
        """Make larger ones, of which fewer are kept."""
        return cls(
            folder,
            archive,
            verifier,
            side=PREVIEW_SIDE,
            max_files=MAX_PREVIEWS,
            wait=PREVIEW_WAIT_SECONDS,
        )

    async def of(self, job: Job) -> bytes | None:
        """Return the thumbnail of an archived job, as WebP; ``None`` where there is none, or none yet."""
        if job.state is not State.ARCHIVED or job.stored is None or job.image is None:
            return None
        digest = job.image.sha256
        path = self.folder / f"{digest}.webp"
        if (kept := await to_thread.run_sync(_read, path)) is not None:
            return kept
        failed_at = self._failed_at.get(digest, -math.inf)
        if job.image.bytes > MAX_SOURCE_BYTES or self.monotonic() - failed_at < RETRY_SECONDS:
            return None
        task = self._tasks.get(digest)
        if task is None:
            if len(self._tasks) >= MAX_WAITING:
                return None
            task = asyncio.create_task(self._make(job, job.stored, job.image, path), name="thumbnail")
            self._tasks[digest] = task
            task.add_done_callback(lambda _: self._tasks.pop(digest))
        await asyncio.wait([task], timeout=self.wait)
        return task.result() if task.done() and not task.cancelled() else None

    async def aclose(self) -> None:
        await cancel(self._tasks.values())

    async def _make(self, job: Job, stored: StoredObject, image: Image, path: Path) -> bytes | None:
        name = secrets.token_hex(8)
        scratch, part = self.folder / f"{name}.image", self.folder / f"{name}.part"
        async with self._lock:
            try:
                with spool_errors():
                    await to_thread.run_sync(self._prepare)
                    source = await self.archive.local_file(stored, image, scratch)
                    await self.verifier.thumbnail(source, part, self.side)
                    return await to_thread.run_sync(lambda: part.replace(path).read_bytes())
            except (ArchiveError, ImageError, SpoolError) as error:
                log.info("no thumbnail", job=job.id, reason=error.reason, detail=error.detail)
                if len(self._failed_at) >= self.max_files:
                    self._failed_at.clear()
                self._failed_at[image.sha256] = self.monotonic()
            except Exception:
                log.exception("unexpected error", job=job.id)  # a bug costs only the thumbnail
            finally:
                await to_thread.run_sync(_remove, scratch, part)
        return None

    def _prepare(self) -> None:
        """Make the folder, and room in it. Blocks."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if shutil.disk_usage(self.folder).free < self.min_free:
            raise SpoolError("spool.full", "The disk has no room for small pictures.")
        with os.scandir(self.folder) as entries:
            kept = sorted(entries, key=lambda entry: entry.stat().st_mtime)
        # The oldest go first; files that a crash left behind are among them.
        if len(kept) >= self.max_files:
            for entry in kept[: len(kept) - self.max_files + self.max_files // 10 + 1]:
                _remove(Path(entry.path))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)
