"""Our own disk between the provider and the archive.

A download has the name ``….part``. Once it is verified it is renamed to ``JOB.SHA256.EXT``: such a file is
always whole, so a crash before the ledger knew of it costs nothing but a look at the disk.
"""

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import anyio.to_thread

from receiver.core.errors import SpoolError
from receiver.core.jobs import Image

T = TypeVar("T")

ASIDE_FILES = 100
ASIDE_BYTES = 256 * 2**20
"""How much is kept of what came and was not the promised image."""

DISK_RESERVE = 256 * 2**20
"""Bytes of the disk that downloads leave alone, so that the ledger can always write."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole file that lies in the spool.

    Attributes:
        path: where.
        bytes: its size.
        sha256: of the whole file.
    """

    path: Path
    bytes: int
    sha256: str


class Spool:
    """A folder of images that are not archived yet.

    Args:
        folder: made where it does not exist.
        max_bytes: what the folder may hold.
        max_image_bytes: what one download may take: so much room is kept for each that is under way.
        reserve: bytes of the disk that stay free.

    Raises:
        SpoolError: ``spool.disk``.
    """

    def __init__(
        self, folder: Path, *, max_bytes: int, max_image_bytes: int, reserve: int = DISK_RESERVE
    ) -> None:
        self.folder = folder
        self.aside = folder.with_name("aside")
        self._max_bytes = max_bytes
        self._max_image_bytes = max_image_bytes
        self._reserve = reserve
        self._tidying = threading.Lock()
        with _as_spool_errors():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def room(self, held: int, under_way: int) -> int:
        """How many more downloads may begin now.

        Args:
            held: bytes of the images that wait here for the archive.
            under_way: downloads that have begun.

        Raises:
            SpoolError: ``spool.disk``.
        """
        promised = under_way * self._max_image_bytes
        return max((self._free(held) - promised) // self._max_image_bytes, 0)

    def room_bytes(self, held: int) -> int:
        """How many more bytes may lie here, those of downloads under way not counted.

        Args:
            held: bytes of the images that wait here for the archive.

        Raises:
            SpoolError: ``spool.disk``.
        """
        return max(self._free(held), 0)

    def _free(self, held: int) -> int:
        with _as_spool_errors():
            free = shutil.disk_usage(self.folder).free
        return min(self._max_bytes - held, free - self._reserve)

    def part(self, claim: str) -> Path:
        """Where the download of a claim is written."""
        return self.folder / f"{claim.replace(':', '-')}.part"

    def path(self, name: str) -> Path:
        """Where the file of this name lies."""
        return self.folder / name

    async def keep(self, part: Path, job: str, image: Image) -> str:
        """Makes a verified and fsynced download durable under its final name, and returns the name.

        Raises:
            SpoolError: ``spool.disk``.
        """
        name = f"{job}.{image.sha256}.{image.extension}"
        await _blocking(lambda: self._rename(part, name))
        return name

    async def check(self, name: str) -> Whole | None:
        """Hashes a whole file anew; ``None`` where it is not there, or not what its name says any more.

        Raises:
            SpoolError: ``spool.disk``.
        """
        return await _blocking(lambda: self._check(name))

    async def sha256(self, path: Path) -> str:
        """The SHA-256 of a file that lies anywhere on our disks, hex.

        Raises:
            SpoolError: ``spool.disk``.
        """
        return await _blocking(lambda: _digest(path))

    async def set_aside(self, path: Path, job: str, sha256: str) -> None:
        """Keeps bytes that are not the promised image for a look; the oldest of them make room.

        Raises:
            SpoolError: ``spool.disk``.
        """
        name = f"{job}.{sha256[:16]}"

        def alone() -> None:
            with self._tidying:  # two threads would each remove what the other has just counted
                self._set_aside(path, name)

        await _blocking(alone)

    async def remove(self, path: Path) -> None:
        """Removes a file, if it is there.

        Raises:
            SpoolError: ``spool.disk``.
        """
        await _blocking(lambda: path.unlink(missing_ok=True))

    async def names(self) -> list[str]:
        """The names of all files in the spool; a folder in it, such as ``lost+found``, is not ours."""
        return await _blocking(
            lambda: sorted(entry.name for entry in os.scandir(self.folder) if not entry.is_dir())
        )

    def _rename(self, part: Path, name: str) -> None:
        part.rename(self.folder / name)
        directory = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)  # the name is on the disk only with the folder
        finally:
            os.close(directory)

    def _set_aside(self, path: Path, name: str) -> None:
        size = path.stat().st_size
        if size > ASIDE_BYTES:
            return  # no room could be made for it
        self.aside.mkdir(mode=0o700, exist_ok=True)
        kept = sorted(self.aside.iterdir(), key=lambda entry: entry.stat().st_mtime)
        held = sum(entry.stat().st_size for entry in kept)
        for oldest in kept:
            if held + size <= ASIDE_BYTES and len(list(self.aside.iterdir())) < ASIDE_FILES:
                break
            held -= oldest.stat().st_size
            oldest.unlink()
        path.rename(self.aside / name)

    def _check(self, name: str) -> Whole | None:
        promised = job_and_sha256(name)
        path = self.folder / name
        if promised is None or not path.is_file():
            return None
        digest = _digest(path)
        return Whole(path, path.stat().st_size, digest) if digest == promised[1] else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def job_and_sha256(name: str) -> tuple[str, str] | None:
    """The job's id and the checksum in the name of a whole file; ``None`` for any other name."""
    job, _, rest = name.rpartition(".")[0].rpartition(".")
    return (job, rest) if job and len(rest) == 64 else None


async def _blocking(work: Callable[[], T]) -> T:
    with _as_spool_errors():
        return await anyio.to_thread.run_sync(work)


@contextmanager
def _as_spool_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SpoolError("spool.disk", f"The spool's disk fails: {error.strerror}.") from error
