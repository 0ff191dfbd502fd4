"""The client for programs without an event loop."""

import asyncio
import ssl
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from receiver.client.asynchronous import TIMEOUT, AsyncClient
from receiver.core.concurrency import cancel

CLOSED = "The client is closed."

P = ParamSpec("P")
T = TypeVar("T")


def _value(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Client", P], T]:
    @wraps(method)
    def wait(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(method(self._client, *args, **kwargs))

    return wait


def _items(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate["Client", P], Iterator[T]]:
    @wraps(method)
    def iterate(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items = method(self._client, *args, **kwargs)

        async def following() -> T | None:
            return await anext(items, None)

        try:
            while (found := self._run(following())) is not None:
                yield found
        finally:
            with suppress(RuntimeError):  # a closed client has ended it
                closing = self._submit(items.aclose())
                # Garbage is collected in any thread, also in the loop's own, which cannot wait for itself.
                if threading.current_thread() is not self._thread:
                    closing.result()

    return iterate


class Client:
    """`AsyncClient` for programs without an event loop, and for notebooks: the same methods, which block.

    Its event loop is in a thread of its own, so several threads can use it, also where a loop is running.
    """

    def __init__(
        self, url: str, token: str, *, timeout: float = TIMEOUT, verify: ssl.SSLContext | bool = True
    ) -> None:
        self._client = AsyncClient(url, token, timeout=timeout, verify=verify)
        self._closed = False
        self._closing = threading.RLock()  # within which the garbage collector may end an iteration
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="receiver-client", daemon=True)
        self._thread.start()

    jobs = _items(AsyncClient.jobs)
    job = _value(AsyncClient.job)
    wait = _value(AsyncClient.wait)
    image = _value(AsyncClient.image)
    changes = _items(AsyncClient.changes)
    announce = _value(AsyncClient.announce)
    retry = _value(AsyncClient.retry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. It cannot be used any more, and other threads' calls raise RuntimeError."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            # After all work that was handed in before
            end = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        end.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        await cancel(asyncio.all_tasks() - {asyncio.current_task()})
        await self._client.aclose()

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._closing:
            if self._closed:
                work.close()
                raise RuntimeError(CLOSED)
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._submit(work)
        try:
            return future.result()
        except CancelledError:
            raise RuntimeError(CLOSED) from None
        except BaseException:  # such as Ctrl-C
            future.cancel()
            raise
