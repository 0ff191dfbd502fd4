"""The process's clocks. Each is passed to its users, so that a test can pass another."""

import time
from collections.abc import Callable
from datetime import timedelta

Clock = Callable[[], int]
"""Returns ms: since the epoch, or of a monotonic clock."""


def milliseconds(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)


def wall_clock() -> int:
    """Return the time in ms since the epoch, UTC."""
    return time.time_ns() // 1_000_000


def monotonic_clock() -> int:
    """Return the ms of a clock that cannot be set."""
    return time.monotonic_ns() // 1_000_000
