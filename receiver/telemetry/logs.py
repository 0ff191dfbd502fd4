"""Every log line in one form: ours, uvicorn's, and those of the libraries."""

import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Literal, TextIO

import structlog
from structlog.typing import Processor

SELDOM_SECONDS = 10.0
"""Between two lines of uvicorn's that say the same."""


class Seldom(logging.Filter):
    """Lets a logger's warning through once in a while, with the number of those that it stands for.

    uvicorn warns of each request that is none, and any stranger can send a thousand of them a second.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._held: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this record is to be logged; what is no warning always is."""
        if record.levelno != logging.WARNING or not isinstance(record.msg, str):
            return True
        at, times = self._held.get(record.msg, (float("-inf"), 0))
        now = self._clock()
        if now - at < SELDOM_SECONDS:
            self._held[record.msg] = (at, times + 1)
            return False
        self._held[record.msg] = (now, 0)
        if times:
            record.msg = f"{record.msg} ({times} more since the last line)"
        return True


class Lines:
    """Where the lines of one of our own loggers go: to the handler's stream, past `logging` itself.

    `logging` looks for each line's place in the source, which no line names, and makes a record and a copy of
    it: as much work again as the line itself, in the event loop, for every delivery.

    As with `logging`, a line that cannot be written is lost, and costs nothing but itself.

    Args:
        handler: of the lines of the libraries, whose stream and lock are shared.
        name: of the logger.
    """

    def __init__(self, handler: "logging.StreamHandler[TextIO]", name: str) -> None:
        self.name = name  # this is where structlog looks for it
        self._handler = handler

    def msg(self, line: str) -> None:
        """Writes the line."""
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
    """Sets up logging for the process.

    Args:
        form: ``json``: one object to a line; ``text``: for people; ``auto``: text on a terminal, else JSON.
        stream: where the lines go.
        least: the level from which on there are lines. Commands say themselves what they have to say.
    """
    as_text = form == "text" or (form == "auto" and stream.isatty())
    said: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendered: list[Processor] = (
        # Tracebacks without the frames' local variables, among which secrets would be.
        [
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if as_text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*said, structlog.processors.StackInfoRenderer()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    structlog.configure(
        processors=[*said, *rendered],
        logger_factory=partial(Lines, handler),
        wrapper_class=structlog.make_filtering_bound_logger(least),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(least)
    if least > logging.WARNING:
        return
    server = logging.getLogger("uvicorn.error")
    server.filters = [Seldom()]
    for talkative in ("httpx", "httpcore", "botocore", "boto3", "urllib3", "uvicorn.access"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
