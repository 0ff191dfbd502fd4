"""Refusals in the one form that every route gives them: RFC 9457, ``application/problem+json``."""

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse

from receiver.errors import REASONS


def problem(
    status: int, reason: str, detail: str | None = None, *, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """A refusal.

    Args:
        status: of HTTP.
        reason: one of ``errors.REASONS``; its sentence is the detail where none is given.
        detail: what happened and what to do, for the asker. Never a secret.
        headers: further headers, such as ``Retry-After``.
    """
    return JSONResponse(
        {
            "type": f"urn:upscale-receiver:{reason}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "reason": reason,
            "detail": detail or REASONS[reason],
        },
        status_code=status,
        headers=headers,
        media_type="application/problem+json",
    )
