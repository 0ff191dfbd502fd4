"""Parses Ximilar's completions: a delivery's body, or the answer to a GET."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from receiver.core.completion import MAX_SIDE, MAX_URL, Completion, Failure, is_bare_id
from receiver.core.errors import BodyError
from receiver.core.urls import percent_encoded

FAILED_STATUSES = frozenset({"FAILED", "API_LIMIT_EXCEEDED", "NOT_SUPPORTED"})
"""Statuses after which the provider never delivers an image."""

ENDED_STATUSES = FAILED_STATUSES | {"DONE"}
"""Final statuses. A job with any other one, unknown words included, is still running."""


def _no_constant(name: str) -> NoReturn:
    # Python reads NaN and Infinity, which are not JSON (RFC 8259, 6).
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_no_constant)  # json.loads() would make one for each call


def parse(body: bytes) -> Completion:
    """Read the body of a delivery. Raise `BodyError` if it is no JSON or, as `read` does, no completion."""
    try:
        document = _DECODER.decode(body.decode(json.detect_encoding(body)))
    except (ValueError, RecursionError):
        raise BodyError("body.not_json") from None
    return read(document)


def read(document: Any) -> Completion:
    """Read a completion from decoded JSON: a delivery's body, or the provider's answer to a GET.

    The job's id is the top-level ``id``, not a record's ``_id`` nor the ``request_id`` in its ``_status``.

    Raises:
        BodyError: ``body.not_a_completion`` with the problem.
    """
    if not isinstance(document, dict):
        _refuse("it is no JSON object")
    job = document.get("id")
    if not is_bare_id(job):
        _refuse("id is no job's id")
    if document.get("type", "upscaler") != "upscaler":
        _refuse("type is not upscaler")
    status = document.get("status")
    if not isinstance(status, str):
        _refuse("status is missing")
    record = _record(document.get("response"))
    if status in FAILED_STATUSES:
        text = _status_text(record.get("_status")) if record else ""
        detail = f"{status}: {text}" if text else status
        return Completion(job, None, failure=Failure("provider.job_failed", detail))
    if status != "DONE":
        _refuse(f"status is {_short(status)}, which is no end")
    if record is None:
        _refuse("response.records does not hold exactly one record")
    if (failure := _record_failure(record)) is not None:
        return Completion(job, None, source_url=source_url(record), failure=failure)
    image_url = _image_url(record)
    width, height = _side(record, "_upscaled_width"), _side(record, "_upscaled_height")
    return Completion(job, image_url, source_url(record), width, height)


def time_at(document: Mapping[str, Any], name: str) -> datetime | None:
    """Return a time of a document, in UTC where it names no zone; ``None`` where it cannot be read."""
    try:
        when = datetime.fromisoformat(document[name])
        return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    except (KeyError, TypeError, ValueError, OverflowError):  # the last: at an end of the calendar
        return None


def _record(response: Any) -> dict[str, Any] | None:
    records = response.get("records") if isinstance(response, dict) else None
    if not isinstance(records, list) or len(records) != 1 or not isinstance(records[0], dict):
        return None
    return records[0]


def _record_failure(record: dict[str, Any]) -> Failure | None:
    # A job can be DONE although its one record failed.
    status = record.get("_status")
    code = status.get("code") if isinstance(status, dict) else None
    if code in (None, 200, "200"):
        return None
    return Failure("provider.record_failed", _status_text(status))


def _status_text(status: Any) -> str:
    """Return the text of a ``_status`` map in one short line, such as ``503 Service Unavailable``."""
    if not isinstance(status, dict):
        return ""
    parts = (status.get("code"), status.get("text"))
    return _short(" ".join(str(part) for part in parts if isinstance(part, str | int)))


def _short(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 200 else line[:199] + "…"


def _image_url(record: dict[str, Any]) -> str:
    value = record.get("_upscaled_image_url")
    if value is None:
        _refuse("the record has no _upscaled_image_url")
    url = percent_encoded(value) if isinstance(value, str) else ""
    if not 0 < len(url) <= MAX_URL or not url.isprintable():
        _refuse("_upscaled_image_url is no URL")
    return url


def source_url(record: Mapping[str, Any]) -> str | None:
    """Return the submitted image's URL. It is only shown to people: a strange one must not lose the image."""
    value = record.get("_url")
    if not isinstance(value, str) or not 0 < len(value) <= MAX_URL or not value.isprintable():
        return None
    return value


def _side(record: dict[str, Any], name: str) -> int | None:
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MAX_SIDE:
        _refuse(f"{name} is no number of pixels")
    return value


def _refuse(problem: str) -> NoReturn:
    raise BodyError("body.not_a_completion", f"The body is no completion: {problem}.")
