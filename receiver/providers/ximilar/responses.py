"""Reads the provider's answers. They are untrusted: one that is not as documented is an UnavailableError."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NoReturn
from urllib.parse import urlsplit

from receiver.core import url_expiry
from receiver.core.completion import Completion, is_bare_id
from receiver.core.errors import BodyError, UnavailableError
from receiver.providers.api_errors import SECRET_RUN, redact
from receiver.providers.ximilar import completions
from receiver.providers.ximilar.completions import ENDED_STATUSES

MAX_BODY_BYTES = 256 * 1024
"""Of a job's answer without its request: as large as a delivery may be by default."""

MASK = "**********"

MAX_WORD = 64
"""Characters of a status, a type, an endpoint, a workspace."""

MAX_QUERY = 2048

_ECHOED = frozenset({"request", "webhook"})
"""Parts of an answer that repeat what was sent: secrets among it, and whole images."""


@dataclass(frozen=True, slots=True)
class Row:
    """A job in the list. ``type`` can be another than the upscaler's: the list is the whole account's.

    A row without a status has an empty one, so that it does not spoil its page.
    """

    id: str
    status: str
    type: str | None
    created: datetime | None


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of the list, in the provider's order, which is undocumented.

    ``next`` is the query string of the next page, without the question mark.
    """

    rows: tuple[Row, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """The provider's present answer on a job.

    Attributes:
        status: in the provider's word; unknown words are kept.
        completion: set if and only if the job has ended.
        modified: by the provider's clock; the end of a job that has ended.
        headers: of the webhook in the request. They are secrets, and are neither logged nor stored.
        endpoint: the kind of upscaling, such as ``upscale_2x``.
        body: the answer as JSON without what it echoes of our request. Of an answer that is larger than a
            delivery may be, only the short texts are kept.
    """

    id: str
    status: str
    completion: Completion | None
    modified: datetime | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    endpoint: str | None = None
    source_url: str | None = None
    body: bytes = field(default=b"{}", repr=False)

    def deadline(self, *, now: int, lifetime: timedelta) -> url_expiry.Deadline:
        """Return when the image URL's life ends; ``now`` is ms since the epoch.

        The life of a URL that states no expiry is counted from ``modified``, or else from now.
        """
        # A completion in the future comes from a wrong clock, and must not lengthen a life.
        since = now if self.modified is None else min(now, int(self.modified.timestamp() * 1000))
        url = self.completion.image_url if self.completion is not None else None
        return url_expiry.deadline(url, since=since, now=now, lifetime=lifetime)


def read_id(document: Mapping[str, Any]) -> str:
    """Return the id of a job that was submitted. Nothing else is read: an accepted job must not be lost."""
    job_id = document.get("id")
    if not is_bare_id(job_id):
        _refuse("it names no job")
    return job_id


def read_report(document: Mapping[str, Any], job_id: str) -> Report:
    if document.get("id") != job_id:
        _refuse("it is about another job")
    status = _word(document, "status")
    if status is None:
        _refuse("status is missing")
    completion = None
    if status in ENDED_STATUSES:
        try:
            completion = completions.read(document)
        except BodyError as error:
            _refuse(error.detail)
    request, headers = _map(document, "request"), read_headers(document)
    if completion is not None and completion.failure is not None:
        detail = redact(completion.failure.detail, headers.values())
        completion = replace(completion, failure=replace(completion.failure, detail=detail))
    return Report(
        id=job_id,
        status=status,
        completion=completion,
        modified=completions.time_at(document, "modified"),
        headers=headers,
        endpoint=_word(request, "endpoint"),
        source_url=_source(request),
        body=_body(document, headers.values()),
    )


def read_headers(document: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the webhook's headers in the answer on a job, as far as they can be read."""
    headers = _map(_map(_map(document, "request"), "webhook"), "headers")
    return {name: value for name, value in headers.items() if isinstance(value, str)}


def header(headers: Mapping[str, str], name: str) -> str | None:
    """Return the value of a header, whatever the case of its name."""
    return next((value for key, value in headers.items() if key.lower() == name.lower()), None)


def read_listing(document: Mapping[str, Any]) -> Listing:
    """Read a page of the list. Rows without a job's id are left out."""
    results = document.get("results")
    if not isinstance(results, list):
        _refuse("results is no list of jobs")
    return Listing(
        rows=tuple(
            Row(
                row["id"],
                _word(row, "status") or "",
                _word(row, "type"),
                completions.time_at(row, "created"),
            )
            for row in results
            if isinstance(row, dict) and is_bare_id(row.get("id"))
        ),
        next=_next(document.get("next")),
    )


def _next(value: object) -> str | None:
    if value is None:
        return None
    try:
        query = urlsplit(value).query if isinstance(value, str) else ""
    except ValueError:
        query = ""
    if not query or len(query) > MAX_QUERY or not query.isascii() or not query.isprintable() or " " in query:
        _refuse("next holds no query string")
    return query


def _source(request: Mapping[str, Any]) -> str | None:
    records = request.get("records")
    record = records[0] if isinstance(records, list) and records else None
    return completions.source_url(record) if isinstance(record, dict) else None


def _body(document: Mapping[str, Any], secrets: Iterable[str]) -> bytes:
    kept = {name: value for name, value in document.items() if name not in _ECHOED}
    text = json.dumps(kept)
    if len(text) > MAX_BODY_BYTES:
        # It may echo a whole image. The completion, which was read, must not be lost for that.
        text = json.dumps({name: word for name in kept if (word := _word(kept, name)) is not None})
    for secret in secrets:
        if len(secret) >= SECRET_RUN:
            text = text.replace(json.dumps(secret)[1:-1], MASK)
    return text.encode("ascii") if len(text) <= MAX_BODY_BYTES else b"{}"


def _map(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def _word(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    return value if isinstance(value, str) and 0 < len(value) <= MAX_WORD and value.isprintable() else None


def _refuse(problem: str) -> NoReturn:
    # From None: a library's text about an answer may repeat what the answer echoes of the request.
    problem = problem.removeprefix("The body is no completion: ").removesuffix(".")
    raise UnavailableError(f"The provider's answer: {problem}.") from None
