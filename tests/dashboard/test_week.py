"""The drawings of the last days say what the numbers say."""

import re

import pytest

from receiver.dashboard.throughput import HEIGHT
from receiver.dashboard.week import durations, heights
from receiver.ledger.queries.week import Durations, Week
from tests.support.clock import HOUR, NOW, SECOND

DAY = 24 * HOUR
TODAY = NOW - NOW % DAY


def week(*hours: tuple[int, int, int]) -> Week:
    """The week of hours, each with its number, its median and its 95th percentile."""
    return Week(
        durations=None,
        hours={TODAY - 6 * DAY + n * HOUR: Durations(1, median, slow) for n, median, slow in hours},
        days={TODAY - n * DAY: (0, 0) for n in reversed(range(7))},
        failures={},
    )


@pytest.mark.parametrize(
    ("longest", "lines"),
    [(0, 2), (60 * SECOND, 2), (61 * SECOND, 3), (HOUR, 3), (HOUR + 1, 4), (400 * DAY, 4)],
)
def test_the_scale_reaches_to_the_longest_duration(longest: int, lines: int) -> None:
    drawn = durations(week((0, SECOND, longest)))
    assert drawn.lines == ["2\N{VULGAR FRACTION ONE HALF} d", "1 h", "1 min", "1 s"][-lines:]
    assert max(map(float, re.findall(r"v-([\d.]+)h", drawn.slow))) <= HEIGHT


def test_an_hour_stands_at_its_place_and_as_high_as_it_took() -> None:
    drawn = durations(week((0, 1, SECOND), (167, 60 * SECOND, HOUR)))
    assert drawn.median == "M0 100v-2.0h5v2.0zM1002 100v-50.0h5v50.0z"
    assert drawn.slow == "M0 100v-2.0h5v2.0zM1002 100v-100.0h5v100.0z"
    assert drawn.width == 168 * 6


def test_something_is_never_drawn_as_nothing() -> None:
    assert heights([0, 1, 1000]) == [0, 2, 100]
    assert heights([0, 0]) == [0, 0]
    assert heights([]) == []
