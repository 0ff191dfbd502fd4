"""Counts refusals, and bounds the rate of their log lines, so that a thousand of them do not fill the log."""

import time
from collections import Counter
from collections.abc import Callable, Mapping

LOG_SECONDS = 10.0
"""Between two log lines of the same reason."""

OnRefusal = Callable[[str], None]
"""Called with the reason of each refusal."""


class RefusalCounter:
    """Counts refusals by reason since the start; ``clock`` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._logged: dict[str, tuple[float, int]] = {}

    @property
    def counts(self) -> Mapping[str, int]:
        return dict(self._counts)

    def count(self, reason: str) -> None:
        """Count a refusal that is logged elsewhere, or not at all."""
        self._counts[reason] += 1

    def count_to_log(self, reason: str) -> int:
        """Count a refusal; return for how many a line is due now, this one included, or 0 for no line."""
        self.count(reason)
        at, logged = self._logged.get(reason, (float("-inf"), 0))
        now = self._clock()
        if now - at < LOG_SECONDS:
            return 0
        self._logged[reason] = (now, self._counts[reason])
        return self._counts[reason] - logged
