"""Limits calls per second."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from receiver.core.clock import Clock
from receiver.core.errors import LedgerError, UnavailableError


class RateLimiter:
    """Spaces calls evenly, in the order in which they come: ``rate`` a second, ``None`` for no limit."""

    def __init__(
        self,
        rate: float | None = None,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = 0.0 if rate is None else 1 / rate
        self._sleep = sleep
        self._clock = clock
        self._next = float("-inf")

    def reserve(self) -> float:
        """Take the next slot. Return the seconds until it begins."""
        now = self._clock()
        start = max(now, self._next)
        self._next = start + self._interval
        return start - now

    def hold(self, seconds: float) -> None:
        """Let no call through within the next seconds."""
        self._next = max(self._next, self._clock() + seconds)

    async def wait(self) -> None:
        if (seconds := self.reserve()) > 0:
            await self._sleep(seconds)


class SharedRateLimiter:
    """Spaces the calls of all receivers that share a ledger evenly.

    ``next_call`` takes the next moment, in ms since the epoch, given the ms between two.
    """

    def __init__(
        self,
        rate: float,
        next_call: Callable[[int], Awaitable[int]],
        *,
        now: Clock,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._interval = round(1000 / rate)
        self._next_call = next_call
        self._now = now
        self._sleep = sleep

    async def wait(self) -> None:
        """Wait until a call may be made. Raise `UnavailableError` where the ledger cannot be asked."""
        try:
            at = await self._next_call(self._interval)
        except LedgerError as error:
            raise UnavailableError(
                f"Not asked, because the ledger keeps the rate: {error.reason}."
            ) from error
        if (wait := at - self._now()) > 0:
            await self._sleep(wait / 1000)
