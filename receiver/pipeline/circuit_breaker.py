"""A gate before the archive: closed until a probe has shown that it takes something, and while it refuses."""

import asyncio
from collections.abc import Callable

import structlog

from receiver.archive import Archive
from receiver.core.errors import ArchiveError

log = structlog.get_logger("receiver.worker")

FIRST_WAIT = 1.0
LONGEST_WAIT = 120.0
"""Seconds between two probes of an archive that refuses: the first wait, doubled each time up to the last."""

ABOUT_ONE_OBJECT = frozenset(
    {"archive.occupied", "archive.missing", "archive.too_large", "archive.unproved", "archive.unexpected"}
)
"""Reasons that say nothing of other objects."""


class CircuitBreaker:
    """Lets uploads through while the archive is known to take them.

    When an upload fails for a reason that is not its object's own, the gate closes, and a probe in growing
    intervals finds out when to open it: thousands of jobs need not each find out alone.

    Args:
        archive: to be probed.
        on_recovery: called when the gate opens.
    """

    def __init__(self, archive: Archive, on_recovery: Callable[[], None]) -> None:
        self._archive = archive
        self._on_recovery = on_recovery
        self._closed = asyncio.Event()
        self._closed.set()
        self._error: ArchiveError | None = None
        self._wait = 0.0

    @property
    def allows_uploads(self) -> bool:
        """Whether uploads may begin."""
        return not self._closed.is_set()

    @property
    def error(self) -> ArchiveError | None:
        """What the archive said when it was last tried and refused; ``None`` when it took something."""
        return self._error

    def record_failure(self, error: ArchiveError) -> None:
        """An upload failed."""
        if error.reason in ABOUT_ONE_OBJECT:
            return
        self._refused(error)
        self._closed.set()

    def record_success(self) -> None:
        """An upload came through."""
        self._wait = 0.0

    async def run(self) -> None:
        """Probes whenever the gate is closed, until cancelled."""
        while True:
            await self._closed.wait()
            await asyncio.sleep(self._wait)
            self._wait = min(max(self._wait * 2, FIRST_WAIT), LONGEST_WAIT)
            try:
                findings = await self._archive.probe()
            except ArchiveError as error:
                self._refused(error)
                continue
            except Exception as bug:
                # Whatever an SDK raises beyond its own errors, the gate must not stay closed for good.
                log.exception("the archive's probe failed unexpectedly")
                self._refused(ArchiveError("archive.unexpected", f"{type(bug).__name__}: see the log."))
                continue
            for finding in findings:
                note = log.info if finding.honoured else log.warning
                note("archive probed", what=finding.name, honoured=finding.honoured, detail=finding.detail)
            self._error = None
            self._closed.clear()
            self._on_recovery()

    def _refused(self, error: ArchiveError) -> None:
        if self._error is None or self._error.reason != error.reason:
            note = log.error if error.pause else log.warning
            note("archive refuses; uploads pause", reason=error.reason, detail=error.detail)
        self._error = error
