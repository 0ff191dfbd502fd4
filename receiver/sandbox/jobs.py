"""The sandbox's state: jobs and links to results in memory, requests and results on disk."""

import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

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
    """The ``_status`` of a job's one record. Its request_id is another id than the job's."""

    code: int
    text: str
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(slots=True)
class Job:
    """One job.

    Attributes:
        base_url: the sandbox's address as the submitter used it, without a trailing slash.
        created: seconds since the epoch.
        modified: seconds since the epoch.
        record: the record's outcome, once there is one.
        url: the result's current URL.
        announced_url: the URL in the completion.
        downloads: how often the result was requested.
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
        """Return the job as in the list."""
        return {
            "id": self.id,
            "status": self.status,
            "type": "upscaler",
            "created": timestamp(self.created),
            "workspace": self.workspace,
        }

    def submitted(self, request: Any) -> dict[str, Any]:
        """Return the answer to the submit, with the request's body."""
        return {
            "id": self.id,
            "request": request,
            "type": "upscaler",
            "status": Status.CREATED,
            "created": timestamp(self.created),
            "workspace": self.workspace,
        }

    def full(self, request: Any) -> dict[str, Any]:
        """Return the whole job, with the request's body."""
        answer: dict[str, Any] = {
            "id": self.id,
            "created": timestamp(self.created),
            "modified": timestamp(self.modified),
            "request": request,
        }
        if self.record is not None:
            answer["response"] = {"records": [self._record(self.url)]}
        return answer | {"type": "upscaler", "status": self.status, "workspace": self.workspace}

    def completion(self) -> dict[str, Any]:
        """Return the body of the completion. Unlike the whole job's, its record has an ``_id``."""
        answer: dict[str, Any] = {"status": self.status, "id": self.id, "type": "upscaler"}
        if self.record is not None:
            record_id = self.submission.record_id or str(uuid.uuid5(uuid.UUID(self.id), "record"))
            answer["response"] = {"records": [{"_id": record_id} | self._record(self.announced_url)]}
        return answer

    def _record(self, url: str | None) -> dict[str, Any]:
        assert self.record is not None
        record: dict[str, Any] = {}
        if self.submission.url is not None:
            record["_url"] = self.submission.url
        if self.result is not None:
            record |= {"_width": self.result.width, "_height": self.result.height}
        record["_status"] = {
            "code": self.record.code,
            "text": self.record.text,
            "request_id": self.record.request_id,
        }
        if self.result is not None and self.record.code == 200:
            record |= {
                "_upscaled_width": self.result.upscaled_width,
                "_upscaled_height": self.result.upscaled_height,
                "_upscaled_image_url": url,
            }
        return record


@dataclass(frozen=True, slots=True)
class Link:
    """One URL of a result.

    Attributes:
        expires: seconds since the epoch.
        dead: whether it never works.
    """

    job: Job
    expires: float
    dead: bool = False


class Jobs:
    """The jobs, newest last, and the links by name.

    Args:
        keep: how many jobs are kept; the oldest are forgotten.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._links: OrderedDict[str, Link] = OrderedDict()

    def add(self, job: Job) -> list[Job]:
        """Add a job, and return those that are forgotten for it."""
        self._jobs[job.id] = job
        forgotten = []
        while len(self._jobs) > self._keep:
            forgotten.append(self._jobs.popitem(last=False)[1])
        return forgotten

    def get(self, job_id: str) -> Job | None:
        """Return a job."""
        return self._jobs.get(job_id)

    def listed(self, *, oldest_first: bool) -> Iterator[Job]:
        """Iterate over all jobs. The page does not state the order; both are guesses."""
        return iter(self._jobs.values()) if oldest_first else reversed(self._jobs.values())

    def link(self, job: Job, expires: float, *, dead: bool = False) -> str:
        """Return a new URL for the job's result."""
        assert job.result is not None
        name = f"{uuid.uuid4()}{job.result.path.suffix}"
        self._links[name] = Link(job, expires, dead)
        return f"{job.base_url}/ximilar-tmp-images/{name}"

    def linked(self, name: str) -> Link | None:
        """Return a link, expired or not."""
        return self._links.get(name)

    def prune_links(self, now: float) -> list[Link]:
        """Remove the expired links, and return them. All links have the same lifetime."""
        expired = []
        while self._links:
            name, link = next(iter(self._links.items()))
            if link.expires > now and link.job.id in self._jobs:
                break
            del self._links[name]
            expired.append(link)
        return expired


class Files:
    """The files of the jobs: request bodies and results, in a folder that the context removes at its end.

    Every call may block.
    """

    def __init__(self) -> None:
        self._temporary: TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        self._temporary = TemporaryDirectory(prefix="sandbox-")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._temporary is not None
        self._temporary.cleanup()

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        assert self._temporary is not None, "the files are open only inside of the with block"
        return Path(self._temporary.name)

    def write_request(self, job_id: str, body: bytes) -> None:
        """Save the body of a submit."""
        self._request(job_id).write_bytes(body)

    def read_request(self, job_id: str) -> bytes:
        """Read the body of a submit.

        Raises:
            FileNotFoundError: the job was forgotten meanwhile.
        """
        return self._request(job_id).read_bytes()

    def remove(self, jobs: Sequence[Job]) -> None:
        """Remove all files of these jobs."""
        for job in jobs:
            self._request(job.id).unlink(missing_ok=True)
        self.remove_results(jobs)

    def remove_results(self, jobs: Sequence[Job]) -> None:
        """Remove the results of these jobs."""
        for job in jobs:
            if job.result is not None:
                job.result.path.unlink(missing_ok=True)

    def _request(self, job_id: str) -> Path:
        return self.folder / f"{job_id}.request"


def timestamp(seconds: float) -> str:
    """Return a time as the provider writes it: UTC, always with microseconds, and a Z."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
