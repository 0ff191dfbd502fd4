"""Reads the body of a request within bounds of size and time."""

import asyncio

from starlette.requests import Request

from receiver.core.errors import BodyError

BODY_SECONDS = 20.0
"""How long the body of a delivery, of a request of the API or of a form may take to come."""


async def read_body(
    request: Request, max_bytes: int, seconds: float, *, keep: bool = True, too_large: str = ""
) -> bytes:
    """Return the body, whether or not a length was declared; unless ``keep``, its bytes are dropped.

    ``too_large`` is the detail for one of more than ``max_bytes``; by default the reason's own sentence.

    Raises:
        BodyError: ``body.too_large``, ``body.too_slow`` or ``body.cut_short``.
    """
    # The parser lets any number of leading zeros pass, and Python reads no number of thousands of digits.
    declared = request.headers.get("content-length", "").lstrip("0")
    if declared.isdecimal() and (len(declared) > len(str(max_bytes)) or int(declared) > max_bytes):
        raise BodyError("body.too_large", too_large)
    body, size, more = bytearray(), 0, True
    try:
        async with asyncio.timeout(seconds):
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise BodyError("body.cut_short")
                chunk, more = message.get("body", b""), message.get("more_body", False)
                size += len(chunk)
                if size > max_bytes:
                    raise BodyError("body.too_large", too_large)
                if keep:
                    body += chunk
    except TimeoutError:
        raise BodyError("body.too_slow") from None
    return bytes(body)
