"""A provider's API, as far as all have it in common: tokens, submits, errors, and the faults of calls."""

import asyncio
import hmac
import html
import uuid
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from anyio import to_thread
from starlette.applications import Starlette
from starlette.datastructures import URL
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from receiver.sandbox.faults import CallFault, SubmitFault
from receiver.sandbox.hosting import CutResponse
from receiver.sandbox.jobs import Job, OrderT
from receiver.sandbox.options import ErrorShape
from receiver.sandbox.runner import Runner
from receiver.sandbox.submits import InvalidRequestError

_EARLY_WITHIN = 60.0
"""Seconds for which an answer waits for its own completion to overtake it."""

Endpoint = Callable[[Request], Awaitable[Response]]


class StandIn(Runner[OrderT]):
    """A provider's API.

    Attributes:
        secrets: those that sign deliveries and were made here, since none were given.
        page_size: jobs on a page of the list.
        missing: what the API says where a job is not known.
    """

    submitted_status: ClassVar[int] = 200
    invalid_status: ClassVar[int] = 422
    page_size: ClassVar[int] = 20
    missing: ClassVar[str] = "Not found."
    secrets: tuple[str, ...] = ()

    # What a provider defines.

    @abstractmethod
    def routes(self) -> list[Route]:
        """Return the API's routes, each behind `guarded`."""

    @abstractmethod
    def token_of(self, request: Request) -> str | None:
        """Return the API token of a request."""

    @abstractmethod
    def parse(self, body: bytes, request: Request) -> OrderT:
        """Parse a submit. It may hold a whole picture, so it is called in a thread.

        Raises:
            InvalidRequestError: the provider does not allow it.
        """

    @abstractmethod
    def submitted(self, job: Job[OrderT], request: Any) -> Any:
        """Return the answer to a submit; ``request`` is its JSON."""

    @abstractmethod
    def refusal(self, status: int, text: str) -> Any:
        """Return the body of an error."""

    def invalid(self, error: InvalidRequestError) -> Any:
        """Return the body of the answer to an invalid submit."""
        return self.refusal(self.invalid_status, error.text)

    # Around the routes.

    def app(self) -> Starlette:
        app = Starlette(
            routes=[*self.routes(), self.results.route()],
            lifespan=lambda _app: self.running(),
            exception_handlers={HTTPException: self.refused},
            max_body_size=self.options.max_body_bytes,
        )
        # A redirect would lose the body of a POST in many clients; the routes exist in both forms instead.
        app.router.redirect_slashes = False
        return app

    def guarded(self, endpoint: Endpoint) -> Endpoint:
        """Have an endpoint ask for the token, and meet the faults of calls."""

        async def guarded(request: Request) -> Response:
            token, expected = self.token_of(request), self.options.token
            if not token:
                raise HTTPException(401, "Authentication credentials were not provided.")
            if expected is not None and not hmac.compare_digest(token.encode(), expected.encode()):
                raise HTTPException(401, "Invalid token.")
            match self.faults.pick(CallFault):
                case CallFault.REFUSE:
                    raise HTTPException(401, "Invalid token.")
                case CallFault.THROTTLE:
                    wait = self.options.retry_after
                    headers = None if wait is None else {"Retry-After": str(wait)}
                    raise HTTPException(429, "Request was throttled.", headers)
                case CallFault.OUTAGE:
                    return _bad_gateway()
            return await endpoint(request)

        return guarded

    async def submit(self, request: Request) -> Response:
        body = await request.body()
        try:
            order = await to_thread.run_sync(self.parse, body, request)
        except InvalidRequestError as error:
            return self._error(self.invalid_status, error.text, content=self.invalid(error))
        job, task = await self.accept(order, body, str(request.base_url).rstrip("/"))
        if SubmitFault.EARLY in job.plan:
            await asyncio.wait({task}, timeout=_EARLY_WITHIN)
        if SubmitFault.LOST_ANSWER in job.plan:
            return _bad_gateway()
        if SubmitFault.CUT_ANSWER in job.plan:
            start, status = b'{"id": "', self.submitted_status
            return CutResponse(start, length=500, status_code=status, media_type="application/json")
        return await self.answer(self.submitted, job, self.submitted_status)

    def job(self, request: Request) -> Job[OrderT]:
        """Return the job that the route's ``id`` names, with a fresh URL where the options want that."""
        job = self.jobs.get(request.path_params["id"])
        if job is None:
            raise HTTPException(404, self.missing)
        if self.options.renew_urls:
            for output in job.outputs:
                if output.url is not None and self.results.expired(output.url):
                    output.url = self.results.publish(job, output)
        return job

    def listed(self) -> list[Job[OrderT]]:
        """Return all jobs, newest first, or as the options want."""
        jobs = [*self.jobs.values()]
        return jobs if self.options.oldest_first else jobs[::-1]

    def page_link(self, request: Request, **parameters: object) -> str:
        """Return the URL of another page of a list."""
        url = request.url
        if self.options.link_base is not None:
            base = URL(self.options.link_base)
            url = url.replace(scheme=base.scheme, netloc=base.netloc)
        return str(url.include_query_params(**parameters))

    async def answer(
        self, form: Callable[[Job[OrderT], Any], Any], job: Job[OrderT], status: int = 200
    ) -> Response:
        """Return a form of a job with its request. It may hold a whole picture, so a thread parses it."""
        try:
            content = await to_thread.run_sync(self.formed, form, job)
        except FileNotFoundError as error:
            raise HTTPException(404, self.missing) from error
        return Response(content, status, media_type="application/json")

    async def refused(self, _request: Request, error: Exception) -> Response:
        """Answer a request that is refused by route, method, token or rate."""
        assert isinstance(error, HTTPException)
        return self._error(error.status_code, error.detail, error.headers)

    def _error(
        self, status: int, text: str, headers: Mapping[str, str] | None = None, *, content: Any = None
    ) -> Response:
        match self.options.error_shape:
            case ErrorShape.DETAIL:
                content = {"detail": text}
            case ErrorShape.STATUS:
                content = {"status": {"code": status, "text": text, "request_id": str(uuid.uuid4())}}
            case ErrorShape.FIELDS:
                field, colon, rest = text.partition(": ")
                content = {field if colon else "non_field_errors": [rest or text]}
            case ErrorShape.HTML:
                page = f"<html><head><title>{html.escape(text)}</title></head><body></body></html>"
                return HTMLResponse(page, status, headers)
            case ErrorShape.TEXT:
                return PlainTextResponse(text, status, headers)
            case ErrorShape.EMPTY:
                return Response(b"", status, headers)
        return JSONResponse(self.refusal(status, text) if content is None else content, status, headers)


def _bad_gateway() -> Response:
    return HTMLResponse("<html><head><title>502 Bad Gateway</title></head></html>", 502)
