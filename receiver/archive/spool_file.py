"""Spooled files as the archive reads them: in blocks, so that memory does not grow with an image's size."""

import errno
import hashlib
import io
import os
from typing import Any, BinaryIO

from receiver.archive.base import SpooledImage
from receiver.core.errors import SpoolError

BLOCK = 1 << 16
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
    """The spooled file of an item.

    Raise ``spool.lost`` if it vanished or is not what was verified, ``spool.disk`` if it cannot be read.
    """

    failed: SpoolError | None = None
    """The error of a failed read, which a library may report as another one."""

    def __init__(self, item: SpooledImage) -> None:
        self.item = item
        try:
            super().__init__(item.path)
        except FileNotFoundError as error:
            detail = f"The spooled file of job {item.job_id} is not there any more."
            raise SpoolError("spool.lost", detail) from error
        except OSError as error:
            raise self._unreadable(error) from error
        if os.fstat(self.fileno()).st_size != item.image.bytes:
            self.close()
            raise self._changed()

    def read(self, size: int | None = -1, /) -> bytes | Any:
        try:
            return super().read(-1 if size is None else size)
        except OSError as error:
            self.failed = self._unreadable(error)
            raise self.failed from error

    def check(self) -> None:
        """Hash the file again."""
        if digest(self).hex() != self.item.image.sha256:
            raise self._changed()

    def _changed(self) -> SpoolError:
        detail = f"The spooled file of job {self.item.job_id} changed after it was verified."
        return SpoolError("spool.lost", detail)

    def _unreadable(self, error: OSError) -> SpoolError:
        """Bytes that a disk cannot read (EIO) are lost."""
        return SpoolError(
            "spool.lost" if error.errno == errno.EIO else "spool.disk",
            f"The spooled file of job {self.item.job_id} cannot be read: {error.strerror}.",
        )
