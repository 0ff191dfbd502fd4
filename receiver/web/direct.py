"""Answers requests that came in one piece past ASGI, whose calls and messages cost more than a delivery."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus

from starlette.responses import Response

from receiver.core.headers import RawHeaders
from receiver.web.middleware import SECURITY_HEADERS

Direct = Callable[[RawHeaders, bytes], Awaitable[bytes | Response]]
"""Takes headers and body of a POST, and returns the JSON of a 200 or another answer."""

_JSON_HEADERS = ((b"content-type", b"application/json"), *SECURITY_HEADERS)
_JSON_HEAD = b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % field for field in _JSON_HEADERS)


class Exchange:
    """A request under way, where uvicorn and `LimitedProtocol` look for a `RequestResponseCycle`."""

    message_event = asyncio.Event()  # nothing waits for it

    def __init__(self) -> None:
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False


def json_response(content: bytes) -> Response:
    """Return the 200 with this JSON, for a caller that speaks ASGI."""
    answer = Response(content)
    answer.raw_headers += _JSON_HEADERS
    return answer


def rendered(answer: bytes | Response, more: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return an answer with more headers as it is sent."""
    fields = b"".join([b"%b: %b\r\n" % field for field in more])
    if isinstance(answer, bytes):
        return b"%b%bcontent-length: %d\r\n\r\n%b" % (_JSON_HEAD, fields, len(answer), answer)
    status = b"HTTP/1.1 %d %b\r\n" % (answer.status_code, HTTPStatus(answer.status_code).phrase.encode())
    own = [b"%b: %b\r\n" % field for field in answer.raw_headers]
    return b"".join([status, *own, fields, b"\r\n", answer.body])
