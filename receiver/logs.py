"""Every log line in one form: ours, uvicorn's, and those of the libraries."""

import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.typing import Processor


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
    for talkative in ("httpx", "httpcore", "botocore", "boto3", "urllib3", "uvicorn.access"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
