"""Files as the archive reads them: in blocks, so that memory does not grow with the size of an image."""

import errno
import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from receiver.archive import Item
from receiver.core.errors import SpoolError

BLOCK = 1 << 20
"""Bytes read at a time."""


def digest(file: BinaryIO | io.FileIO, algorithm: str = "sha256") -> bytes:
    """The hash of a file from its start to its end; the file stands at its start again afterwards."""
    file.seek(0)
    value = hashlib.new(algorithm, usedforsecurity=algorithm != "md5")
    while block := file.read(BLOCK):
        value.update(block)
    file.seek(0)
    return value.digest()


class SpoolFile(io.FileIO):
    """A spooled file that remembers an error of its disk: a library between may tell of another.

    Attributes:
        failed: what the last read that failed ended in.
    """

    failed: OSError | None = None

    def read(self, size: int | None = -1, /) -> bytes | Any:
        """Reads at most so many bytes."""
        try:
            return super().read(-1 if size is None else size)
        except OSError as error:
            self.failed = error
            raise


@contextmanager
def open_spool_file(item: Item) -> Iterator[SpoolFile]:
    """Opens an item's spooled file, which must have the size that was recorded.

    Raises:
        SpoolError: ``spool.lost`` if it vanished or changed, ``spool.disk`` if it cannot be read.
    """
    try:
        file = SpoolFile(item.path)
    except FileNotFoundError as error:
        raise SpoolError(
            "spool.lost", f"The spooled file of job {item.job_id} is not there any more."
        ) from error
    except OSError as error:
        raise unreadable(item, error) from error
    with file:
        if os.fstat(file.fileno()).st_size != item.image.bytes:
            raise changed(item)
        yield file


def check_spool_file(item: Item, file: SpoolFile) -> None:
    """Hashes a spooled file anew; raises SpoolError (``spool.lost``) if it is not what was verified."""
    try:
        found = digest(file)
    except OSError as error:
        raise unreadable(item, error) from error
    if found.hex() != item.image.sha256:
        raise changed(item)


def changed(item: Item) -> SpoolError:
    """The spooled file is another than the one that was verified."""
    return SpoolError("spool.lost", f"The spooled file of job {item.job_id} changed after it was verified.")


def unreadable(item: Item, error: OSError) -> SpoolError:
    """The spool's disk failed; where it says that these bytes cannot be read, they are lost."""
    return SpoolError(
        "spool.lost" if error.errno == errno.EIO else "spool.disk",
        f"The spooled file of job {item.job_id} cannot be read: {error.strerror}.",
    )
