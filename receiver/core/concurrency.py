"""Many things at a time, but not more than so many."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def each(items: Sequence[T], hands: int, work: Callable[[T], Awaitable[R]]) -> list[R]:
    """Does the work on each item, ``hands`` at a time; gives the results in the items' order.

    The first error ends all of it, and is raised.
    """
    results: dict[int, R] = {}
    left = iter(enumerate(items))

    async def hand() -> None:
        for number, item in left:
            results[number] = await work(item)

    tasks = [asyncio.create_task(hand()) for _ in range(min(hands, len(items)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [results[number] for number in range(len(items))]
