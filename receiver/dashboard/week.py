"""Draws the last days: how long images took by hour, bytes by day, and failures by reason."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from receiver.dashboard.throughput import HEIGHT
from receiver.ledger.queries.week import Week

HOUR = 3_600_000
STEP = 6
"""The width of an hour; the drawings are stretched to their panels."""

LEAST = 2.0
"""The height of the shortest bar: something is never drawn as nothing."""

LINES = (
    (1_000, "1 s"),
    (60_000, "1 min"),
    (3_600_000, "1 h"),
    (216_000_000, "2\N{VULGAR FRACTION ONE HALF} d"),
)
"""The lines in the drawing of durations, in ms; each is 60 times the one before it."""

MOST_REASONS = 8


class Drawing(NamedTuple):
    """Bars of durations, as two paths, and what the lines stand for, the longest first."""

    slow: str
    median: str
    width: int
    lines: Sequence[str]


def durations(week: Week) -> Drawing:
    """Draw the durations of each hour on a logarithmic scale, since they reach from a second to days."""
    longest = max((hour.slow for hour in week.hours.values()), default=0)
    lines = next((LINES[:n] for n in (2, 3) if LINES[n - 1][0] >= longest), LINES)
    begin = min(week.days)
    slow, median = [], []
    for at, hour in week.hours.items():
        x = (at - begin) // HOUR * STEP
        slow.append(_bar(x, _height(hour.slow, lines)))
        median.append(_bar(x, _height(hour.median, lines)))
    width = len(week.days) * 24 * STEP
    return Drawing("".join(slow), "".join(median), width, [name for _, name in reversed(lines)])


def _height(took: int, lines: Sequence[tuple[int, str]]) -> float:
    (lowest, _), (highest, _) = lines[0], lines[-1]
    share = math.log(max(took, 1) / lowest) / math.log(highest / lowest)
    return round(min(max(share * HEIGHT, LEAST), HEIGHT), 1)


def _bar(x: int, height: float) -> str:
    return f"M{x} {HEIGHT}v-{height}h{STEP - 1}v{height}z"


def heights(values: Sequence[int]) -> list[float]:
    """Return the heights of bars whose highest fills the drawing."""
    most = max(values, default=0) or 1
    return [max(round(value / most * HEIGHT, 1), LEAST) if value else 0.0 for value in values]
