"""Spooled files as the archive reads them: in blocks, so that memory does not grow with an image's size."""

import errno
import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from receiver.archive.base import SpooledImage
from receiver.core.errors import SpoolError

BLOCK = 1 << 18
"""Bytes read at a time."""


def digest(file: BinaryIO | io.FileIO, algorithm: str = "sha256") -> bytes:
    """Return the hash of a whole file, and rewind it."""
    file.seek(0)
    value = hashlib.new(algorithm, usedforsecurity=algorithm != "md5")
    while block := file.read(BLOCK):
        value.update(block)
    file.seek(0)
    return value.digest()


class SpoolFile(io.FileIO):
    """A spooled file that remembers a failed read, which a library may report as another error."""

    failed: OSError | None = None

    def read(self, size: int | None = -1, /) -> bytes | Any:
        try:
            return super().read(-1 if size is None else size)
        except OSError as error:
            self.failed = error
            raise


@contextmanager
def opened(item: SpooledImage) -> Iterator[SpoolFile]:
    """Open an item's spooled file. Raise ``spool.lost`` if it vanished or has another size than was recorded,
    ``spool.disk`` if it cannot be read.
    """
    try:
        file = SpoolFile(item.path)
    except FileNotFoundError as error:
        detail = f"The spooled file of job {item.job_id} is not there any more."
        raise SpoolError("spool.lost", detail) from error
    except OSError as error:
        raise unreadable(item, error) from error
    with file:
        if os.fstat(file.fileno()).st_size != item.image.bytes:
            raise changed(item)
        yield file


def check(item: SpooledImage, file: SpoolFile) -> None:
    """Hash a spooled file again. Raise ``spool.lost`` if it is not what was verified, ``spool.disk`` if it
    cannot be read.
    """
    try:
        found = digest(file)
    except OSError as error:
        raise unreadable(item, error) from error
    if found.hex() != item.image.sha256:
        raise changed(item)


def changed(item: SpooledImage) -> SpoolError:
    """Return the error for a spooled file that is not the one that was verified."""
    return SpoolError("spool.lost", f"The spooled file of job {item.job_id} changed after it was verified.")


def unreadable(item: SpooledImage, error: OSError) -> SpoolError:
    """Return the error for a failed disk. Bytes that it cannot read (EIO) are lost."""
    return SpoolError(
        "spool.lost" if error.errno == errno.EIO else "spool.disk",
        f"The spooled file of job {item.job_id} cannot be read: {error.strerror}.",
    )
