"""Bounded, surviving and repeated work."""

import asyncio

import pytest
import structlog
from structlog.testing import capture_logs

from receiver.core.concurrency import RETRY_SECONDS, map_concurrently, persist, run_forever
from receiver.core.errors import LedgerError
from tests.support.clock import skipping

log = structlog.get_logger("test")


async def test_so_many_at_a_time_and_the_results_in_order() -> None:
    busy = most = 0

    async def work(number: int) -> int:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0)
        busy -= 1
        return number * 2

    assert await map_concurrently(range(50), 4, work) == [number * 2 for number in range(50)]
    assert most == 4
    assert await map_concurrently([], 4, work) == []


async def test_the_first_error_ends_all() -> None:
    begun: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)
        await asyncio.sleep(0)
        if number == 3:
            raise ValueError("third")

    with pytest.raises(ValueError, match="third"):
        await map_concurrently(range(100), 2, work)
    assert len(begun) < 10


@pytest.mark.parametrize("end", [None, LedgerError("ledger.stopping")])
async def test_a_loop_survives_errors_until_it_is_to_end(end: LedgerError | None) -> None:
    slept: list[float] = []
    answers: list[float | Exception | None] = [
        5.0,
        LedgerError("ledger.unavailable"),
        ValueError("a bug"),
        7.0,
        end,
    ]

    async def step() -> float | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    with capture_logs() as lines:
        await run_forever(step, log, retry=3, sleep=sleep)
    assert slept == [5, 3, 3, 7]
    assert [line["event"] for line in lines] == ["ledger cannot be used", "unexpected error"]


@skipping
async def test_a_write_is_repeated_until_the_ledger_takes_it() -> None:
    answers: list[LedgerError | str] = [LedgerError("ledger.unavailable"), LedgerError("ledger.corrupt"), "x"]
    began = asyncio.get_running_loop().time()

    async def write() -> str:
        answer = answers.pop(0)
        if isinstance(answer, LedgerError):
            raise answer
        return answer

    assert await persist(write, log) == "x"
    assert asyncio.get_running_loop().time() - began >= 2 * RETRY_SECONDS


async def test_a_write_is_given_up_when_the_ledger_closes() -> None:
    async def write() -> None:
        raise LedgerError("ledger.stopping")

    with pytest.raises(LedgerError, match=r"ledger\.stopping"):
        await persist(write, log)
