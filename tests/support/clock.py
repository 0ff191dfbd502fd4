"""Clocks that tests set: one that stands still, and one that nobody waits for."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine

SECOND = 1_000
HOUR = 3_600_000
NOW = 1_795_000_000_000
"""A Wednesday in November 2026, ms since the epoch."""


class Clock:
    """Shows the same time until it is set. Milliseconds."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def forward(self, span: int) -> None:
        """Sets the clock; backwards where ``span`` is negative."""
        self.now += span


class _Impatient(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout:
            self.skipped += timeout
        return ready if ready or timeout is not None else super().select(None)


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only where it would wait, and at once. Not for work with threads."""

    def __init__(self) -> None:
        self._impatient = _Impatient()
        super().__init__(self._impatient)

    def time(self) -> float:
        """Seconds of waiting that were jumped over."""
        return self._impatient.skipped


def skipping(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    """Runs a test on a loop whose waits take no time."""

    def run() -> None:
        with asyncio.Runner(loop_factory=SkippingLoop) as runner:
            runner.run(test())

    run.__name__ = test.__name__
    return run
