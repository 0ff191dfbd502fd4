"""Validates the body of a submit: it may be what the provider's page allows, and nothing else."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from receiver.sandbox.faults import Plan, plan_of
from receiver.sandbox.loopback import loopback_url

FACTORS: Mapping[str, int] = {"upscale_2x": 2, "upscale_4x": 4, "upscale_8x": 8}
MODES = ("artifact_removal", "ironed_out", "high_fidelity")
MODELS = ("classic", "gan")
FORMATS = ("auto", "png", "jpg", "webp")

# RFC 9110: token (section 5.6.2), field-value (5.5) without obs-text.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?|")
_CLIENT_HEADERS = {"host", "content-length", "transfer-encoding", "connection"}


class InvalidRequestError(Exception):
    """The submit is invalid.

    Args:
        text: why, for the submitter.
        readable: whether the body was JSON; it can decide the answer's shape.
    """

    def __init__(self, text: str, *, readable: bool = True) -> None:
        super().__init__(text)
        self.text = text
        self.readable = readable


@dataclass(frozen=True, slots=True)
class Webhook:
    """The endpoint of the completion, and the headers to send with it."""

    endpoint: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Submission:
    """A valid submit, without a picture in base64.

    Attributes:
        mode: the page names two defaults; the sandbox takes its table's.
        url: of the source; ``None`` for a picture in base64.
        record_id: the record's ``_id``.
        plan: the faults that the record's ``_sandbox`` names.
    """

    factor: int
    mode: str
    model: str
    format: str
    quality: int
    url: str | None
    record_id: str | None
    workspace: str | None
    webhook: Webhook | None
    plan: Plan | None


def parse(body: bytes, max_source_bytes: int) -> Submission:
    """Parse the body of a submit. It may hold a whole picture: call it in a thread.

    Raises:
        InvalidRequestError: the provider's page does not allow it.
    """
    try:
        data = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"JSON parse error - {error}", readable=False) from error
    if not isinstance(data, dict):
        raise InvalidRequestError("Invalid data. Expected a dictionary.", readable=False)

    _choice(data, "type", ("upscaler",), required=True)
    endpoint = _choice(data, "endpoint", tuple(FACTORS), required=True)
    tune_colors = data.get("tune_colors")
    if tune_colors is not None and not isinstance(tune_colors, bool):
        raise InvalidRequestError("tune_colors: must be true or false")
    record = _record(data, max_source_bytes)
    return Submission(
        factor=FACTORS[endpoint],
        mode=_choice(data, "mode", MODES),
        model=_choice(data, "model_type", MODELS),
        format=_choice(data, "image_format", FORMATS),
        quality=_quality(data),
        url=record.get("_url"),
        record_id=_text(record, "_id"),
        workspace=_text(data, "workspace"),
        webhook=_webhook(data.get("webhook")),
        plan=_plan(record.get("_sandbox")),
    )


def _no_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python reads although they are no JSON (RFC 8259, section 6)."""
    raise ValueError(f"{name} is no JSON")


def source_of(body: bytes) -> bytes:
    """Return the picture in the ``_base64`` of a body that `parse` has accepted."""
    return base64.b64decode(json.loads(body)["records"][0]["_base64"])


def _choice(data: dict[str, Any], name: str, allowed: tuple[str, ...], *, required: bool = False) -> str:
    value = data.get(name)
    if value is None:
        if required:
            raise InvalidRequestError(f"{name}: this field is required")
        return allowed[0]
    if value not in allowed:
        raise InvalidRequestError(f"{name}: must be one of {', '.join(allowed)}")
    return str(value)


def _quality(data: dict[str, Any]) -> int:
    value = data.get("image_quality")
    if value is None:
        return 85
    if data.get("image_format") is None:
        raise InvalidRequestError("image_quality: only available together with image_format")
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 100:
        raise InvalidRequestError("image_quality: must be an integer from 1 to 100")
    return value


def _text(data: dict[str, Any], name: str) -> str | None:
    value = data.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequestError(f"{name}: must be a string")
    if value is not None and any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidRequestError(f"{name}: holds half of a surrogate pair")
    return value


def _record(data: dict[str, Any], max_source_bytes: int) -> dict[str, Any]:
    records = data.get("records")
    if not isinstance(records, list) or len(records) != 1 or not isinstance(records[0], dict):
        raise InvalidRequestError("records: must be a list with exactly one record")
    record: dict[str, Any] = records[0]
    url, encoded = _text(record, "_url"), _text(record, "_base64")
    if (url is None) == (encoded is None):
        raise InvalidRequestError("records: the record needs one of _url and _base64")
    if url is not None:
        try:
            loopback_url(url)
        except ValueError as error:
            raise InvalidRequestError(f"_url: {error}") from error
    if encoded is not None:
        try:
            size = len(base64.b64decode(encoded, validate=True))
        except (binascii.Error, ValueError) as error:
            raise InvalidRequestError("_base64: not base64") from error
        if size > max_source_bytes:
            raise InvalidRequestError(f"_base64: larger than {max_source_bytes} bytes")
    return record


def _webhook(data: object) -> Webhook | None:
    if data is None:
        return None
    if not isinstance(data, dict) or (endpoint := _text(data, "endpoint")) is None:
        raise InvalidRequestError("webhook: needs an endpoint")
    try:
        loopback_url(endpoint)
    except ValueError as error:
        raise InvalidRequestError(f"webhook.endpoint: {error}") from error
    headers = data.get("headers") or {}
    if not isinstance(headers, dict):
        raise InvalidRequestError("webhook.headers: must be a dictionary of strings")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _CLIENT_HEADERS:
            raise InvalidRequestError("webhook.headers: a name is not allowed")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidRequestError("webhook.headers: a value is not printable ASCII")
    return Webhook(endpoint=endpoint, headers=headers)


def _plan(data: object) -> Plan | None:
    if data is None:
        return None
    fault = data.get("fault") if isinstance(data, dict) else None
    names = [fault] if isinstance(fault, str) else fault
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidRequestError('_sandbox: must be {"fault": NAME} or {"fault": [NAME, …]}')
    try:
        return plan_of(names)
    except ValueError as error:
        raise InvalidRequestError(f"_sandbox: {error}") from error
