"""Refusals, counted, and logged at a bounded rate: who knocks a thousand times shall not fill the log."""

import time
from collections import Counter
from collections.abc import Callable, Mapping

import structlog

log = structlog.get_logger("receiver.intake")

LOG_SECONDS = 10.0
"""Between two log lines of the same reason."""


Refused = Callable[[str], None]
"""Told the reason of each refusal."""


def untold(reason: str) -> None:
    """Nobody wants to know."""


class Refusals:
    """Counts refusals by reason since the start.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._told: dict[str, tuple[float, int]] = {}

    @property
    def counts(self) -> Mapping[str, int]:
        """How many there were of each reason."""
        return dict(self._counts)

    def count(self, reason: str) -> None:
        """Counts one that is logged elsewhere, or not at all."""
        self._counts[reason] += 1

    def note(self, reason: str) -> None:
        """Counts one, and logs it, with all that were not logged since the last line."""
        self.count(reason)
        at, told = self._told.get(reason, (float("-inf"), 0))
        now = self._clock()
        if now - at >= LOG_SECONDS:
            self._told[reason] = (now, self._counts[reason])
            log.warning("delivery refused", reason=reason, times=self._counts[reason] - told)
