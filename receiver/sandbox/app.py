"""The sandbox as one ASGI application: the routes of the provider's page, and the error bodies."""

import asyncio
import hmac
import html
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import to_thread
from starlette.applications import Starlette
from starlette.datastructures import URL
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from receiver.sandbox.faults import CallFault, SubmitFault
from receiver.sandbox.jobs import Clock, Job
from receiver.sandbox.options import ErrorShape, Options
from receiver.sandbox.provider import Provider
from receiver.sandbox.results import CutResponse, Results
from receiver.sandbox.validation import InvalidRequestError, parse

_EARLY_WITHIN = 60.0
"""Seconds for which an answer waits for its own completion to overtake it."""

Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(options: Options, clock: Clock = time.time) -> Starlette:
    """Return a sandbox without jobs, whose lifespan can run once and leaves nothing behind.

    The clock is for timestamps and the life of URLs, not for the delays.
    """
    provider = Provider(options, clock)
    api = Api(provider)
    app = Starlette(
        routes=[*api.routes(), Route("/ximilar-tmp-images/{name}", Results(provider).get)],
        lifespan=lambda _app: provider.running(),
        exception_handlers={HTTPException: api.refused},
        max_body_size=options.max_body_bytes,
    )
    # A redirect would lose the body of a POST in many clients; the routes exist in both forms instead.
    app.router.redirect_slashes = False
    return app


class Api:
    """The provider's API. Each route exists with and without a trailing slash, and neither redirects."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._options = provider.options

    def routes(self, prefix: str = "/account/v2/request") -> list[Route]:
        paths: list[tuple[str, str, Endpoint]] = [
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
        """``POST /request``: create a job."""
        body = await request.body()
        try:
            submission = await to_thread.run_sync(parse, body, self._options.max_source_bytes)
        except InvalidRequestError as error:
            guess = ErrorShape.STATUS if error.readable else ErrorShape.DETAIL
            return self._error(HTTPException(400, error.text), guess)
        job, task = await self._provider.accept(submission, body, str(request.base_url).rstrip("/"))
        if SubmitFault.EARLY in job.plan:
            await asyncio.wait({task}, timeout=_EARLY_WITHIN)
        if SubmitFault.LOST_ANSWER in job.plan:
            return _bad_gateway()
        if SubmitFault.CUT_ANSWER in job.plan:
            return CutResponse(b'{"id": "', length=500, status_code=201, media_type="application/json")
        return await _with_request(job.submitted, body, 201)

    async def list(self, request: Request) -> Response:
        """``GET /request``: pages of all jobs, by ``type`` and ``status`` where these are given."""
        query = request.query_params
        text = query.get("page", "1")
        page = int(text) if re.fullmatch("[0-9]{1,9}", text) else 0
        # The page does not state the order; newest first is a guess.
        jobs = [
            job
            for job in self._provider.jobs.values()
            if query.get("type", "upscaler") == "upscaler" and query.get("status", job.status) == job.status
        ]
        if not self._options.oldest_first:
            jobs.reverse()
        size = self._options.page_size
        pages = max(1, -(-len(jobs) // size))
        if not 1 <= page <= pages:
            raise HTTPException(404, "Invalid page.")
        url = request.url
        if self._options.link_base is not None:
            base = URL(self._options.link_base)
            url = url.replace(scheme=base.scheme, netloc=base.netloc)
        return JSONResponse(
            {
                "count": len(jobs),
                "next": str(url.include_query_params(page=page + 1)) if page < pages else None,
                "previous": str(url.include_query_params(page=page - 1)) if page > 1 else None,
                "results": [job.row() for job in jobs[(page - 1) * size : page * size]],
            }
        )

    async def get(self, request: Request) -> Response:
        """``GET /request/{id}``: the whole job."""
        job = self._job(request)
        self._provider.renew_url(job)
        try:
            body = await self._provider.read_request(job)
        except FileNotFoundError as error:
            raise HTTPException(404, "Not found.") from error
        return await _with_request(job.full, body, 200)

    async def status(self, request: Request) -> Response:
        """``GET /request/{id}/status``. The page shows no answer; the vendor's client reads ``status``."""
        job = self._job(request)
        return JSONResponse({"id": job.id, "status": job.status})

    async def refused(self, _request: Request, error: Exception) -> Response:
        """Answer a request that is refused by route, method, token or rate."""
        assert isinstance(error, HTTPException)
        return self._error(error, ErrorShape.DETAIL)

    def _job(self, request: Request) -> Job:
        job = self._provider.jobs.get(request.path_params["id"])
        if job is None:
            raise HTTPException(404, "Not found.")
        return job

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        async def guarded(request: Request) -> Response:
            self._check_token(request.headers.get("authorization", ""))
            match self._provider.faults.pick(CallFault):
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

    def _error(self, error: HTTPException, guess: ErrorShape) -> Response:
        """Return the error in the configured shape.

        All shapes are guesses. The vendor's own client expects ``{"detail": …}``, in the words of Django REST
        framework, as well as ``{"status": {"code", "text", "request_id"}}``.
        """
        status, text, headers = error.status_code, error.detail, error.headers
        shape = self._options.error_shape
        match guess if shape is ErrorShape.GUESSED else shape:
            case ErrorShape.STATUS:
                content = {"code": status, "text": text, "request_id": str(uuid.uuid4())}
                return JSONResponse({"status": content}, status, headers)
            case ErrorShape.FIELDS:
                field, colon, rest = text.partition(": ")
                return JSONResponse({field if colon else "non_field_errors": [rest or text]}, status, headers)
            case ErrorShape.HTML:
                page = f"<html><head><title>{html.escape(text)}</title></head><body></body></html>"
                return HTMLResponse(page, status, headers)
            case ErrorShape.TEXT:
                return PlainTextResponse(text, status, headers)
            case ErrorShape.EMPTY:
                return Response(b"", status, headers)
        return JSONResponse({"detail": text}, status, headers)


def _bad_gateway() -> Response:
    return HTMLResponse("<html><head><title>502 Bad Gateway</title></head></html>", 502)


async def _with_request(form: Callable[[Any], dict[str, Any]], body: bytes, status: int) -> Response:
    """Return a job with its request. The request may hold a whole picture, so a thread parses it."""

    def content() -> bytes:
        return json.dumps(form(json.loads(body))).encode()

    return Response(await to_thread.run_sync(content), status, media_type="application/json")
