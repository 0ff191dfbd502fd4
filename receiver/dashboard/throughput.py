"""Counts the images that were archived in each minute of the last hour."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

MINUTES = 60
MINUTE = 60_000
LONGEST_GAP = 90_000
"""ms: what was archived between two readings further apart than this belongs to no known minute."""


class Throughput:
    """Counts by minute, from readings of one number that only grows: how many jobs are archived.

    At the start the times of a bounded number of the newest archived jobs are read. From then on each reading
    costs one row of totals, whatever the number of jobs. Minutes without a reading stay unknown.
    """

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._known_since = 0
        self._unknown: set[int] = set()
        self._total: int | None = None
        self._read_at = 0

    def begin(self, total: int, newest: Sequence[int], limit: int, now: int) -> None:
        """Take the first reading: how many jobs are archived, and when the newest of them were.

        Times are ms since the epoch; with as many as ``limit`` of them there may be more.
        """
        self._counts.update(at // MINUTE for at in newest)
        if len(newest) >= limit:
            # Arrival order is not the order of archiving: the oldest of these minutes may be incomplete.
            self._known_since = min(newest) // MINUTE + 1
        self._total, self._read_at = total, now

    def add(self, total: int, now: int) -> None:
        """Take a further reading: what was archived since the last one belongs to this minute."""
        if self._total is None:
            return  # before the first reading everything is unknown
        if now - self._read_at > LONGEST_GAP:
            self._unknown.update(range(self._read_at // MINUTE, now // MINUTE + 1))
        else:
            self._counts[now // MINUTE] += max(total - self._total, 0)
        self._total, self._read_at = total, now
        oldest = now // MINUTE - 2 * MINUTES
        for minute in [minute for minute in self._counts if minute < oldest]:
            del self._counts[minute]
        self._unknown = {minute for minute in self._unknown if minute >= oldest}

    def last_hour(self, now: int) -> list[int | None]:
        """Return the counts of the last 60 minutes, the present one last; ``None`` where it is not known."""
        if self._total is None:
            return [None] * MINUTES
        present = now // MINUTE
        return [
            None if minute < self._known_since or minute in self._unknown else self._counts[minute]
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


STEP = 10
HEIGHT = 100
SPAN = 5


def chart(counts: Sequence[int | None], now: int) -> Chart:
    """Draw counts by minute, of which the last is that of ``now``, ms since the epoch."""
    known = [count for count in counts if count is not None]
    peak = max(known, default=0)
    first = now // MINUTE - len(counts) + 1
    rows: list[tuple[int, int | None]] = []
    for start in range(0, len(counts), SPAN):
        part = [count for count in counts[start : start + SPAN] if count is not None]
        rows.insert(0, ((first + start) * MINUTE, sum(part) if len(part) == SPAN else None))
    # Something is never drawn as nothing.
    bars = [count and max(round(count / peak * HEIGHT, 1), 2.0) for count in counts]
    return Chart(bars, rows, sum(known), peak)
