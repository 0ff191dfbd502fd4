"""The routes of the provider's page: submit, list, get, status."""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import to_thread
from starlette.datastructures import URL
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from receiver.sandbox.errors import CutAnswer, Errors
from receiver.sandbox.faults import CallFault, SubmitFault
from receiver.sandbox.jobs import Job
from receiver.sandbox.provider import Provider
from receiver.sandbox.validation import InvalidRequestError, parse

_EARLY_WITHIN = 60.0
"""Seconds for which the answer to a submit waits for its own completion."""


class Api:
    """The provider's API. Each route exists with and without a trailing slash, and neither redirects."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._options = provider.options
        self._errors = Errors(provider.options.error_shape)

    def routes(self, prefix: str = "/account/v2/request") -> list[Route]:
        """Return the routes under the prefix."""
        paths: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
            (prefix, "POST", self.submit),
            (prefix, "GET", self.list),
            (prefix + "/{id}", "GET", self.get),
            (prefix + "/{id}/status", "GET", self.status),
        ]
        return [
            Route(path + slash, self._guarded(endpoint), methods=[method])
            for path, method, endpoint in paths
            for slash in ("", "/")
        ]

    async def submit(self, request: Request) -> Response:
        """Create a job: ``POST /request``."""
        body = await request.body()
        try:
            submission = await to_thread.run_sync(parse, body, self._options.max_source_bytes)
        except InvalidRequestError as error:
            return self._errors.invalid(error)
        job, task = await self._provider.accept(submission, body, str(request.base_url).rstrip("/"))
        match job.plan.submit:
            case SubmitFault.EARLY:
                await asyncio.wait({task}, timeout=_EARLY_WITHIN)
            case SubmitFault.LOST_ANSWER:
                return _bad_gateway()
            case SubmitFault.CUT_ANSWER:
                return CutAnswer()
        return await _with_request(job.submitted, body, 201)

    async def list(self, request: Request) -> Response:
        """List jobs in pages, filtered by ``type`` and ``status``: ``GET /request``."""
        query = request.query_params
        try:
            page = int(query.get("page", "1"))
        except ValueError:
            page = 0
        jobs = [
            job
            for job in self._provider.jobs.listed(oldest_first=self._options.oldest_first)
            if query.get("type", "upscaler") == "upscaler" and query.get("status", job.status) == job.status
        ]
        size = self._options.page_size
        pages = max(1, -(-len(jobs) // size))
        if not 1 <= page <= pages:
            raise HTTPException(404, "Invalid page.")
        url = self._linked(request.url)
        return JSONResponse(
            {
                "count": len(jobs),
                "next": str(url.include_query_params(page=page + 1)) if page < pages else None,
                "previous": str(url.include_query_params(page=page - 1)) if page > 1 else None,
                "results": [job.row() for job in jobs[(page - 1) * size : page * size]],
            }
        )

    async def get(self, request: Request) -> Response:
        """Return the whole job: ``GET /request/{id}``."""
        job = self._job(request)
        self._provider.renew_url(job)
        try:
            body = await to_thread.run_sync(self._provider.files.read_request, job.id)
        except FileNotFoundError as error:
            raise HTTPException(404, "Not found.") from error
        return await _with_request(job.full, body, 200)

    async def status(self, request: Request) -> Response:
        """Return the status: ``GET /request/{id}/status``.

        The page shows no answer; the vendor's client reads ``status``.
        """
        job = self._job(request)
        return JSONResponse({"id": job.id, "status": job.status})

    def _linked(self, url: URL) -> URL:
        if self._options.link_base is None:
            return url
        base = URL(self._options.link_base)
        return url.replace(scheme=base.scheme, netloc=base.netloc)

    def _job(self, request: Request) -> Job:
        job = self._provider.jobs.get(request.path_params["id"])
        if job is None:
            raise HTTPException(404, "Not found.")
        return job

    def _guarded(
        self, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            self._check_token(request.headers.get("authorization", ""))
            match self._provider.dice.throw(CallFault):
                case CallFault.REFUSE:
                    raise HTTPException(401, "Invalid token.")
                case CallFault.THROTTLE:
                    wait = self._options.retry_after
                    headers = None if wait is None else {"Retry-After": str(wait)}
                    raise HTTPException(429, "Request was throttled.", headers)
                case CallFault.OUTAGE:
                    return _bad_gateway()
            return await endpoint(request)

        return guarded

    def _check_token(self, header: str) -> None:
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "token" or not token:
            raise HTTPException(401, "Authentication credentials were not provided.")
        expected = self._options.token
        if expected is not None and not hmac.compare_digest(token.encode(), expected.encode()):
            raise HTTPException(401, "Invalid token.")


def _bad_gateway() -> Response:
    return HTMLResponse("<html><head><title>502 Bad Gateway</title></head></html>", 502)


async def _with_request(shape: Callable[[Any], dict[str, Any]], body: bytes, status: int) -> Response:
    """Return a job with its request. That may hold a whole picture, so it is encoded in a thread."""

    def content() -> bytes:
        return json.dumps(shape(json.loads(body))).encode()

    return Response(await to_thread.run_sync(content), status, media_type="application/json")
