"""What the API answers, as values with types. What this version does not know in an answer is left out."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from receiver.core.jobs import FINAL, Image, StoredObject
from receiver.core.serializers import plain_url


class ApiError(Exception):
    """The receiver refuses a request, or the answer is not a receiver's.

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


class Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Problem(Document):
    """Why a job has its state, or why its last attempt failed."""

    reason: str
    detail: str
    at: datetime


class Event(Document):
    """An entry of a job's history; the first has no state before it."""

    at: datetime
    event: str
    before: str | None = Field(alias="from")
    after: str = Field(alias="to")
    reason: str | None
    detail: str | None


class Change(Event):
    """A transition of a job, and its number in the history of all jobs.

    With the event ``gap``, transitions up to this number may be missing: they were pruned meanwhile.
    """

    seq: int
    id: str
    ref: str | None


class Gap(Document):
    """Transitions up to a number may be missing from a stream of changes."""

    until: int


@dataclass(frozen=True)
class _Thumbnail:
    """Loads a job's small picture. A copy of the job keeps it; in another process there is none."""

    load: Callable[[str], bytes | None] = field(default=lambda _: None, compare=False)

    def __deepcopy__(self, _: object) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()


class Job(Document):
    """A job. docs/reference/http-api.md says what each attribute means; a list's jobs have no history."""

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
    promised: dict[str, Any] = {}
    image: Image | None = None
    archive: StoredObject | None = None
    error: Problem | None = None
    submitted_at: datetime | None = None
    received_at: datetime | None = None
    fetched_at: datetime | None = None
    archived_at: datetime | None = None
    updated_at: datetime | None = None
    history: tuple[Event, ...] = ()
    _thumbnail: _Thumbnail = _Thumbnail()

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.state in FINAL

    def with_thumbnail(self, load: Callable[[str], bytes | None]) -> Self:
        """Let notebooks show what ``load`` returns: a small picture of the archived image, as WebP."""
        self._thumbnail = _Thumbnail(load)
        return self

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
        picture = base64.b64encode((self.archive and self._thumbnail.load(self.id)) or b"").decode()
        shown = f'<img alt="the archived image" src="data:image/webp;base64,{picture}">' if picture else ""
        return f"<table>{''.join(rows)}</table>{shown}"


class Page(Document):
    """A page of jobs; ``next`` is the cursor of the one after it."""

    jobs: tuple[Job, ...]
    next: str | None
