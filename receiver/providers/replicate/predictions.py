"""Reads Replicate's predictions: the body of a delivery, and the API's answer on a job, are the same."""

from collections.abc import Iterator, Mapping
from typing import Any

from receiver.core.completion import Failure
from receiver.core.urls import percent_encoded
from receiver.providers import bodies
from receiver.providers.base import Ending, Output, Reading, Running

FAILED_STATUSES = frozenset({"failed", "canceled", "aborted"})
ENDED_STATUSES = FAILED_STATUSES | {"succeeded"}
RUNNING_STATUSES = frozenset({"starting", "processing"})

ECHOED = frozenset({"input", "webhook", "webhook_completed", "webhook_events_filter"})
"""Members that repeat what was submitted: secrets may be among it, and whole images."""

_TEXT = Output(None, content_type="text/plain")
"""What stands for an output that names no file."""


def read(document: Any) -> Reading:
    """Read a prediction. Raise `BodyError` for what is none, or has an unknown status."""
    if not isinstance(document, dict):
        bodies.refuse("it is no JSON object")
    prediction_id, status = bodies.own_id(document.get("id")), document.get("status")
    if not isinstance(status, str):
        bodies.refuse("status is missing")
    if status in RUNNING_STATUSES:
        return Running(prediction_id, status)
    if status not in ENDED_STATUSES:
        bodies.refuse(f"status is {bodies.word(status)}, which is unknown")
    outputs = () if status in FAILED_STATUSES else bodies.bounded(list(_outputs(document.get("output"))))
    return Ending(
        prediction_id,
        outputs,
        None if outputs else _failure(status, document),
        ended_at=bodies.time_at(document.get("completed_at")),
        source_url=_source(document.get("input")),
        endpoint=bodies.short(document.get("model")) or None,
    )


def _outputs(value: object) -> Iterator[Output]:
    """Yield the files that an output of any form names, in its order; what names none is one text."""
    files = [item for item in bodies.walk(value) if _is_file(item)]
    if files and isinstance(value, list):
        # What stands among files, and is none, is counted, so that the others keep their numbers.
        files = [
            item
            for each in value
            for item in (filter(_is_file, bodies.walk(each)) if isinstance(each, dict | list) else [each])
        ]
    for number, item in enumerate(files, start=1):
        if isinstance(item, str) and item[:5].lower() == "data:":
            item = item.partition(",")[0]  # noqa: PLW2901 - of an image in the body only what it is
        yield bodies.output_of(item, f"URL {number}")
    if not files and value not in (None, [], {}, ""):
        yield _TEXT


def _is_file(item: object) -> bool:
    return isinstance(item, str) and item[:11].lower().startswith(("https://", "http://", "data:image/"))


def _failure(status: str, document: Mapping[str, Any]) -> Failure:
    if status in FAILED_STATUSES:
        words = bodies.short(document.get("error"))
        return Failure("provider.job_failed", f"{status}: {words}" if words else status)
    if document.get("data_removed") is True:
        return Failure("provider.no_output", "The provider has removed the output, as it does after an hour.")
    return Failure("provider.no_output", "The prediction succeeded without an output.")


def _source(fields: object) -> str | None:
    """Return the address of the submitted image without its query, which may be a signature."""
    image = fields.get("image") if isinstance(fields, dict) else None
    if not isinstance(image, str) or not image.startswith(("https://", "http://")):
        return None
    bare = percent_encoded(image.partition("?")[0].partition("#")[0])
    return bare if len(bare) <= 2048 and bare.isprintable() and "@" not in bare else None
