"""Small pictures of archived images: made when first asked for, and kept in a folder of bounded size."""

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

from receiver.archive import ImageReader
from receiver.core.errors import ArchiveError, ImageError, ReceiverError, SpoolError
from receiver.core.jobs import Image, Job, State
from receiver.verify.verifier import Verifier

log = structlog.get_logger("receiver.page")

SIDE = 320
"""The most pixels that a picture is wide and high."""

THUMBNAIL_MEMORY = 1 << 30
"""Bytes that the decoding of one image may take; larger ones have no picture."""

MAX_SOURCE_BYTES = 64 << 20
"""Larger images have no picture: they may have to be brought from the bucket."""

MAX_FILES = 2_000
"""Of some 10 KB each. Beyond them the oldest tenth is removed."""

MIN_FREE = 512 << 20
"""Bytes of the disk that stay free: the ledger and images with a deadline need them more."""

MAX_WAITING = 100
"""Pictures that may wait to be made; who asks for one more gets none."""

PATIENCE_SECONDS = 3.0
"""How long who asks waits for a picture to be made. A browser has six connections for us: where an archive
hangs, they must not all wait for it, or the page could not be asked for either."""

TRY_AGAIN_SECONDS = 300.0


class Thumbnails:
    """Makes and keeps the pictures.

    They are made one after the other, in a child process like every decoding, so that looking at the page
    takes at most one core and never holds up a webhook.

    Args:
        folder: where they are kept; made when first needed.
        archive: where images are read.
        verifier: decodes, with limits of its own and not among those images that are waited for.
        max_files: how many are kept.
        min_free: bytes of the disk; with less, none are made.
        patience: seconds that who asks waits; the picture is made on, for the next one.
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
        patience: float = PATIENCE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._archive = archive
        self._verifier = verifier
        self._max_files = max_files
        self._min_free = min_free
        self._patience = patience
        self._monotonic = monotonic
        self._one_at_a_time = asyncio.Lock()
        self._making: dict[str, asyncio.Task[bytes | None]] = {}
        self._in_vain: dict[str, float] = {}

    async def of(self, job: Job) -> bytes | None:
        """The picture of an archived job, as WebP; ``None`` where there is none, or none just now."""
        if job.state is not State.ARCHIVED or job.stored is None or job.image is None:
            return None
        digest = job.image.sha256
        path = self._folder / f"{digest}.webp"
        if (kept := await to_thread.run_sync(_read, path)) is not None:
            return kept
        if job.image.bytes > MAX_SOURCE_BYTES or self._failed_lately(digest):
            return None
        making = self._making.get(digest)
        if making is None:
            if len(self._making) >= MAX_WAITING:
                return None
            making = asyncio.create_task(self._in_turn(job, job.image, path), name="thumbnail")
            self._making[digest] = making
            making.add_done_callback(lambda _: self._making.pop(digest))
        await asyncio.wait([making], timeout=self._patience)
        return making.result() if making.done() and not making.cancelled() else None

    async def aclose(self) -> None:
        """Makes no more."""
        making = list(self._making.values())
        for task in making:
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)

    async def _in_turn(self, job: Job, image: Image, path: Path) -> bytes | None:
        async with self._one_at_a_time:
            try:
                return await self._make(job, image, path)
            except Exception:
                log.exception("unexpected error", job=job.id)  # a bug of ours costs only the picture
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
        """Makes the folder, and room in it. Blocks."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if shutil.disk_usage(self._folder).free < self._min_free:
            raise SpoolError("spool.full", "The disk has no room for small pictures.")
        with os.scandir(self._folder) as entries:
            kept = sorted(entries, key=lambda entry: entry.stat().st_mtime)
        # What a crash left behind is among the oldest too.
        if len(kept) >= self._max_files:
            for entry in kept[: len(kept) - self._max_files + self._max_files // 10 + 1]:
                _remove(Path(entry.path))

    def _failed_lately(self, digest: str) -> bool:
        at = self._in_vain.get(digest)
        return at is not None and self._monotonic() - at < TRY_AGAIN_SECONDS

    def _note_failure(self, job: Job, digest: str, error: ReceiverError) -> None:
        log.info("no thumbnail", job=job.id, reason=error.reason, detail=error.detail)
        if len(self._in_vain) >= self._max_files:
            self._in_vain.clear()
        self._in_vain[digest] = self._monotonic()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)
