"""The last hour by minutes is known exactly or said to be unknown; the drawings say what the numbers say."""

import re

import pytest

from receiver.dashboard.charts import HEIGHT, MINUTE, MINUTES, Throughput, chart, durations, heights
from receiver.ledger.queries.week import Durations, Week
from tests.support.clock import HOUR, NOW, SECOND

START = NOW // MINUTE * MINUTE
DAY = 24 * HOUR
TODAY = NOW - NOW % DAY


def counted(times: list[int], limit: int = 100) -> Throughput:
    throughput = Throughput()
    throughput.begin(1_000, times, limit, START)
    return throughput


def test_before_the_first_look_nothing_is_known() -> None:
    throughput = Throughput()
    throughput.add(1_000, START)

    assert throughput.last_hour(START) == [None] * MINUTES


def test_the_first_look_counts_the_newest_by_minute() -> None:
    hour = counted([START, START - 1, START - 2, START - 59 * MINUTE, START - 60 * MINUTE]).last_hour(START)

    assert (hour[-1], hour[-2], hour[0], sum(filter(None, hour))) == (1, 2, 1, 4)


def test_where_there_may_be_more_than_were_read_the_minutes_before_are_unknown() -> None:
    hour = counted([START - MINUTE] * 3, limit=3).last_hour(START)

    assert hour == [None] * (MINUTES - 1) + [0]


def test_each_look_adds_what_is_new_to_its_minute() -> None:
    throughput = counted([])
    throughput.add(1_004, START + 20 * SECOND)
    throughput.add(1_004, START + 60 * SECOND)
    throughput.add(1_005, START + 61 * SECOND)

    assert throughput.last_hour(START + 61 * SECOND)[-2:] == [4, 1]


def test_what_came_between_looks_far_apart_belongs_to_no_minute() -> None:
    throughput = counted([])
    throughput.add(1_500, START + 5 * MINUTE)
    throughput.add(1_501, START + 6 * MINUTE)

    assert throughput.last_hour(START + 6 * MINUTE)[-8:] == [0, *[None] * 6, 1]


def test_what_is_long_ago_is_forgotten() -> None:
    throughput = counted([START])
    for minute in range(200):
        throughput.add(1_001 + minute, START + minute * MINUTE)

    assert len(throughput._counts) <= 2 * MINUTES + 1


def test_a_clock_that_was_set_back_breaks_nothing() -> None:
    throughput = counted([START])
    throughput.add(1_003, START - 10 * MINUTE)

    assert throughput.last_hour(START - 10 * MINUTE)[-1] == 3


def test_the_drawing_is_as_high_as_its_busiest_minute_and_says_what_the_table_says() -> None:
    drawn = chart([None, 0, 1, 400, *[2] * 56], START)

    assert drawn.bars[:4] == [None, 0, pytest.approx(2), HEIGHT]  # something is not drawn as nothing
    assert (drawn.total, drawn.peak) == (513, 400)
    assert len(drawn.rows) == 12
    assert drawn.rows[-1] == (START - 59 * MINUTE, None)
    assert drawn.rows[0] == (START - 4 * MINUTE, 10)


def test_an_hour_without_an_image_is_drawn_flat() -> None:
    drawn = chart([0] * MINUTES, START)

    assert set(drawn.bars) == {0}
    assert drawn.total == 0


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
