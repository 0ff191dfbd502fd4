"""What the parsing of all submits has in common."""

import base64
import json
import math
import re
from typing import Any

from starlette.requests import Request

from receiver.sandbox.faults import Plan, plan_of
from receiver.sandbox.loopback import loopback_url

FAULTS_HEADER = "X-Sandbox-Faults"
"""A submit's header that names the faults of its job, separated by commas."""

_DATA_URI = re.compile(r"data:[^,]*;base64,")


class InvalidRequestError(Exception):
    """The submit is invalid; ``readable`` tells whether its body was JSON."""

    def __init__(self, text: str, *, readable: bool = True) -> None:
        super().__init__(text)
        self.text = text
        self.readable = readable


def scheme_token(request: Request, *schemes: str) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() in {known.lower() for known in schemes} else None


def json_object(body: bytes) -> dict[str, Any]:
    """Parse a body.

    Raises:
        InvalidRequestError: it is no JSON object.
    """
    try:
        data = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"JSON parse error - {error}", readable=False) from error
    if not isinstance(data, dict):
        raise InvalidRequestError("Invalid data. Expected a dictionary.", readable=False)
    return data


def plan_in(request: Request, provider: str) -> Plan | None:
    header = request.headers.get(FAULTS_HEADER)
    if header is None:
        return None
    try:
        return plan_of([name.strip() for name in header.split(",")], provider)
    except ValueError as error:
        raise InvalidRequestError(f"{FAULTS_HEADER}: {error}") from error


def webhook(value: object, name: str) -> str | None:
    return None if value is None else _url(value, name)


def source(value: object, name: str, max_bytes: int) -> str | None:
    """Return the URL of a picture; None if the value is the picture itself, in base64 or as a data URI."""
    if isinstance(value, str) and re.match("https?:", value):
        return _url(value, name)
    if not isinstance(value, str) or not value:
        raise InvalidRequestError(f"{name}: Field required")
    try:
        size = len(picture(value))
    except ValueError as error:
        raise InvalidRequestError(f"{name}: no URL and no base64") from error
    if size > max_bytes:
        raise InvalidRequestError(f"{name}: larger than {max_bytes} bytes")
    return None


def picture(value: str) -> bytes:
    """Decode a picture in base64, or in a data URI; raise `ValueError` if it is neither."""
    return base64.b64decode(_DATA_URI.sub("", value, count=1), validate=True)


def factor(fields: dict[str, Any], *names: str) -> int:
    """Return the factor that the first of these fields gives, such as 2, 2.0 or "2x"; else 2."""
    for name in names:
        if name in fields:
            value = fields[name]
            if isinstance(value, str) and re.fullmatch("[0-9]{1,2}x", value):
                value = int(value[:-1])
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not 1 <= value <= 16 or value != int(value):
                raise InvalidRequestError(f"{name}: must be a factor from 1 to 16")
            return int(value)
    return 2


def _url(value: object, name: str) -> str:
    text = value if isinstance(value, str) else ""
    try:
        loopback_url(text)
    except ValueError as error:
        raise InvalidRequestError(f"{name}: {error}") from error
    return text


def _no_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python reads although they are no JSON (RFC 8259, section 6)."""
    raise ValueError(f"{name} is no JSON")
