"""Ximilar's routes, and its error bodies."""

import re
import uuid
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.sandbox.hosting import Hosting
from receiver.sandbox.jobs import Event, Job
from receiver.sandbox.standin import StandIn
from receiver.sandbox.submits import InvalidRequestError, scheme_token
from receiver.sandbox.ximilar.forms import (
    XimilarJob,
    XimilarOrder,
    completion,
    full,
    row,
    status_of,
    submitted,
)
from receiver.sandbox.ximilar.validation import parse, source_of


class Ximilar(StandIn[XimilarOrder]):
    """Each route exists with and without a trailing slash, and neither redirects. No retries are promised."""

    submitted_status = 201
    invalid_status = 400

    def routes(self, prefix: str = "/account/v2/request") -> list[Route]:
        paths = [
            (prefix, "POST", self.submit),
            (prefix, "GET", self.list),
            (prefix + "/{id}", "GET", self.get),
            (prefix + "/{id}/status", "GET", self.status),
        ]
        return [
            Route(path + slash, self.guarded(endpoint), methods=[method])
            for path, method, endpoint in paths
            for slash in ("", "/")
        ]

    def hosting(self) -> Hosting:
        return Hosting("/ximilar-tmp-images", 24 * 3600.0, media_type="binary/octet-stream")

    def token_of(self, request: Request) -> str | None:
        return scheme_token(request, "Token")

    def parse(self, body: bytes, _request: Request) -> XimilarOrder:
        return parse(body, self.options.max_source_bytes, self.options.workspace)

    def picture_of(self, request: Any) -> bytes:
        return source_of(request)

    def submitted(self, job: XimilarJob, request: Any) -> Any:
        return submitted(job, request)

    def message(self, job: XimilarJob, _request: Any, event: Event) -> Any:
        return completion(job) if event is Event.ENDED else None

    def refusal(self, _status: int, text: str) -> Any:
        """Return a guess: the words of Django REST framework, which the vendor's own client expects."""
        return {"detail": text}

    def invalid(self, error: InvalidRequestError) -> Any:
        """Return a guess: the vendor's own client expects this form as well."""
        if not error.readable:
            return {"detail": error.text}
        return {"status": {"code": 400, "text": error.text, "request_id": str(uuid.uuid4())}}

    async def list(self, request: Request) -> Response:
        """``GET /request``: pages of all jobs, by ``type`` and ``status`` where these are given."""
        query = request.query_params
        text = query.get("page", "1")
        page = int(text) if re.fullmatch("[0-9]{1,9}", text) else 0
        # The page does not state the order; newest first is a guess.
        jobs = [
            job
            for job in self.listed()
            if query.get("type", "upscaler") == "upscaler"
            and query.get("status", status_of(job)) == status_of(job)
        ]
        size = self.options.page_size or self.page_size
        pages = max(1, -(-len(jobs) // size))
        if not 1 <= page <= pages:
            raise HTTPException(404, "Invalid page.")
        return JSONResponse(
            {
                "count": len(jobs),
                "next": self.page_link(request, page=page + 1) if page < pages else None,
                "previous": self.page_link(request, page=page - 1) if page > 1 else None,
                "results": [row(job) for job in jobs[(page - 1) * size : page * size]],
            }
        )

    async def get(self, request: Request) -> Response:
        """``GET /request/{id}``: the whole job."""
        return await self.answer(full, self.job(request))

    async def status(self, request: Request) -> Response:
        """``GET /request/{id}/status``. The page shows no answer; the vendor's client reads ``status``."""
        job: Job[XimilarOrder] = self.job(request)
        return JSONResponse({"id": job.id, "status": status_of(job)})
