"""Writes every log line in one form: the receiver's, uvicorn's, and those of the libraries."""

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor

from receiver.core.log_limit import LogLimit


class RepeatFilter(logging.Filter):
    """Passes the same warning or traceback once in a while, with the number of those that it stands for.

    uvicorn warns of each request that is none, and anybody can send a thousand of them a second. Of each
    request that meets a bug it writes a traceback.
    """

    def __init__(self, limit: LogLimit) -> None:
        super().__init__()
        self._limit = limit

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log this record; all but warnings and tracebacks are logged."""
        bug = record.exc_info[0] if record.exc_info else None
        if (bug is None and record.levelno != logging.WARNING) or not isinstance(record.msg, str):
            return True
        times = self._limit.due((record.msg, bug))
        if times > 1:
            record.msg = f"{record.msg} ({times - 1} more since the last line)"
        return times > 0


def limit_outages(log_limit: LogLimit) -> Processor:
    """Return what drops lines that say again that the ledger cannot be used; ``times`` counts them.

    While a database is away, each loop finds out every second.
    """

    def limit(_: object, level: str, event: EventDict) -> EventDict:
        if level == "error" and event.keys().isdisjoint(("job", "times")):
            reason = str(event.get("reason"))
            if reason.startswith("ledger."):
                times = log_limit.due((event["logger"], event["event"], event.get("stage"), reason))
                if times == 0:
                    raise structlog.DropEvent
                if times > 1:
                    event["times"] = times
        return event

    return limit


class LineWriter:
    """Writes lines to a handler's stream, those of one turn of an event loop together.

    At each write a thread gives up the interpreter, and waits for the others to get it back. As with
    `logging`, a line that cannot be written is lost, and nothing else is. The handler's stream and lock are
    shared with the lines of the libraries.
    """

    def __init__(self, handler: "logging.StreamHandler[TextIO]") -> None:
        self._handler = handler
        self._waiting: dict[asyncio.AbstractEventLoop, list[str]] = {}

    def write(self, line: str) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a thread without one
            self._write([line])
            return
        if (waiting := self._waiting.get(loop)) is None:
            self._waiting[loop] = [line]
            loop.call_soon(lambda: self._write(self._waiting.pop(loop)))
        else:
            waiting.append(line)

    def _write(self, lines: list[str]) -> None:
        self._handler.acquire()
        try:
            self._handler.stream.write("\n".join([*lines, ""]))
            self._handler.flush()
        except (OSError, ValueError):
            pass
        finally:
            self._handler.release()


class LineLogger:
    """Writes the lines of one of the receiver's own loggers to a handler's stream, past `logging` itself.

    `logging` looks for each line's place in the source, which no line names, and makes a record and a copy of
    it: as much work again as the line itself, in the event loop, for every delivery.
    """

    def __init__(self, writer: LineWriter, name: str) -> None:
        self.name = name  # this is where structlog looks for it
        self.debug = self.info = self.warning = self.error = self.critical = writer.write


def _add_origin(logger: Any, level: str, event: EventDict) -> EventDict:
    """Add a line's logger, level and time, for less than half of what structlog's three processors take."""
    record = event.get("_record")  # of a line of a library
    event["logger"] = logger.name if record is None else record.name
    event["level"] = level
    event["timestamp"] = f"{datetime.now(UTC).isoformat(timespec='microseconds')[:26]}Z"
    return event


def configure(
    form: Literal["auto", "json", "text"], stream: TextIO = sys.stderr, *, least: int = logging.INFO
) -> None:
    """Set up logging for the process: lines from the level ``least`` on, to a stream.

    The form ``json`` is one object to a line, ``text`` is for people, ``auto`` is text on a terminal only.
    """
    as_text = form == "text" or (form == "auto" and stream.isatty())
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
            foreign_pre_chain=[_add_origin, structlog.processors.StackInfoRenderer()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    structlog.configure(
        processors=[_add_origin, limit_outages(LogLimit()), *renderers],
        logger_factory=partial(LineLogger, LineWriter(handler)),
        wrapper_class=structlog.make_filtering_bound_logger(least),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(least)
    if least > logging.WARNING:
        return
    server = logging.getLogger("uvicorn.error")
    server.filters = [RepeatFilter(LogLimit())]
    for noisy in ("httpx", "httpcore", "botocore", "boto3", "urllib3", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
