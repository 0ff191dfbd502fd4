"""Reads what fal.ai posts and returns. Its queue knows a request only below the path of its model."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from receiver.core.completion import Failure
from receiver.providers import bodies
from receiver.providers.api_errors import explanation
from receiver.providers.base import Ending, Output, Reading, Running

RUNNING_STATUSES = frozenset({"IN_QUEUE", "IN_PROGRESS"})

_TEXT = Output(None, content_type="text/plain")
"""What stands for a payload that names no file."""

_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)+")
_NAMESPACES = frozenset({"workflows", "comfy"})
"""First parts of a path before the model's owner."""

MAX_PATH = 200


def read(document: Any) -> Reading:
    """Read a delivery. Without a payload the ending holds nothing: fal is then asked for it."""
    if not isinstance(document, dict):
        bodies.refuse("it is no JSON object")
    request_id, status = bodies.own_id(document.get("request_id"), "request_id"), document.get("status")
    if isinstance(status, str) and status in RUNNING_STATUSES:
        return Running(request_id, status)
    endpoint, payload = of_links(document), document.get("payload")
    if status == "ERROR":
        return Ending(request_id, failure=failure(document.get("error"), payload), endpoint=endpoint)
    if status != "OK":
        bodies.refuse(f"status is {bodies.word(status)}, which is unknown")
    if payload is None or document.get("payload_error"):
        return Ending(request_id, endpoint=endpoint)
    return ending(request_id, payload, endpoint)


def ending(request_id: str, payload: object, endpoint: str | None) -> Ending:
    """Return the good end of a request that has returned this."""
    outputs = bodies.bounded(list(_outputs(payload)))
    nothing = None if outputs else Failure("provider.no_output", "The request returned no file.")
    return Ending(request_id, outputs, nothing, endpoint=endpoint)


def failure(error: object, payload: object = None) -> Failure:
    """Return the failure that fal states, with what the model itself says of it."""
    words = [bodies.short(error)]
    if isinstance(payload, dict | list) and payload:
        words.append(explanation(json.dumps(payload).encode()))
    return Failure("provider.job_failed", ": ".join(filter(None, words)) or "The request failed.")


def _outputs(payload: object) -> Iterator[Output]:
    """Yield the files of a payload in its order: objects with a URL, or else URLs; else it is one text."""
    values = list(bodies.walk(payload))
    files = [it for it in values if isinstance(it, dict) and it.get("url") not in (None, "")]
    urls = [it for it in values if isinstance(it, str) and it.startswith(("https://", "http://"))]
    if files:
        for number, file in enumerate(files, start=1):
            yield _output(file, f"the url of file {number}")
    elif urls:
        for number, url in enumerate(urls, start=1):
            yield bodies.output_of(url, f"URL {number}")
    elif payload not in ({}, [], ""):
        yield _TEXT


def _output(file: Mapping[str, Any], name: str) -> Output:
    url = file["url"]
    if isinstance(url, str) and url.startswith("data:"):
        url = url.partition(",")[0]  # of an image in the body only what it is
    return bodies.output_of(
        url,
        name,
        width=file.get("width"),
        height=file.get("height"),
        size=file.get("file_size"),
        content_type=file.get("content_type"),
    )


def app_of(endpoint: str | None) -> str | None:
    """Return the part of a model's path that the queue's URLs have: its owner and name."""
    path = (endpoint or "").strip("/")
    if len(path) > MAX_PATH or not _PATH.fullmatch(path):
        return None
    parts = path.split("/")
    return "/".join(parts[: 3 if parts[0] in _NAMESPACES else 2])


def of_links(document: Mapping[str, Any]) -> str | None:
    """Return the model's path from the links of a body, of which only the path counts."""
    for name in ("response_url", "status_url"):
        link = document.get(name)
        try:
            path = urlsplit(link).path if isinstance(link, str) else ""
        except ValueError:
            continue
        model, found, _ = path.partition("/requests/")
        if found and (app := app_of(model)):
            return app
    return None
