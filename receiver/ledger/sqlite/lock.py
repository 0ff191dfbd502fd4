"""Locks: one server per data directory, and one run per submitted list."""

import contextlib
import fcntl
import hashlib
import os
import struct
import sys
from pathlib import Path

from receiver.core.errors import LedgerError

LOCK_NAME = "serve.lock"

_WHOLE_FILE = struct.Struct("hhqqi")
"""Linux's ``struct flock``: kind, whence, start, length, process; zeros mean the whole file."""


def open_for_owner(path: Path) -> int:
    """Open a file of the data directory that only its owner can read, and create it where there is none.

    What root creates is given to the directory's owner, as SQLite does with its own files.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        home = path.parent.stat()
        with contextlib.suppress(PermissionError):  # a root without that right
            os.fchown(file, home.st_uid, home.st_gid)
    return file


def take_lock(path: Path, refusal: str) -> int:
    """Open and lock a file. Where another process holds it, raise ``ledger.in_use`` with the refusal's text.

    The kernel drops the lock with the process, so that a kill leaves nothing to clean up.
    """
    file = open_for_owner(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise LedgerError("ledger.in_use", refusal) from None
    return file


class DirectoryLock:
    """Excludes a second server from the data directory until it is released or the process ends."""

    def __init__(self, directory: Path) -> None:
        refusal = f"Another process serves from {directory}; stop it, or set RECEIVER_DATA_DIR."
        self._file = take_lock(directory / LOCK_NAME, refusal)
        if sys.platform == "linux":
            # A second lock of another kind: the first one cannot be tested without being taken.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _WHOLE_FILE.pack(fcntl.F_WRLCK, 0, 0, 0, 0))

    def release(self) -> None:
        os.close(self._file)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.release()


def holder(directory: Path, locks: Path = Path("/proc/locks")) -> int | None:
    """Return the id of the process that serves from a data directory; ``None`` without, 0 if unknown.

    Where the kernel can be asked, the lock is not taken to test it: a server that starts in that moment would
    be refused. A server in another container is not found where this user may not read the lock's file.
    """
    path = directory / LOCK_NAME
    try:
        named = _listed(path.stat().st_ino, locks)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        held = _is_held(path)
    except PermissionError:
        return named
    # Another installation's lock can be listed under the same inode; that of another container is not listed.
    return (named or 0) if held else None


def _listed(inode: int, locks: Path) -> int | None:
    """Return the process that holds a lock on a file of this inode, 0 where it is not named."""
    with contextlib.suppress(OSError):
        for line in locks.read_text(encoding="ascii", errors="replace").splitlines():
            # 1: FLOCK  ADVISORY  WRITE 12345 fd:01:131313 0 EOF
            words = line.split()
            # The device is not compared: some file systems report another one here than in stat(2).
            if len(words) >= 6 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
                return max(int(words[4]), 0)
    return None


def _is_held(path: Path) -> bool:
    """Return whether a process holds the lock, possibly one of another PID namespace."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if sys.platform == "linux":
            answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _WHOLE_FILE.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
            return bool(_WHOLE_FILE.unpack(answer)[0] != fcntl.F_UNLCK)
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


class ListLock:
    """Excludes a second run that submits the same list: each would take the other's open intents for lost."""

    def __init__(self, directory: Path, name: str) -> None:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self._path = directory / f"submit-{digest}.lock"
        while True:
            self._file = take_lock(self._path, f"{name} is being submitted by another process.")
            if self._is_in_place():
                return
            os.close(self._file)  # its former holder has removed the file meanwhile

    def release(self) -> None:
        """Release the lock, and remove its file."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return False
