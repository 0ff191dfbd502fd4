"""Makes files on the local disk survive a power cut, and translates the disk's errors."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from receiver.core.errors import SpoolError


def sync_directory(directory: Path) -> None:
    """Make a directory's entries durable: a synced file without a synced name is lost with the power."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def spool_errors() -> Iterator[None]:
    """Raise a `SpoolError` where the disk fails: ``spool.full`` if it has no room, else ``spool.disk``."""
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        detail = f"The spool's disk fails: {error.strerror}."
        raise SpoolError("spool.full" if full else "spool.disk", detail) from error
