"""Disks that a test can fill and give room again, beside a process that writes to them.

A small file system of its own is the real thing, and needs the right to mount. A limit on the size of files
(RLIMIT_FSIZE) needs no rights and works everywhere: what would write a byte further is refused with EFBIG.
"""

import contextlib
import functools
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

LARGE = 1 << 30
"""Bytes: far above the reserve that downloads leave alone. A tmpfs takes memory only for what is written."""


class Disk(Protocol):
    """A folder on a disk.

    Attributes:
        folder: where to write.
    """

    folder: Path

    def fill(self, pid: int) -> None:
        """Leaves no room to the process of this id."""

    def free(self, pid: int) -> None:
        """Gives it room again."""


class Quota:
    """A disk that is full for one process, because its files may not grow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, pid: int) -> None:
        """See `Disk.fill`."""
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))  # what a process may do to its equal

    def free(self, pid: int) -> None:
        """See `Disk.free`."""
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))


class Tmpfs:
    """A file system of its own, whose size is set while it is in use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, pid: int) -> None:  # noqa: ARG002 - it is full for every process
        """See `Disk.fill`."""
        found = os.statvfs(self.folder)
        # More than the process can write until the size is set: a size below what is in use is refused.
        self.resize((found.f_blocks - found.f_bfree) * found.f_frsize + (8 << 20))
        with contextlib.suppress(OSError), (self.folder / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(found.f_frsize))

    def free(self, pid: int) -> None:  # noqa: ARG002 - likewise
        """See `Disk.free`."""
        (self.folder / "ballast").unlink(missing_ok=True)
        self.resize(LARGE)

    def resize(self, size: int) -> None:
        """Sets the size, bytes; not less than what is in use."""
        _mount("-o", f"remount,size={size}", str(self.folder))


@functools.cache
def can_mount() -> bool:
    """Whether this process may mount file systems; a plain container's root may not."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        try:
            _mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", folder)
        except (OSError, subprocess.CalledProcessError):
            return False
        _umount(Path(folder))
    return True


KINDS = ("quota", "tmpfs")


def kinds() -> tuple[str, ...]:
    """The disks that can be had here; there is always one."""
    return KINDS if can_mount() else KINDS[:1]


@contextlib.contextmanager
def disk(kind: str, folder: Path) -> Iterator[Disk]:
    """A disk of one of `KINDS` at a new folder."""
    folder.mkdir()
    if kind == "quota":
        yield Quota(folder)
        return
    with tmpfs(folder) as it:
        yield it


@contextlib.contextmanager
def tmpfs(folder: Path, size: int = LARGE) -> Iterator[Tmpfs]:
    """A file system of this size, bytes, over an existing folder."""
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield Tmpfs(folder)
    finally:
        _umount(folder)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def _umount(folder: Path) -> None:
    # Lazily: whoever still has a file open there must not keep the mount for ever.
    subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)
