"""Log lines at a bounded rate, and those that cannot be written."""

import io
import logging
import os

from receiver.telemetry.logs import REPEAT_SECONDS, LineLogger, RepeatFilter


def warning(text: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("uvicorn.error", level, "", 0, text, None, None)


def test_the_same_warning_a_thousand_times_is_a_line_now_and_then_that_counts_them() -> None:
    now = 0.0
    repeats = RepeatFilter(lambda: now)

    assert [repeats.filter(warning("no request")) for _ in range(1000)] == [True] + [False] * 999
    assert repeats.filter(warning("another"))
    now += REPEAT_SECONDS
    later = warning("no request")
    assert repeats.filter(later)
    assert later.getMessage() == "no request (999 more since the last line)"


def test_an_error_is_always_logged() -> None:
    repeats = RepeatFilter(lambda: 0.0)
    assert all(repeats.filter(warning("broken", logging.ERROR)) for _ in range(3))


def test_the_tracebacks_of_one_kind_of_bug_share_a_line() -> None:
    def bug(error: Exception) -> logging.LogRecord:
        record = warning("Exception in ASGI application\n", logging.ERROR)
        record.exc_info = (type(error), error, None)
        return record

    repeats = RepeatFilter(lambda: 0.0)
    passed = [repeats.filter(bug(error)) for error in (ValueError(), ValueError(), KeyError())]
    assert passed == [True, False, True]


def test_a_line_that_nobody_takes_any_more_costs_nothing_but_itself() -> None:
    read, write = os.pipe()
    with io.TextIOWrapper(io.FileIO(write, "w"), write_through=True) as stream:
        lines = LineLogger(logging.StreamHandler(stream), "receiver.test")
        lines.info("taken")
        assert os.read(read, 100) == b"taken\n"

        os.close(read)
        lines.info("not taken")

    lines.info("after the end")
