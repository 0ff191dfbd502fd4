"""So many calls a second, and no more."""

import asyncio
import time
from collections.abc import Awaitable, Callable


class Pace:
    """Lets calls through at a rate, in the order in which they come.

    Args:
        rate: calls a second.
        sleep: waits so many seconds.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        rate: float,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._span = 1 / rate
        self._sleep = sleep
        self._clock = clock
        self._next = float("-inf")

    async def turn(self) -> None:
        """Waits until a call may be made."""
        now = self._clock()
        wait = self._next - now
        self._next = max(self._next, now) + self._span
        if wait > 0:
            await self._sleep(wait)
