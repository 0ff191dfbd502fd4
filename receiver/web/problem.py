"""The form of all refusals: problem documents of RFC 9457, ``application/problem+json``."""

from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from receiver.core.errors import REASONS, ReceiverError

STATUS: Mapping[str, int] = {
    "auth.refused": 401,
    "auth.token_refused": 401,
    "auth.cross_origin": 403,
    "body.bad_request": 400,
    "body.head_too_large": 431,
    "body.too_large": 413,
    "body.too_slow": 408,
    "body.cut_short": 400,
    "body.not_json": 400,
    "body.unsupported_type": 415,
    "body.not_allowed": 405,
    "body.no_such_route": 404,
    "body.not_a_completion": 422,
    "body.invalid_query": 422,
    "body.invalid": 422,
    "archive.missing": 404,
    "ledger.unknown_job": 404,
    "ledger.wrong_state": 409,
}
"""The HTTP status of each reason that lies with the client."""

RETRY_AFTER_SECONDS = 5


def status_of(reason: str) -> int:
    """Return the HTTP status of a reason: 503 where it lies with the receiver, not with the client."""
    return STATUS.get(reason, 503)


def retry_headers(status: int) -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else {}


def problem(
    reason: str, detail: str | None = None, *, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return a refusal for one of ``errors.REASONS``, whose sentence is the detail where none is given.

    The detail tells the client what happened and what to do, and never a secret.
    """
    status = status_of(reason)
    return JSONResponse(
        {
            "type": f"urn:upscale-receiver:{reason}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "reason": reason,
            "detail": detail or REASONS[reason],
        },
        status_code=status,
        headers={**retry_headers(status), **(headers or {})},
        media_type="application/problem+json",
    )


async def on_receiver_error(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the form of a handler
    """Answer where a route raised a `ReceiverError`."""
    assert isinstance(error, ReceiverError)
    return problem(error.reason, error.detail)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer where no route takes the path, or not with this method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return problem("body.not_allowed", f"{request.method} is not for this path.", headers=error.headers)
    return problem("body.no_such_route")
