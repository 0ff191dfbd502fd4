"""A circuit breaker before the archive: uploads begin only once a probe has succeeded."""

import asyncio
from collections.abc import Callable

import structlog

from receiver.archive.base import Archive
from receiver.core.backoff import DoublingWait
from receiver.core.errors import ArchiveError

log = structlog.get_logger("receiver.worker")

FIRST_WAIT, LONGEST_WAIT = 1.0, 120.0
"""Seconds between two probes of an archive that refuses."""


class CircuitBreaker:
    """Allows uploads while the archive is known to take them.

    After a failed upload, probes in growing intervals find out when uploads may go on: thousands of jobs need
    not each find out alone. ``on_recovery`` is called when uploads may begin again.
    """

    def __init__(self, archive: Archive, on_recovery: Callable[[], None]) -> None:
        self._archive = archive
        self._on_recovery = on_recovery
        self._paused = asyncio.Event()
        self._paused.set()
        self.error: ArchiveError | None = None
        """Why the archive refuses; ``None`` unless the last probe failed, or uploads of several jobs."""
        self._failed: set[str] = set()  # jobs whose upload failed since one succeeded
        self._wait = DoublingWait(FIRST_WAIT, LONGEST_WAIT)

    @property
    def allows_uploads(self) -> bool:
        return not self._paused.is_set()

    def record_failure(self, error: ArchiveError, job_id: str) -> None:
        """Allow no more uploads: one failed for a reason that need not be its object's own.

        Only once a second job's upload fails, or a probe, is the archive said to refuse.
        """
        self._failed.add(job_id)
        if len(self._failed) > 1:
            self._note(error)
        self._paused.set()

    def record_success(self) -> None:
        """Begin the intervals anew: an upload succeeded."""
        self._wait.reset()
        self._failed.clear()

    async def run(self) -> None:
        """Probe whenever uploads are not allowed, until cancelled."""
        while True:
            await self._paused.wait()
            await asyncio.sleep(self._wait.seconds)
            self._wait.grow()
            if await self._probe():
                self.error = None
                self._paused.clear()
                self._on_recovery()

    async def _probe(self) -> bool:
        try:
            findings = await self._archive.probe()
        except ArchiveError as error:
            self._note(error)
            return False
        except Exception as bug:
            # Whatever an SDK raises beyond its own errors, probes must go on.
            log.exception("the archive's probe failed unexpectedly")
            self._note(ArchiveError("archive.unexpected", f"{type(bug).__name__}: see the log."))
            return False
        for finding in findings:
            note = log.info if finding.honoured else log.warning
            note("archive probed", what=finding.name, honoured=finding.honoured, detail=finding.detail)
        return True

    def _note(self, error: ArchiveError) -> None:
        if self.error is None or self.error.reason != error.reason:
            note = log.error if error.permanent else log.warning
            note("archive refuses; uploads pause", reason=error.reason, detail=error.detail)
        self.error = error
