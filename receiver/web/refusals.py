"""Counts refusals, and bounds the rate of their log lines, so that a thousand of them do not fill the log."""

import time
from collections import Counter
from collections.abc import Callable, Mapping

from receiver.core.log_limit import LogLimit

OnRefusal = Callable[[str], None]
"""Called with the reason of each refusal."""


class RefusalCounter:
    """Counts refusals by reason since the start; ``clock`` returns monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._counts: Counter[str] = Counter()
        self._log_limit = LogLimit(clock)

    @property
    def counts(self) -> Mapping[str, int]:
        return dict(self._counts)

    def count(self, reason: str) -> None:
        """Count a refusal that is logged elsewhere, or not at all."""
        self._counts[reason] += 1

    def count_to_log(self, reason: str) -> int:
        """Count a refusal; return for how many a line is due now, this one included, or 0 for no line."""
        self.count(reason)
        return self._log_limit.due(reason)
