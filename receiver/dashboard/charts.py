"""Counts the images archived in each minute of the last hour, and draws them and the last days."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from receiver.ledger.queries.week import Week

MINUTES = 60
MINUTE = 60_000
LONGEST_GAP = 90_000
"""ms: what was archived between two readings further apart than this belongs to no known minute."""

STEP = 10
HEIGHT = 100
MINUTES_IN_ROW = 5
LEAST = 2.0
"""The height of the shortest bar: something is never drawn as nothing."""

HOUR = 3_600_000
HOUR_STEP = 6
"""The width of an hour; the drawings are stretched to their panels."""

LINES = (
    (1_000, "1 s"),
    (60_000, "1 min"),
    (3_600_000, "1 h"),
    (216_000_000, "2\N{VULGAR FRACTION ONE HALF} d"),
)
"""The lines in the drawing of durations, in ms; each is 60 times the one before it."""

MOST_REASONS = 8


class Throughput:
    """Counts by minute, from readings of one number that only grows: how many jobs are archived.

    At the start the times of a bounded number of the newest archived jobs are read. From then on each reading
    costs one row of totals, whatever the number of jobs. Minutes without a reading stay unknown.
    """

    def __init__(self) -> None:
        self._counts: dict[int, int | None] = {}  # by minute; `None`: not known
        self._known_since = 0
        self._total: int | None = None
        self._read_at = 0

    def begin(self, total: int, newest: Sequence[int], limit: int, now: int) -> None:
        """Take the first reading: how many jobs are archived, and when the newest of them were.

        Times are ms since the epoch; with as many as ``limit`` of them there may be more.
        """
        self._counts.update(Counter(at // MINUTE for at in newest))
        if len(newest) >= limit:
            # Arrival order is not the order of archiving: the oldest of these minutes may be incomplete.
            self._known_since = min(newest) // MINUTE + 1
        self._total, self._read_at = total, now

    def add(self, total: int, now: int) -> None:
        """Take a further reading: what was archived since the last one belongs to this minute."""
        if self._total is None:
            return  # before the first reading everything is unknown
        minute = now // MINUTE
        if now - self._read_at > LONGEST_GAP:
            self._counts |= dict.fromkeys(range(self._read_at // MINUTE, minute + 1))
        elif (count := self._counts.get(minute, 0)) is not None:
            self._counts[minute] = count + max(total - self._total, 0)
        self._total, self._read_at = total, now
        self._counts = {at: count for at, count in self._counts.items() if at >= minute - 2 * MINUTES}

    def last_hour(self, now: int) -> list[int | None]:
        """Return the counts of the last 60 minutes, the present one last; ``None`` where it is not known."""
        if self._total is None:
            return [None] * MINUTES
        present = now // MINUTE
        return [
            None if minute < self._known_since else self._counts.get(minute, 0)
            for minute in range(present - MINUTES + 1, present + 1)
        ]


class Chart(NamedTuple):
    """A bar chart of the last hour, and the same as a table.

    ``bars`` are the heights of the minutes, the oldest first, and ``None`` where a count is not known.
    ``rows`` are five minutes each, the newest first: their begin in ms and their count. ``total`` and
    ``peak`` are of the minutes that are known.
    """

    bars: Sequence[float | None]
    rows: Sequence[tuple[int, int | None]]
    total: int
    peak: int


def chart(counts: Sequence[int | None], now: int) -> Chart:
    """Draw counts by minute, of which the last is that of ``now``, ms since the epoch."""
    known = [count for count in counts if count is not None]
    peak = max(known, default=0)
    first = now // MINUTE - len(counts) + 1
    rows: list[tuple[int, int | None]] = []
    for start in range(0, len(counts), MINUTES_IN_ROW):
        part = [count for count in counts[start : start + MINUTES_IN_ROW] if count is not None]
        rows.insert(0, ((first + start) * MINUTE, sum(part) if len(part) == MINUTES_IN_ROW else None))
    bars = [count and _height(count / peak) for count in counts]
    return Chart(bars, rows, sum(known), peak)


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
    (lowest, _), (highest, _) = lines[0], lines[-1]
    begin = min(week.days)

    def bar(at: int, took: int) -> str:
        height = _height(math.log(max(took, 1) / lowest) / math.log(highest / lowest))
        return f"M{(at - begin) // HOUR * HOUR_STEP} {HEIGHT}v-{height}h{HOUR_STEP - 1}v{height}z"

    return Drawing(
        slow="".join(bar(at, hour.slow) for at, hour in week.hours.items()),
        median="".join(bar(at, hour.median) for at, hour in week.hours.items()),
        width=len(week.days) * 24 * HOUR_STEP,
        lines=[name for _, name in reversed(lines)],
    )


def heights(values: Sequence[int]) -> list[float]:
    """Return the heights of bars whose highest fills the drawing."""
    most = max(values, default=0)
    return [_height(value / most) if value else 0.0 for value in values]


def _height(share: float) -> float:
    return min(max(round(share * HEIGHT, 1), LEAST), HEIGHT)
