"""Parses Ximilar's completions: a delivery's body, or the answer to a GET."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from receiver.core.completion import BARE_ID, MAX_SIDE, MAX_URL, Failure, is_bare_id
from receiver.providers.base import Ending, Output
from receiver.providers.bodies import output_of, refuse, short

FAILED_STATUSES = frozenset({"FAILED", "API_LIMIT_EXCEEDED", "NOT_SUPPORTED"})
"""Statuses after which the provider never delivers an image."""

ENDED_STATUSES = FAILED_STATUSES | {"DONE"}
"""Final statuses. A job with any other one, unknown words included, is still running."""


def read(document: Any) -> Ending:
    """Read a completion from decoded JSON: a delivery's body, or the provider's answer to a GET.

    The job's id is the top-level ``id``, not a record's ``_id`` nor the ``request_id`` in its ``_status``.

    Raises:
        BodyError: ``body.not_a_completion`` with the problem.
    """
    if not isinstance(document, dict):
        refuse("it is no JSON object")
    job = document.get("id")
    if not is_bare_id(job):
        refuse("id is no job's id")
    if document.get("type", "upscaler") != "upscaler":
        refuse("type is not upscaler")
    status = document.get("status")
    if not isinstance(status, str):
        refuse("status is missing")
    record = _record(document.get("response"))
    if status in FAILED_STATUSES:
        text = _status_text(record.get("_status")) if record else ""
        detail = f"{status}: {text}" if text else status
        return Ending(job, failure=Failure("provider.job_failed", detail))
    if status != "DONE":
        refuse(f"status is {short(status)}, which is no end")
    if record is None:
        refuse("response.records does not hold exactly one record")
    if (failure := _record_failure(record)) is not None:
        return Ending(job, failure=failure, source_url=_source_url(record))
    return Ending(job, (_output(record),), source_url=_source_url(record))


def written(job_id: str, output: Output) -> bytes:
    """Return the body of a completion that `read` reads."""
    record = {
        "_status": {"code": 200, "text": "OK"},
        "_upscaled_image_url": output.url,
        "_upscaled_width": output.width,
        "_upscaled_height": output.height,
    }
    return json.dumps({"id": job_id, "status": "DONE", "response": {"records": [record]}}).encode()


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the bodies that `read` reads."""
    text = Path(__file__).with_name("completion.schema.json").read_text(encoding="utf-8")
    values: dict[str, Any] = {"{own_id}": f"^{BARE_ID}$"}
    values |= {"{max_url}": MAX_URL, "{max_side}": MAX_SIDE, "{failed_statuses}": sorted(FAILED_STATUSES)}

    def fill(members: dict[str, Any]) -> dict[str, Any]:
        return {k: values.get(v, v) if isinstance(v, str) else v for k, v in members.items()}

    found: dict[str, Any] = json.loads(text, object_hook=fill)
    return found


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
    return short(" ".join(str(part) for part in parts if isinstance(part, str | int)))


def _output(record: dict[str, Any]) -> Output:
    url, width, height = (
        record.get(name) for name in ("_upscaled_image_url", "_upscaled_width", "_upscaled_height")
    )
    if url is None:
        refuse("the record has no _upscaled_image_url")
    output = output_of(url, width=width, height=height)
    if output.failure is not None:
        refuse("_upscaled_image_url is no URL")
    if width is not None and output.width is None:
        refuse("_upscaled_width is no number of pixels")
    if height is not None and output.height is None:
        refuse("_upscaled_height is no number of pixels")
    return output


def _source_url(record: Mapping[str, Any]) -> str | None:
    """Return the submitted image's URL. It is only shown to people: a strange one must not lose the image."""
    value = record.get("_url")
    if not isinstance(value, str) or not 0 < len(value) <= MAX_URL or not value.isprintable():
        return None
    return value
