"""Makes files on the local disk survive a power cut."""

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Make a directory's entries durable: a synced file without a synced name is lost with the power."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
