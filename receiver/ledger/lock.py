"""One server to a data directory."""

import fcntl
import os
from pathlib import Path

from receiver.errors import LedgerError


class DirectoryLock:
    """Holds the data directory against a second server until it is released or the process ends.

    The kernel drops the lock with the process, so a kill leaves nothing behind that someone has to remove.
    """

    def __init__(self, directory: Path) -> None:
        """Takes the lock.

        Raises:
            LedgerError: ``ledger.in_use`` where another process holds it.
        """
        path = directory / "serve.lock"
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise LedgerError(
                "ledger.in_use",
                f"Another process serves from {directory}; stop it, or set RECEIVER_DATA_DIR.",
            ) from None

    def release(self) -> None:
        """Lets the directory go."""
        os.close(self._file)
