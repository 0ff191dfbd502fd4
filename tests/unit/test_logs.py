"""Log lines at a bounded rate, and those that cannot be written."""

import asyncio
import io
import logging
import os
from typing import ClassVar

import pytest
import structlog

from receiver.core.log_limit import REPEAT_SECONDS, LogLimit
from receiver.telemetry.logs import LineLogger, LineWriter, RepeatFilter, limit_outages


def warning(text: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("uvicorn.error", level, "", 0, text, None, None)


def test_the_same_warning_a_thousand_times_is_a_line_now_and_then_that_counts_them() -> None:
    now = 0.0
    repeats = RepeatFilter(LogLimit(lambda: now))

    assert [repeats.filter(warning("no request")) for _ in range(1000)] == [True] + [False] * 999
    assert repeats.filter(warning("another"))
    now += REPEAT_SECONDS
    later = warning("no request")
    assert repeats.filter(later)
    assert later.getMessage() == "no request (999 more since the last line)"


def test_an_error_is_always_logged() -> None:
    repeats = RepeatFilter(LogLimit(lambda: 0.0))
    assert all(repeats.filter(warning("broken", logging.ERROR)) for _ in range(3))


def test_the_tracebacks_of_one_kind_of_bug_share_a_line() -> None:
    def bug(error: Exception) -> logging.LogRecord:
        record = warning("Exception in ASGI application\n", logging.ERROR)
        record.exc_info = (type(error), error, None)
        return record

    repeats = RepeatFilter(LogLimit(lambda: 0.0))
    passed = [repeats.filter(bug(error)) for error in (ValueError(), ValueError(), KeyError())]
    assert passed == [True, False, True]


def test_loops_that_find_the_ledger_away_each_second_write_a_line_now_and_then() -> None:
    now = 0.0
    limit = limit_outages(LogLimit(lambda: now))

    def passed(level: str = "error", **more: str) -> dict[str, object] | None:
        line = {"logger": "receiver.worker", "event": "nothing can be claimed", "stage": "fetch", **more}
        try:
            written = limit(None, level, {"reason": "ledger.unavailable", **line})
        except structlog.DropEvent:
            return None
        assert isinstance(written, dict)
        return written

    first = passed()
    assert first is not None
    assert "times" not in first
    assert [passed() for _ in range(9)] == [None] * 9
    assert passed(stage="archive") is not None
    assert passed(reason="ledger.corrupt") is not None
    now += REPEAT_SECONDS
    later = passed()
    assert later is not None
    assert later["times"] == 10


@pytest.mark.parametrize(
    "more", [{"job": "a"}, {"times": 3}, {"reason": "spool.disk"}, {"level": "info"}, {"reason": None}]
)
def test_no_other_line_is_left_out(more: dict[str, object]) -> None:
    limit = limit_outages(LogLimit(lambda: 0.0))
    level = str(more.pop("level", "error"))
    line = {"logger": "receiver.worker", "event": "e", "reason": "ledger.unavailable", **more}
    assert [limit(None, level, dict(line)) for _ in range(2)] == [line, line]


def test_a_line_that_nobody_takes_any_more_costs_nothing_but_itself() -> None:
    read, write = os.pipe()
    with io.TextIOWrapper(io.FileIO(write, "w"), write_through=True) as stream:
        lines = LineLogger(LineWriter(logging.StreamHandler(stream)), "receiver.test")
        lines.info("taken")
        assert os.read(read, 100) == b"taken\n"

        os.close(read)
        lines.info("not taken")

    lines.info("after the end")


async def test_the_lines_of_one_turn_of_the_event_loop_are_one_write_in_their_order() -> None:
    class Stream(io.StringIO):
        writes: ClassVar[list[str]] = []

        def write(self, text: str) -> int:
            self.writes.append(text)
            return len(text)

    stream = Stream()
    writer = LineWriter(logging.StreamHandler(stream))
    first, second = LineLogger(writer, "receiver.first"), LineLogger(writer, "receiver.second")
    first.info("one")
    second.warning("two")
    assert stream.writes == []
    await asyncio.sleep(0)
    assert stream.writes == ["one\ntwo\n"]
    await asyncio.to_thread(second.info, "three")
    assert stream.writes[1:] == ["three\n"]
