"""A provider that a test sets up row by row, behind a transport that the client is given."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from receiver.core.rate_limit import RateLimiter
from receiver.providers.base import Calls
from receiver.providers.ximilar.client import Ximilar
from tests.support.processes import completion


@dataclass
class Desk:
    """Knows jobs, and notes what it is asked.

    Attributes:
        page_size: rows on a page of the list.
        newest_first: the list's order.
        refuses: the status that every call is answered with, if any.
        headers: of such a refusal.
        broken: jobs that are answered with an error; "list" is the list itself.
        breaks_with: the status of that error.
        asked: the paths that were asked for, in order.
    """

    page_size: int = 3
    newest_first: bool = True
    refuses: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    breaks_with: int = 500
    asked: list[str] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def put(
        self, job_id: str, status: str, created: int, *, modified: int | None = None, **more: Any
    ) -> None:
        """A job as the provider has it; times are ms since the epoch."""
        job = {"id": job_id, "status": status, "type": "upscaler", "created": stamp(created), **more}
        job["modified"] = stamp(created if modified is None else modified)
        job["request"] = {
            "endpoint": "upscale_2x",
            "webhook": {"headers": {"x-receiver-ref": f"ref of {job_id}", "X-Webhook-Secret": "secret"}},
        }
        if status == "DONE":
            job["response"] = completion(job_id, f"https://host/{job_id}.png", 64, 48)["response"]
        self.jobs[job_id] = job

    def client(self, limiter: RateLimiter | None = None) -> Ximilar:
        """A client that speaks to this desk, and never waits before it asks again."""

        async def at_once(_seconds: float) -> None: ...

        return Ximilar(
            "https://provider/v2",
            "token",
            Calls(None if limiter is None else limiter.wait, transport=httpx.MockTransport(self._answer)),
            sleep=at_once,
        )

    def calls(self) -> list[str]:
        """What was asked since the last look: ids of jobs, and ``list``."""
        seen, self.asked = self.asked, []
        return seen

    def _answer(self, request: httpx.Request) -> httpx.Response:
        job_id = request.url.path.removeprefix("/v2/request").strip("/") or "list"
        if (
            not self.asked or self.asked[-1] != job_id or job_id not in self.broken
        ):  # not the client's repetitions
            self.asked.append(job_id)
        if self.refuses is not None:
            return _streamed(self.refuses, {"detail": "No."}, self.headers)
        if job_id in self.broken:
            return _streamed(self.breaks_with, {"detail": "Broken."})
        if job_id == "list":
            return _streamed(200, self._page(int(request.url.params.get("page", "1"))))
        if job_id not in self.jobs:
            return _streamed(404, {"detail": "Not found."})
        return _streamed(200, self.jobs[job_id])

    def _page(self, number: int) -> dict[str, Any]:
        rows = sorted(self.jobs.values(), key=lambda job: job["created"], reverse=self.newest_first)
        end = number * self.page_size
        return {
            "count": len(rows),
            "next": f"http://elsewhere/request?page={number + 1}" if end < len(rows) else None,
            "results": [
                {name: job[name] for name in ("id", "status", "type", "created")}
                for job in rows[end - self.page_size : end]
            ],
        }


def _streamed(status: int, document: Any, headers: Mapping[str, str] | None = None) -> httpx.Response:
    # As from a network: a body that was given whole cannot be read in pieces.
    async def body() -> AsyncIterator[bytes]:
        yield json.dumps(document).encode()

    return httpx.Response(status, headers=headers, content=body())


def stamp(at: int) -> str:
    """A time in ms since the epoch as the provider writes it."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
