"""Every log line in one form: ours, uvicorn's, and those of the libraries."""

import logging
import sys
import time
from collections.abc import Callable
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
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: list[Processor] = (
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
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
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
