"""Makes files on the local disk survive a power cut, and translates the disk's errors."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from receiver.core.errors import ConfigError, SpoolError


def sync_directory(directory: Path) -> None:
    """Make a directory's entries durable: a synced file without a synced name is lost with the power."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_data_directory(directory: Path) -> None:
    """Make the data directory where there is none, for this user alone. Raise `ConfigError` if that fails.

    New folders are durable in their parents, since what is acknowledged is durable in them. One that is there
    may be shared with others, and keeps the rights that it has.
    """
    try:
        new = [folder for folder in (directory, *directory.parents) if not folder.exists()]
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in new:
            sync_directory(folder.parent)
    except OSError as error:
        raise ConfigError(f"RECEIVER_DATA_DIR: cannot be made ({error.strerror})") from None


@contextmanager
def spool_errors() -> Iterator[None]:
    """Raise a `SpoolError` where the disk fails: ``spool.full`` if it has no room, else ``spool.disk``."""
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        detail = f"The spool's disk fails: {error.strerror}."
        raise SpoolError("spool.full" if full else "spool.disk", detail) from error
