"""Writes every log line in one form: the receiver's, uvicorn's, and those of the libraries."""

import json
import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Literal, TextIO

import structlog
from structlog.typing import Processor

REPEAT_SECONDS = 10.0
"""Between two lines of uvicorn's with the same text."""


class RepeatFilter(logging.Filter):
    """Passes the same warning or traceback once in a while, with the number of those that it stands for.

    uvicorn warns of each request that is none, and anybody can send a thousand of them a second. Of each
    request that meets a bug it writes a traceback.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._held: dict[tuple[str, type[BaseException] | None], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log this record; all but warnings and tracebacks are logged."""
        bug = record.exc_info[0] if record.exc_info else None
        if (bug is None and record.levelno != logging.WARNING) or not isinstance(record.msg, str):
            return True
        key = (record.msg, bug)
        at, times = self._held.get(key, (float("-inf"), 0))
        now = self._clock()
        if now - at < REPEAT_SECONDS:
            self._held[key] = (at, times + 1)
            return False
        self._held[key] = (now, 0)
        if times:
            record.msg = f"{record.msg} ({times} more since the last line)"
        return True


class LineLogger:
    """Writes the lines of one of the receiver's own loggers to a handler's stream, past `logging` itself.

    `logging` looks for each line's place in the source, which no line names, and makes a record and a copy of
    it: as much work again as the line itself, in the event loop, for every delivery.

    As with `logging`, a line that cannot be written is lost, and nothing else is.

    Args:
        handler: of the lines of the libraries, whose stream and lock are shared.
        name: of the logger.
    """

    def __init__(self, handler: "logging.StreamHandler[TextIO]", name: str) -> None:
        self.name = name  # this is where structlog looks for it
        self._handler = handler

    def msg(self, line: str) -> None:
        self._handler.acquire()
        try:
            self._handler.stream.write(line + "\n")
            self._handler.flush()
        except (OSError, ValueError):
            pass
        finally:
            self._handler.release()

    debug = info = warning = error = critical = msg


def configure(
    form: Literal["auto", "json", "text"], stream: TextIO = sys.stderr, *, least: int = logging.INFO
) -> None:
    """Set up logging for the process.

    Args:
        form: ``json``: one object to a line; ``text``: for people; ``auto``: text on a terminal, else JSON.
        stream: where the lines go.
        least: the level from which on there are lines. Commands print their own errors.
    """
    as_text = form == "text" or (form == "auto" and stream.isatty())
    common: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    encode = json.JSONEncoder(ensure_ascii=False, default=repr).encode  # structlog's makes one for each line
    renderers: list[Processor] = (
        # Tracebacks without the frames' local variables, among which secrets would be.
        [
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if as_text
        else [structlog.processors.format_exc_info, lambda _, __, event: encode(event)]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*common, structlog.processors.StackInfoRenderer()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    structlog.configure(
        processors=[*common, *renderers],
        logger_factory=partial(LineLogger, handler),
        wrapper_class=structlog.make_filtering_bound_logger(least),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(least)
    if least > logging.WARNING:
        return
    server = logging.getLogger("uvicorn.error")
    server.filters = [RepeatFilter()]
    for noisy in ("httpx", "httpcore", "botocore", "boto3", "urllib3", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
