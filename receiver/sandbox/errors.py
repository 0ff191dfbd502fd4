"""Error answers in any of the forms that such APIs have, and an answer that breaks off.

All forms are guesses. The vendor's own client expects both ``{"detail": …}`` (Django REST framework's form)
and ``{"status": {"code", "text", "request_id"}}``.
"""

import html
import uuid
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from receiver.sandbox.options import ErrorShape
from receiver.sandbox.validation import InvalidRequestError


class Errors:
    """Builds error answers in one form."""

    def __init__(self, shape: ErrorShape) -> None:
        self._shape = shape

    def invalid(self, error: InvalidRequestError) -> Response:
        """Return the answer to an invalid submit."""
        guess = ErrorShape.STATUS if error.readable else ErrorShape.DETAIL
        return self._answer(400, error.text, guess)

    async def refused(self, _request: Request, error: Exception) -> Response:
        """Return the answer to a request that is refused for its route, method, token or rate."""
        assert isinstance(error, HTTPException)
        return self._answer(error.status_code, error.detail, ErrorShape.DETAIL, error.headers)

    def _answer(
        self, status: int, text: str, guess: ErrorShape, headers: Mapping[str, str] | None = None
    ) -> Response:
        match guess if self._shape is ErrorShape.GUESSED else self._shape:
            case ErrorShape.STATUS:
                status_body = {"code": status, "text": text, "request_id": str(uuid.uuid4())}
                return JSONResponse({"status": status_body}, status, headers)
            case ErrorShape.FIELDS:
                field, colon, rest = text.partition(": ")
                return JSONResponse({field if colon else "non_field_errors": [rest or text]}, status, headers)
            case ErrorShape.HTML:
                page = f"<html><head><title>{html.escape(text)}</title></head><body></body></html>"
                return HTMLResponse(page, status, headers)
            case ErrorShape.TEXT:
                return PlainTextResponse(text, status, headers)
            case ErrorShape.EMPTY:
                return Response(b"", status, headers)
        return JSONResponse({"detail": text}, status, headers)


class CutAnswer(Response):
    """An answer that breaks off; the server then closes the connection."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Leave the response unfinished, which is ASGI's only way to send less than Content-Length."""
        headers = [(b"content-type", b"application/json"), (b"content-length", b"500")]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"id": "', "more_body": True})
