"""Makes blocking methods of an archive ones that are awaited."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A", bound="PooledArchive")


class PooledArchive:
    """Has a pool of its own: the default executor also resolves names, and must not wait for an archive."""

    def __init__(self, uploads: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=uploads, thread_name_prefix="archive")
        self._running: set[Future[Any]] = set()

    async def _run(self, work: Callable[[], T]) -> T:
        running = self._pool.submit(work)
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        # A cancelled caller does not stop the thread, and `aclose` waits for threads.
        return await asyncio.wrap_future(running)


def pooled(work: Callable[Concatenate[A, P], T]) -> Callable[Concatenate[A, P], Coroutine[Any, Any, T]]:
    """Make a method run in the archive's pool."""

    @wraps(work)
    async def method(self: A, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(partial(work, self, *args, **kwargs))

    return method
