"""Limits how often the same log line is written."""

import time
from collections.abc import Callable, Hashable

REPEAT_SECONDS = 10.0
"""Between two lines of the same key."""


class LogLimit:
    """Counts the events that each written line stands for; ``clock`` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[Hashable, tuple[float, int]] = {}

    def due(self, key: Hashable) -> int:
        """Return for how many times a line is due now, this one included, or 0 for no line."""
        at, times = self._held.get(key, (float("-inf"), 0))
        now, times = self._clock(), times + 1
        if now - at < REPEAT_SECONDS:
            self._held[key] = (at, times)
            return 0
        self._held[key] = (now, 0)
        return times
