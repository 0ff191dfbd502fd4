"""Keeps small pictures of jobs' sources in the archive, so that results can be compared with them later.

They lie in the archive and not in the data directory: every receiver and command that has the archive can
read them. Nothing of a job depends on them.
"""

import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from anyio import to_thread

from receiver.archive.base import SmallPictures
from receiver.archive.key import source_key
from receiver.core.disk import spool_errors
from receiver.verify.verifier import Verifier

SIDE = 1_600
"""The most pixels that one is wide and high."""


@dataclass(frozen=True, slots=True, eq=False)
class KeptSources:
    """Makes the pictures in a child process, so that no file is decoded here; ``scratch`` is a folder."""

    archive: SmallPictures
    verifier: Verifier
    scratch: Path

    async def has(self, job_id: str) -> bool:
        """Return whether the source of a job is kept. Raise `ArchiveError` where the archive does not say."""
        return await self.archive.has_picture(source_key(job_id))

    async def keep(self, job_id: str, source: Path) -> None:
        """Keep a small picture of a file, which may be anything.

        Raise `ImageError` where none can be made of it, `ArchiveError` where the archive did not take it,
        `SpoolError` where this machine's disk failed.
        """
        small = await self.file()
        try:
            await self.verifier.thumbnail(source, small, SIDE)
            with spool_errors():
                content = await to_thread.run_sync(small.read_bytes)
            await self.archive.keep_picture(source_key(job_id), content)
        finally:
            await self.remove(small)

    async def file(self) -> Path:
        """Return the name of a new file in the scratch folder."""
        with spool_errors():
            await to_thread.run_sync(partial(self.scratch.mkdir, mode=0o700, parents=True, exist_ok=True))
        return self.scratch / f"source-{secrets.token_hex(8)}"

    async def remove(self, file: Path) -> None:
        with suppress(OSError):
            await to_thread.run_sync(partial(file.unlink, missing_ok=True))
