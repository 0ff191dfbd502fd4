"""Calls per second."""

from receiver.core.rate_limit import RateLimiter


async def test_calls_are_spaced_and_held_back() -> None:
    at = 100.0
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    limiter = RateLimiter(2, sleep=sleep, clock=lambda: at)
    assert [limiter.reserve() for _ in range(3)] == [0, 0.5, 1.0]
    limiter.hold(10)
    assert limiter.reserve() == 10
    await limiter.wait()
    assert waited == [10.5]
    at = 200.0
    assert limiter.reserve() == 0
    await limiter.wait()
    await limiter.wait()
    assert waited == [10.5, 0.5, 1.0]


def test_without_a_rate_only_a_hold_delays() -> None:
    limiter = RateLimiter(clock=lambda: 0.0)
    assert [limiter.reserve() for _ in range(3)] == [0, 0, 0]
    limiter.hold(3)
    assert limiter.reserve() == 3
