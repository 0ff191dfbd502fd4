"""Keeps small pictures of submitted files, beside the submissions and never in their way."""

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from receiver.archive.factory import open_archive
from receiver.core.concurrency import cancel
from receiver.core.errors import ConfigError, ReceiverError
from receiver.pipeline.kept_sources import KeptSources
from receiver.verify.decoder import Limits
from receiver.verify.verifier import Verifier

GRACE_SECONDS = 10.0
"""How long the end of a run waits for pictures that are still to be kept."""

LIMITS = Limits(max_pixels=512_000_000, max_seconds=20, max_memory=1 << 30)


class FileSources:
    """Keeps them one after the other. Archive and decoder are opened for the first one.

    Args:
        archive: its address, as of `open_archive`.
        environ: the AWS SDK's variables.
        on_failure: called with the id of a job whose source is not kept, and the reason in a sentence.
    """

    def __init__(
        self,
        archive: str,
        environ: Mapping[str, str],
        on_failure: Callable[[str, str], object] = lambda _job_id, _why: None,
    ) -> None:
        self._on_failure = on_failure
        self._archive = archive
        self._environ = environ
        self._stack = AsyncExitStack()
        self._kept: KeptSources | None = None
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(self, job_id: str, image: str | Path | bytes) -> None:
        """Begin to keep the source of a job; a URL is left to the server."""
        if not isinstance(image, str):
            task = asyncio.create_task(self._keep(job_id, image))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait a moment for what is still to be kept; the rest is given up."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=GRACE_SECONDS)
        await cancel([*self._tasks])
        await self._stack.aclose()

    async def _keep(self, job_id: str, image: Path | bytes) -> None:
        try:
            async with self._one_at_a_time:
                kept = self._kept = self._kept or await self._open()
                file = image if isinstance(image, Path) else await kept.file()
                if isinstance(image, bytes):
                    await asyncio.to_thread(file.write_bytes, image)
                await kept.keep(job_id, file)
        except (ReceiverError, ConfigError, OSError) as error:
            self._on_failure(job_id, error.detail if isinstance(error, ReceiverError) else str(error))

    async def _open(self) -> KeptSources:
        archive = await asyncio.to_thread(open_archive, self._archive, uploads=1, environ=self._environ)
        self._stack.push_async_callback(archive.aclose)
        verifier = await self._stack.enter_async_context(Verifier(LIMITS, processes=1))
        scratch = self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        return KeptSources(archive, verifier, Path(scratch))
