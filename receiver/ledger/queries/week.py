"""Reads how images fared in the last days, from counts that triggers keep with each move."""

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from receiver.ledger.connection import Connection

DAY = 86_400_000
DAYS = 7
"""Today (UTC) and the days before it."""

MIDDLE = 2**0.125
"""From the begin of a class of durations to its middle: each is 2 ** 0.25 times as long as the one before."""


class Durations(NamedTuple):
    """How long images took from receipt to archive, in ms, right to a tenth.

    Half of the ``images`` took ``median`` or less, and 95 of 100 took ``slow`` or less.
    """

    images: int
    median: int
    slow: int


@dataclass(frozen=True, slots=True)
class Week:
    """The last `DAYS` days; times are when an hour or a day begins, ms since the epoch.

    ``durations`` are of all images together, ``None`` without one, and ``hours`` those of each hour with
    images. ``days`` has the images and bytes that were archived. ``failures`` has how often jobs ended
    without an image, by reason, the most frequent first.
    """

    durations: Durations | None
    hours: Mapping[int, Durations]
    days: Mapping[int, tuple[int, int]]
    failures: Mapping[str, int]


def week(db: Connection, now: int) -> Week:
    """Return how images fared in the days before ``now``, ms since the epoch."""
    today = now - now % DAY
    images = {today - n * DAY: 0 for n in reversed(range(DAYS))}
    sizes = dict.fromkeys(images, 0)
    since = min(images)
    together: Counter[int] = Counter()
    of_days: defaultdict[int, list[str]] = defaultdict(list)
    hours: dict[int, Durations] = {}
    for hour, classes, size in db.execute(
        # A row for each class of each hour would be some thousand.
        "SELECT hour, group_concat(duration || ',' || jobs, ','), sum(bytes) FROM archived_by_hour"
        " WHERE hour >= ? AND hour <= ? GROUP BY hour ORDER BY hour",
        (since, now),
    ):
        day = hour - hour % DAY
        of_days[day].append(classes)
        _, hours[hour] = _hour(classes)
        images[day] += hours[hour].images
        sizes[day] += int(size)
    for of_day in of_days.values():
        together.update(_day(*of_day))
    failures = db.execute(
        "SELECT reason, sum(jobs) AS jobs FROM failed_by_day WHERE day >= ? AND day <= ?"
        " GROUP BY reason ORDER BY 2 DESC, 1",
        (since, now),
    )
    return Week(
        durations=_durations(dict(sorted(together.items()))) if together else None,
        hours=hours,
        days={day: (number, sizes[day]) for day, number in images.items()},
        failures={row["reason"]: int(row["jobs"]) for row in failures},
    )


@lru_cache(DAYS + 1)
def _day(*hours: str) -> Mapping[int, int]:
    """Return the images of a day by class; kept as those of an hour are."""
    together: Counter[int] = Counter()
    for classes in hours:
        together.update(_hour(classes)[0])
    return together


@lru_cache(DAYS * 24 + 2)
def _hour(classes: str) -> tuple[Mapping[int, int], Durations]:
    """Return the images of an hour by class, and their durations; kept since most hours are over."""
    numbers = json.loads(f"[{classes}]")  # `int` takes twice as long
    counts = dict(sorted(zip(numbers[::2], numbers[1::2], strict=True)))
    return counts, _durations(counts)


def _durations(counts: Mapping[int, int]) -> Durations:
    """Return the durations of images that are counted by class, shortest first."""
    classes, reached = list(counts), list(accumulate(counts.values()))
    images = reached[-1]
    median, slow = (classes[bisect_left(reached, images * share)] for share in (0.5, 0.95))
    return Durations(images, round(median * MIDDLE), round(slow * MIDDLE))
