"""The jobs in their JSON forms, and the links to their results."""

import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from receiver.sandbox.faults import Plan
from receiver.sandbox.upscale import Upscaled
from receiver.sandbox.validation import Submission

Clock = Callable[[], float]
"""Seconds since the epoch."""


class Status(StrEnum):
    """A job's status. The page documents CREATED, PROCESSING and DONE; the others are known second-hand."""

    CREATED = "CREATED"
    PROCESSING = "PROCESSING"
    RETRY = "RETRY"
    DONE = "DONE"
    FAILED = "FAILED"
    API_LIMIT_EXCEEDED = "API_LIMIT_EXCEEDED"
    NOT_SUPPORTED = "NOT_SUPPORTED"


@dataclass(frozen=True, slots=True)
class RecordStatus:
    """The ``_status`` of a job's one record. Its request_id differs from the job's id."""

    code: int
    text: str
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(slots=True)
class Job:
    """One job and its JSON forms.

    Attributes:
        base_url: the sandbox's address as the submitter used it, without a trailing slash.
        created, modified: seconds since the epoch.
        url: the result's present URL.
        announced_url: the URL in the completion.
    """

    id: str
    submission: Submission
    plan: Plan
    base_url: str
    workspace: str
    created: float
    modified: float
    status: Status = Status.CREATED
    record: RecordStatus | None = None
    result: Upscaled | None = None
    url: str | None = None
    announced_url: str | None = None
    downloads: int = 0

    def row(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "status": self.status,
            "type": "upscaler",
            "created": timestamp(self.created),
            "workspace": self.workspace,
        }

    def submitted(self, request: Any) -> dict[str, Any]:
        """Return the answer to the submit, which holds the request's JSON."""
        return {
            "id": self.id,
            "request": request,
            "type": "upscaler",
            "status": Status.CREATED,
            "created": timestamp(self.created),
            "workspace": self.workspace,
        }

    def full(self, request: Any) -> dict[str, Any]:
        """Return the whole job, which holds the request's JSON."""
        answer: dict[str, Any] = {
            "id": self.id,
            "created": timestamp(self.created),
            "modified": timestamp(self.modified),
            "request": request,
        }
        if self.record is not None:
            answer["response"] = {"records": [self._record(self.record, self.url)]}
        return answer | {"type": "upscaler", "status": self.status, "workspace": self.workspace}

    def completion(self) -> dict[str, Any]:
        """Return the body of the completion POST. Unlike elsewhere, its record has an ``_id``."""
        answer: dict[str, Any] = {"status": self.status, "id": self.id, "type": "upscaler"}
        if self.record is not None:
            record_id = self.submission.record.id or str(uuid.uuid5(uuid.UUID(self.id), "record"))
            record = {"_id": record_id} | self._record(self.record, self.announced_url)
            answer["response"] = {"records": [record]}
        return answer

    def _record(self, status: RecordStatus, url: str | None) -> dict[str, Any]:
        record: dict[str, Any] = {}
        if self.submission.record.url is not None:
            record["_url"] = self.submission.record.url
        if self.result is not None:
            record |= {"_width": self.result.width, "_height": self.result.height}
        record["_status"] = asdict(status)
        if self.result is not None and status.code == 200:
            record |= {
                "_upscaled_width": self.result.upscaled_width,
                "_upscaled_height": self.result.upscaled_height,
                "_upscaled_image_url": url,
            }
        return record


@dataclass(frozen=True, slots=True)
class Link:
    """One URL of a result, which ends at ``expires``, seconds since the epoch; a dead one never worked."""

    job: Job
    expires: float
    dead: bool = False


def timestamp(seconds: float) -> str:
    """Format a time as the provider does: UTC, always with microseconds, and a Z."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
