"""The windows over downloads, on lines that are simulated: what is carried in which time, and by how many."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import pytest

from receiver.core.errors import FetchError
from receiver.core.jobs import Job, State
from receiver.fetch.download import DownloadLimits, Progress
from receiver.ledger import Claim
from receiver.pipeline.fetch_windows import FIRST, LEAST, FetchWindows, Window

RATE = 1000
"""The least rate where a test needs none of its own."""
TICK = 0.05
TOO_SLOW = FetchError("fetch.too_slow")
LIMITS = DownloadLimits(max_bytes=10**9)


@dataclass(eq=False)
class Running:
    host: str
    size: float
    progress: Progress
    end: contextlib.ExitStack
    silent: float
    """Seconds until the body begins."""
    judged: tuple[float, float] = (0.0, 0.0)
    """Seconds and bytes when the rate was last looked at."""


@dataclass
class Outcome:
    seconds: float = 0.0
    given_up: int = 0
    most: int = 0


def carry(
    rate: float, images: Sequence[float], *, windows: FetchWindows | None = None, latency: float = 0.0
) -> Outcome:
    """Downloads images over one line that all of them share evenly; without windows, 16 at a time."""
    waiting, outcome = list(images), Outcome()
    running: list[Running] = []
    while waiting or running:
        limits = windows and windows.limits([])
        most = limits.most.get("host", limits.default) if limits else 16
        while waiting and len(running) < most:
            end = contextlib.ExitStack()
            progress = end.enter_context(windows.download("host")) if windows else Progress()
            running.append(Running("host", waiting.pop(0), progress, end, latency))
        outcome.most = max(outcome.most, len(running))
        outcome.seconds += TICK
        flowing = [each for each in running if each.silent <= 0]
        for each in running:
            each.silent -= TICK
        for each in flowing:
            each.progress.bytes += int(rate * TICK / len(flowing))
            each.progress.seconds += TICK
            seconds, received = each.judged
            if each.progress.bytes >= each.size:
                running.remove(each)
                each.end.close()
            elif each.progress.seconds - seconds >= LIMITS.rate_window:
                if each.progress.bytes - received < LIMITS.min_rate * (each.progress.seconds - seconds):
                    running.remove(each)
                    outcome.given_up += 1
                    waiting.append(each.size)
                    with pytest.raises(FetchError), each.end:
                        raise TOO_SLOW
                each.judged = (each.progress.seconds, each.progress.bytes)
        assert outcome.seconds < 1000
    return outcome


def windows() -> FetchWindows:
    return FetchWindows(16, LIMITS.min_rate)


def test_a_slow_line_carries_sixteen_images_in_the_time_that_it_takes() -> None:
    """16 images of 1.2 MB over 150 KB/s: with 16 at a time none of them came in 170 s."""
    outcome = carry(150e3, [1.2e6] * 16, windows=windows())
    assert outcome.seconds < 135
    assert outcome.given_up == 0
    assert outcome.most == 4


@pytest.mark.parametrize("latency", [0, 0.1])
@pytest.mark.parametrize("rate", [2e6, 12e6, 100e6])
def test_a_fast_line_loses_nothing(rate: float, latency: float) -> None:
    images = [1.2e6] * 400
    adapted, fixed = (
        carry(rate, images, windows=windows(), latency=latency),
        carry(rate, images, latency=latency),
    )
    assert adapted.seconds < fixed.seconds * 1.05 + 3 * latency
    assert adapted.most == 16


def test_a_line_that_becomes_slow_is_carried_by_fewer_and_recovers() -> None:
    subject = windows()
    assert carry(100e6, [1.2e6] * 40, windows=subject).most == 16
    slow = carry(150e3, [1.2e6] * 16, windows=subject)
    assert slow.given_up <= 16 + 8
    assert subject.limits([]).most["host"] <= 8
    assert carry(100e6, [1.2e6] * 40, windows=subject).most == 16


def test_a_download_alone_lets_the_window_grow_only_as_far_as_the_line_carries() -> None:
    subject = windows()
    for _ in range(50):
        carry(150e3, [1.2e6], windows=subject)
    assert subject.limits([]).most["host"] == 4


@pytest.mark.parametrize("largest", [1, 3, 4, 16, 256])
def test_a_window_has_its_bounds(largest: int) -> None:
    subject = Window(largest, RATE, min(FIRST, largest))
    for _ in range(600):
        subject.succeeded(inf, 1)
    assert subject.size == largest
    for _ in range(20):
        subject.too_slow([0.0], subject.shrinks)
    assert subject.size == min(LEAST, largest)


def test_one_that_drips_beside_others_that_do_not_shrinks_nothing() -> None:
    subject = Window(16, RATE, 8)
    subject.too_slow([9e9, 9e9, 1.0], 0)
    subject.too_slow([], 0)
    assert subject.size == 8
    subject.too_slow([1.0, 1.0, 9e9], 0)
    assert subject.size == 4


def test_downloads_that_end_together_shrink_the_window_once() -> None:
    subject = Window(16, RATE, 16)
    for _ in range(16):
        subject.too_slow([1.0], 0)
    assert subject.size == 8


def test_a_window_does_not_grow_where_the_next_download_would_be_slow() -> None:
    subject = Window(16, RATE, 4)
    subject.succeeded(2.4 * RATE, 4)
    assert subject.size == 4
    subject.succeeded(2.6 * RATE, 4)
    assert subject.size == 5


def test_hosts_have_windows_of_their_own_and_a_share() -> None:
    subject = windows()
    with subject.download("a") as progress:
        progress.bytes = 10**9
    first, again = (Job("job", State.RECEIVED, attempts=attempts) for attempts in (1, 2))
    limits = subject.limits([Claim(first, "1", "a"), Claim(again, "2", "b"), Claim(first, "3", "b")])
    assert (limits.running, limits.retried, limits.most) == ({"a": 1, "b": 2}, {"b": 1}, {"a": 5})
    assert (limits.default, limits.share) == (4, 8)


def test_other_errors_change_nothing_and_no_crowd_of_hosts_is_remembered() -> None:
    subject = windows()
    for number in range(3000):
        with pytest.raises(FetchError), subject.download(f"host-{number}"):
            raise FetchError("fetch.gone")
    most = subject.limits([]).most
    assert set(most.values()) == {4}
    assert len(most) == 1000
    assert "host-2999" in most
