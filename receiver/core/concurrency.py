"""Concurrent work: bounded, kept running, and ended in order."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from structlog.typing import FilteringBoundLogger

from receiver.core.errors import LedgerError

T = TypeVar("T")
R = TypeVar("R")

RETRY_SECONDS = 1.0
"""Between two attempts after an error of the ledger, or a bug."""


async def map_concurrently(items: Sequence[T], limit: int, work: Callable[[T], Awaitable[R]]) -> list[R]:
    """Call ``work`` with each item, ``limit`` at a time. Return the results in the items' order.

    The first error cancels the rest and is raised.
    """
    results: dict[int, R] = {}
    left = iter(enumerate(items))

    async def worker() -> None:
        for number, item in left:
            results[number] = await work(item)

    tasks = [asyncio.create_task(worker()) for _ in range(min(limit, len(items)))]
    try:
        await asyncio.gather(*tasks)  # a `TaskGroup` would raise a group of errors, which no caller expects
    finally:
        await cancel(tasks)
    return [results[number] for number in range(len(items))]


async def run_in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread of its own, which nothing waits for after a cancellation.

    The loop would wait for its own threads at the end, and a disk or a name server may never answer.
    """
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # from here on it takes a result, also after a cancellation

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised in the caller
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(outcome)


async def cancel(tasks: Iterable[asyncio.Task[object]]) -> None:
    """Cancel tasks and wait until they have ended."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def set_within(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for an event, but so many seconds at most; ``None`` is no limit. Return whether it was set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def run_forever(
    step: Callable[[], Awaitable[float | None]],
    log: FilteringBoundLogger,
    *,
    retry: float = RETRY_SECONDS,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ledger_trouble: str = "ledger cannot be used",
) -> None:
    """Call ``step`` again and again. An error is logged and does not end the loop.

    ``step`` returns the seconds to wait before it is called again; after an error that is ``retry``. The loop
    ends when it returns ``None``, and when the ledger is closed (``ledger.stopping``).
    """
    while True:
        seconds: float | None = retry
        try:
            seconds = await step()
        except LedgerError as error:
            if error.reason == "ledger.stopping":
                return
            log.error(ledger_trouble, reason=error.reason, detail=error.detail)  # noqa: TRY400 - not a bug
        except Exception:
            log.exception("unexpected error")
        if seconds is None:
            return
        await sleep(seconds)


async def persist(write: Callable[[], Awaitable[T]], log: FilteringBoundLogger) -> T:
    """Repeat a write until the ledger takes it or stops, so that work that is done need not be done again."""
    while True:
        try:
            return await write()
        except LedgerError as error:
            if error.reason == "ledger.stopping":
                raise
            log.error("ledger cannot be written", reason=error.reason, detail=error.detail)  # noqa: TRY400 - not a bug
            await asyncio.sleep(RETRY_SECONDS)
