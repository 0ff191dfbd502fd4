"""One server to a data directory, and one run to a list that is submitted."""

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
"""Linux's ``struct flock``: kind, whence, start, length, process; all 0 but the kind is the whole file."""


def open_for_owner(path: Path) -> int:
    """A file of the data directory, made where there is none: open, and its owner's alone.

    What root makes is the directory's owner's, as SQLite does it with its own: serve shall use it later.

    Raises:
        OSError: it cannot be made or opened.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        home = path.parent.stat()
        with contextlib.suppress(PermissionError):  # a root without that right
            os.fchown(file, home.st_uid, home.st_gid)
    return file


class DirectoryLock:
    """Holds the data directory against a second server until it is released or the process ends.

    The kernel drops the lock with the process, so a kill leaves nothing behind that someone has to remove.
    """

    def __init__(self, directory: Path) -> None:
        """Takes the lock.

        Raises:
            LedgerError: ``ledger.in_use`` where another process holds it.
        """
        path = directory / LOCK_NAME
        self._file = open_for_owner(path)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise LedgerError(
                "ledger.in_use",
                f"Another process serves from {directory}; stop it, or set RECEIVER_DATA_DIR.",
            ) from None
        if sys.platform == "linux":
            # A second lock of another kind, because nobody can ask for the first one without taking it.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _WHOLE_FILE.pack(fcntl.F_WRLCK, 0, 0, 0, 0))

    def release(self) -> None:
        """Lets the directory go."""
        os.close(self._file)


def holder(directory: Path, locks: Path = Path("/proc/locks")) -> int | None:
    """The process that serves from a data directory; ``None`` where none does, 0 where it cannot be named.

    No lock is tried where the kernel can be asked for it: a server that starts in that moment would be
    refused. In another container none is found where this user may not read the lock's file.

    Raises:
        OSError: the lock's file cannot be looked at.
    """
    path = directory / LOCK_NAME
    try:
        inode = path.stat().st_ino
    except (FileNotFoundError, NotADirectoryError):
        return None
    named = _listed(inode, locks)
    try:
        held = _is_held(path)
    except PermissionError:
        return named
    # Another installation's lock can be listed with the same number, and one of another container is not.
    return (named or 0) if held else None


def _listed(inode: int, locks: Path) -> int | None:
    """The process that holds a lock on a file of this number, 0 where that is not told."""
    with contextlib.suppress(OSError):
        for line in locks.read_text(encoding="ascii", errors="replace").splitlines():
            # 1: FLOCK  ADVISORY  WRITE 12345 fd:01:131313 0 EOF
            words = line.split()
            # The device is not compared: some file systems name another one here than in stat(2).
            if len(words) >= 6 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
                return max(int(words[4]), 0)
    return None


def _is_held(path: Path) -> bool:
    """Whether somebody holds the lock, who may be in another namespace of processes."""
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
    """Holds a list that is being submitted against a second run of the same, until it is released.

    Two runs would each take what the other is about to send for lost.
    """

    def __init__(self, directory: Path, name: str) -> None:
        """Takes the lock.

        Raises:
            LedgerError: ``ledger.in_use`` where another run holds it.
        """
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self._path = directory / f"submit-{digest}.lock"
        while True:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._file)
                raise LedgerError("ledger.in_use", f"{name} is being submitted by another process.") from None
            if self._is_there():
                return
            os.close(self._file)  # whoever held it has taken the file away meanwhile

    def release(self) -> None:
        """Lets the list go, and leaves no file behind."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return False
