"""What the API answers, as values with types. What this version does not know in an answer is left out."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from html import escape
from typing import Any

from receiver.core.jobs import FINAL, Image, StoredObject
from receiver.core.serializers import plain_url

Document = Mapping[str, Any]


class ApiError(Exception):
    """The receiver refuses a request, or something else than a receiver answers.

    Attributes:
        status: of the answer.
        reason: such as ``ledger.unknown_job``; empty if no receiver answered.
        detail: a sentence for people.
    """

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(status, reason, detail)
        self.status = status
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason or self.status}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of a job's history; the first has no state before it."""

    at: datetime
    event: str
    before: str | None
    after: str
    reason: str | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class Change(Event):
    """A transition of a job, and its number in the history of all jobs.

    With the event ``gap``, transitions up to this number may be missing: they were pruned meanwhile.
    """

    seq: int
    id: str
    ref: str | None


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a job has its state, or why its last attempt failed."""

    reason: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job. docs/reference/http-api.md says what each attribute means.

    Attributes:
        history: oldest first; empty in a list of jobs.
        load_thumbnail: reads a small picture of the archived image, for notebooks.
    """

    id: str
    state: str
    provider: str = ""
    provider_id: str = ""
    output: int = 1
    ref: str | None = None
    attempts: int = 0
    next_attempt_at: datetime | None = None
    url_expires_at: datetime | None = None
    image_url: str | None = None
    source_url: str | None = None
    endpoint: str | None = None
    promised: Document = field(default_factory=dict)
    image: Image | None = None
    archive: StoredObject | None = None
    error: Problem | None = None
    submitted_at: datetime | None = None
    received_at: datetime | None = None
    fetched_at: datetime | None = None
    archived_at: datetime | None = None
    updated_at: datetime | None = None
    history: tuple[Event, ...] = ()
    load_thumbnail: Callable[[], bytes | None] = field(default=lambda: None, repr=False, compare=False)

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.state in FINAL

    def _repr_html_(self) -> str:
        """Return the job as notebooks show it, with its picture, and without keys that are in URLs."""
        image = self.image
        facts = {
            "job": self.id,
            "state": self.state,
            "ref": self.ref,
            "source": self.source_url and plain_url(self.source_url),
            "image": image and f"{image.width} x {image.height} {image.format}, {image.bytes:,} bytes",
            "archive": self.archive and self.archive.uri,
            "error": self.error and f"{self.error.reason}: {self.error.detail}",
            "updated": self.updated_at and self.updated_at.isoformat(" ", "seconds"),
        }
        rows = [f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in facts.items() if value]
        thumbnail = self.load_thumbnail() if self.archive else None
        picture = thumbnail and base64.b64encode(thumbnail).decode()
        shown = f'<img alt="the archived image" src="data:image/webp;base64,{picture}">' if picture else ""
        return f"<table>{''.join(rows)}</table>{shown}"


def job(document: Document, load_thumbnail: Callable[[str], bytes | None]) -> Job:
    """Return a job of the API."""
    values: dict[str, Any] = {
        name: datetime.fromisoformat(value) if name.endswith("_at") and value else value
        for name, value in _known(Job, document).items()
    }
    values["history"] = tuple(Event(**_event(each)) for each in document.get("history", ()))
    if image := document.get("image"):
        values["image"] = Image(**_known(Image, image))
    if archive := document.get("archive"):
        values["archive"] = StoredObject(**_known(StoredObject, archive))
    if error := document.get("error"):
        values["error"] = Problem(error["reason"], error["detail"], datetime.fromisoformat(error["at"]))
    return Job(**values, load_thumbnail=lambda: load_thumbnail(document["id"]))


def change(kind: str, data: Document) -> Change:
    """Return the transition, or the gap, that an event tells of."""
    if kind == "gap":
        return Change(datetime.now(UTC), kind, None, "", None, None, data["until"], "", None)
    return Change(**_event(data), seq=data["seq"], id=data["id"], ref=data["ref"])


def _event(document: Document) -> dict[str, Any]:
    names = {"event": "event", "before": "from", "after": "to", "reason": "reason", "detail": "detail"}
    return {
        "at": datetime.fromisoformat(document["at"]),
        **{own: document[name] for own, name in names.items()},
    }


def _known(kind: type[Any], document: Document) -> dict[str, Any]:
    return {each.name: document[each.name] for each in fields(kind) if each.name in document}
