"""The spool: the local disk between the provider and the archive.

A download is named ``….part``. Once it is verified it is renamed to ``JOB.SHA256.EXT``: such a file is always
whole, so a crash before the ledger knew of it costs nothing but a check of the disk. Bytes that are not the
promised image lie beside it, as ``aside/JOB.SHA256``. The ledger names them so once an operator accepts them.
"""

import asyncio
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio.from_thread
import anyio.to_thread

from receiver.core.disk import spool_errors, sync_directory
from receiver.core.jobs import Image, image_format
from receiver.fetch.download import Download

T = TypeVar("T")
Names = Callable[[], Coroutine[Any, Any, Collection[str]]]

ASIDE = "aside/"
"""Before the name of a file that was accepted, in the ledger."""

MAX_ASIDE_FILES = 100
MAX_ASIDE_BYTES = 256 * 2**20
"""How much is kept of downloads that were not the promised image."""

DISK_RESERVE = 256 * 2**20
"""Bytes of the disk that downloads leave alone, so that the ledger can always write."""


class Spool:
    """A folder of images that are not archived yet. All its methods raise `SpoolError` (``spool.disk``).

    It is made where it does not exist. ``max_image_bytes`` are reserved for each download in progress, and
    ``reserve`` bytes of the disk stay free.
    """

    def __init__(
        self, folder: Path, *, max_bytes: int, max_image_bytes: int, reserve: int = DISK_RESERVE
    ) -> None:
        self.folder = folder
        self.aside = folder.with_name("aside")
        self._max_bytes = max_bytes
        self._max_image_bytes = max_image_bytes
        self._reserve = reserve
        self._tidying = asyncio.Lock()
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="spool")
        with spool_errors():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(folder.parent)  # else what is durable in a new folder could go with it

    def room(self, held: int, in_progress: int) -> int:
        """Return how many more downloads may begin, where ``held`` bytes wait for the archive."""
        return max(self.room_bytes(held) // self._max_image_bytes - in_progress, 0)

    def room_bytes(self, held: int) -> int:
        """Return how many more bytes fit, beside the ``held`` ones and without downloads.

        Where the largest image does not fit, none is downloaded, and so there is no room.
        """
        with spool_errors():
            free = shutil.disk_usage(self.folder).free
        room = min(self._max_bytes - held, free - self._reserve)
        return room if room >= self._max_image_bytes else 0

    def part(self, claim: str) -> Path:
        return self.folder / f"{claim.replace(':', '-')}.part"

    def path(self, name: str) -> Path:
        kept = name.removeprefix(ASIDE)
        return (self.folder if kept == name else self.aside) / kept

    async def keep(self, part: Path, job: str, image: Image) -> str:
        """Make a verified and fsynced download durable under its final name, and return the name."""
        name = f"{job}.{image.sha256}.{image.extension}"

        def rename() -> None:
            part.rename(self.folder / name)
            sync_directory(self.folder)

        await self._briefly(rename)
        return name

    async def check(self, name: str) -> Download | None:
        """Hash a whole file again; ``None`` if it is missing, or its bytes do not match its name."""
        expected, path = job_and_sha256(name), self.folder / name

        def check() -> Download | None:
            if expected is None or not path.is_file() or _digest(path) != expected[1]:
                return None
            return Download(path, path.stat().st_size, expected[1])

        return await _in_thread(check)

    async def sha256(self, path: Path) -> str:
        return await _in_thread(lambda: _digest(path))

    async def set_aside(self, path: Path, job: str, sha256: str, awaited: Names) -> None:
        """Keep bytes that are not the promised image for a person to look at, and to accept.

        They replace what the same job gave before; the oldest of other jobs make room, except those that the
        ledger awaits.
        """
        async with self._tidying:
            await _in_thread(lambda: self._set_aside(path, job, sha256, awaited))

    async def refused(self, job: str) -> tuple[Path, Image] | None:
        """Return the newest bytes of a job that are kept aside, and what is known of them."""
        return await _in_thread(lambda: self._refused(job))

    async def hold_aside(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do work while no process removes what lies aside."""

        def hold() -> T:
            with self._aside_lock():
                return anyio.from_thread.run(work)

        async with self._tidying:  # of those that wait for the lock, only one takes up a thread
            return await _in_thread(hold)

    async def remove(self, path: Path) -> None:
        await self._briefly(lambda: path.unlink(missing_ok=True))

    async def names(self) -> list[str]:
        """Return the names of all files in the spool. Folders, such as ``lost+found``, are not its own."""
        return await _in_thread(
            lambda: sorted(entry.name for entry in os.scandir(self.folder) if not entry.is_dir())
        )

    async def _briefly(self, work: Callable[[], T]) -> T:
        """Do work at half the CPU of AnyIO's threads. A cancellation does not wait for its end."""
        with spool_errors():
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _set_aside(self, path: Path, job: str, digest: str, awaited: Names) -> None:
        size = path.stat().st_size
        if size > MAX_ASIDE_BYTES:
            return  # it would never fit
        with self._aside_lock():
            spared = anyio.from_thread.run(awaited)
            kept = [entry for entry in self.aside.iterdir() if ASIDE + entry.name not in spared]
            kept.sort(key=lambda entry: (_of(entry) != job, entry.stat().st_mtime))
            held, files = sum(entry.stat().st_size for entry in kept), len(kept)
            for entry in kept:
                if _of(entry) != job and held + size <= MAX_ASIDE_BYTES and files < MAX_ASIDE_FILES:
                    break
                held, files = held - entry.stat().st_size, files - 1
                entry.unlink()
            path.rename(self.aside / f"{job}.{digest}")
            sync_directory(self.aside)
            sync_directory(self.aside.parent)  # the folder may be new

    @contextmanager
    def _aside_lock(self) -> Iterator[None]:
        """Exclude other threads and processes, which would remove what is counted or accepted here."""
        self.aside.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(self.aside, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _refused(self, job: str) -> tuple[Path, Image] | None:
        try:
            kept = [entry for entry in self.aside.iterdir() if _of(entry) == job]
            if not kept:
                return None
            path = max(kept, key=lambda entry: entry.stat().st_mtime)
            with path.open("rb") as file:
                found = image_format(file.read(12))
            named = path.name.rpartition(".")[2]
            digest = named if len(named) == 64 else _digest(path)  # earlier versions wrote 16 digits
            return path, Image(found, None, None, path.stat().st_size, digest)
        except FileNotFoundError:  # nothing is aside, or it made room just now
            return None


def _of(aside: Path) -> str:
    """Return the job that gave a file that is kept aside."""
    return aside.name.rpartition(".")[0]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def job_and_sha256(name: str) -> tuple[str, str] | None:
    """Return the job's id and the checksum in the name of a whole file; ``None`` for any other name."""
    job, _, rest = name.rpartition(".")[0].rpartition(".")
    return (job, rest) if job and len(rest) == 64 else None


async def _in_thread(work: Callable[[], T]) -> T:
    with spool_errors():
        return await anyio.to_thread.run_sync(work)
