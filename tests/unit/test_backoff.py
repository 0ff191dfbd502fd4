"""When to try again."""

from hypothesis import given
from hypothesis import strategies as st

from receiver.core import backoff
from tests.support.clock import HOUR, NOW, SECOND

jitter = st.floats(0, 1, exclude_max=True)
attempts = st.integers(1, 10_000)
lives = st.integers(-HOUR, 48 * HOUR)
asked = st.none() | st.floats(0, 1e9) | st.just(float("inf"))


@given(attempts, lives, jitter, asked)
def test_a_wait_is_at_least_the_least_one_and_never_reaches_the_deadline_while_there_is_time(
    tries: int, left: int, die: float, retry_after: float | None
) -> None:
    wait = backoff.fetch_retry_at(NOW, tries, NOW + left, lambda: die, retry_after) - NOW
    assert wait >= backoff.MIN_WAIT
    assert wait <= max(left // 2, backoff.MIN_WAIT)
    if left >= 2 * backoff.MIN_WAIT:
        assert NOW + wait < NOW + left


@given(attempts, lives, jitter)
def test_a_wait_takes_at_most_an_eighth_of_the_time_left(tries: int, left: int, die: float) -> None:
    wait = backoff.fetch_retry_at(NOW, tries, NOW + left, lambda: die) - NOW
    assert wait <= max(left // 8, backoff.MIN_WAIT)


@given(attempts, st.integers(0, 24 * HOUR), st.integers(0, 24 * HOUR), jitter)
def test_waits_become_no_longer_as_the_end_comes_nearer(
    tries: int, nearer: int, farther: int, die: float
) -> None:
    nearer, farther = sorted((nearer, farther))
    near = backoff.fetch_retry_at(NOW, tries, NOW + nearer, lambda: die)
    assert near <= backoff.fetch_retry_at(NOW, tries, NOW + farther, lambda: die)


def test_a_job_that_fails_all_its_life_is_tried_ever_more_densely_towards_the_end() -> None:
    end, now, waits = NOW + 24 * HOUR, NOW, list[int]()
    while now < end:
        at = backoff.fetch_retry_at(now, len(waits) + 1, end, lambda: 0.999)
        waits.append(at - now)
        now = at
    longest = waits.index(max(waits))
    assert waits[:longest] == sorted(waits[:longest])
    in_last_hours = waits[-20:]
    assert in_last_hours == sorted(in_last_hours, reverse=True)
    assert waits[-1] == backoff.MIN_WAIT
    assert 100 < len(waits) < 250


@given(attempts, jitter)
def test_the_ceiling_doubles_and_ends(tries: int, die: float) -> None:
    far = NOW + 10_000 * HOUR
    wait = backoff.fetch_retry_at(NOW, tries, far, lambda: die) - NOW
    assert wait <= min(2 * SECOND * 2 ** min(tries, 30), 15 * 60 * SECOND)
    upload = backoff.upload_retry_at(NOW, tries, lambda: die) - NOW
    assert backoff.MIN_WAIT <= upload <= min(SECOND * 2 ** min(tries, 30), 3 * 60 * SECOND)


@given(attempts)
def test_the_whole_width_below_the_ceiling_is_used(tries: int) -> None:
    assert backoff.upload_retry_at(NOW, tries, lambda: 0.0) == NOW + backoff.MIN_WAIT
    highest = backoff.upload_retry_at(NOW, tries, lambda: 0.9999999) - NOW
    assert highest >= min(SECOND * 2 ** min(tries, 30), 3 * 60 * SECOND) - 1


def test_a_wait_for_a_key_that_is_taken_grows_longer() -> None:
    assert backoff.upload_retry_at(NOW, 50, lambda: 0.5, backoff.OCCUPIED_MAX) == NOW + HOUR // 2


@given(attempts, jitter, st.floats(1, 1e6))
def test_what_the_host_asked_for_is_honoured_within_half_the_time_left(
    tries: int, die: float, retry_after: float
) -> None:
    left = 24 * HOUR
    wait = backoff.fetch_retry_at(NOW, tries, NOW + left, lambda: die, retry_after) - NOW
    assert wait >= min(int(retry_after * SECOND), left // 2)


def test_a_host_that_asks_for_less_is_not_asked_sooner() -> None:
    without = backoff.fetch_retry_at(NOW, 5, NOW + 24 * HOUR, lambda: 0.5)
    assert backoff.fetch_retry_at(NOW, 5, NOW + 24 * HOUR, lambda: 0.5, 0.0) == without


def test_an_attempt_that_ends_with_the_process_is_none_until_that_happens_again_and_again() -> None:
    waits = [backoff.crash_retry_at(0, before, 24 * HOUR) for before in (0, 1, 2, 3, 9, 10, 999)]
    assert waits == [None, None, 4 * SECOND, 8 * SECOND, 512 * SECOND, 900 * SECOND, 900 * SECOND]
    assert backoff.crash_retry_at(0, 9, 80 * SECOND) == 10 * SECOND
    assert backoff.crash_retry_at(NOW, 9, NOW - HOUR) == NOW + SECOND
