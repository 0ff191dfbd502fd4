"""A provider's API, as far as all have it in common, and the way of its jobs to the webhook."""

import asyncio
import hmac
import html
import json
import logging
import uuid
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Generic

import httpx
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.datastructures import URL
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from receiver.sandbox.delivery import Deliveries, Retries
from receiver.sandbox.faults import (
    CallFault,
    CompletionFault,
    Fault,
    FaultPicker,
    JobFault,
    ResultFault,
    SubmitFault,
)
from receiver.sandbox.hosting import CutResponse, Hosting, Results
from receiver.sandbox.jobs import ENDED, Clock, Event, Job, OrderT, Output, State
from receiver.sandbox.loopback import loopback_url
from receiver.sandbox.options import ErrorShape, Options
from receiver.sandbox.signing import Signer
from receiver.sandbox.submits import InvalidRequestError, picture
from receiver.sandbox.upscale import UnusableSourceError, Upscaled, upscale

logger = logging.getLogger(__name__)

_ENDS: Mapping[Fault, State] = {
    JobFault.FAILED: State.FAILED,
    JobFault.FAILED_TOLD: State.FAILED,
    JobFault.LIMIT: State.FAILED,
    JobFault.UNSUPPORTED: State.FAILED,
    JobFault.CANCELED: State.CANCELED,
}

_EARLY_WITHIN = 60.0
"""Seconds for which an answer waits for its own completion to overtake it."""

Endpoint = Callable[[Request], Awaitable[Response]]


class StandIn(ABC, Generic[OrderT]):
    """A provider's API. Each job runs in a background task, with its request and its results as files.

    Attributes:
        jobs: the newest ``keep_jobs`` jobs by id, oldest first.
        retries: of the delivery that tells the end.
        patience: seconds for which a delivery waits for its answer.
        secrets: those that sign deliveries and were made here, since none were given.
        page_size: jobs on a page of the list.
        missing: what the API says where a job is not known.
        picture_at: where the JSON of a submit has the picture, or its URL.
    """

    retries: ClassVar[Retries] = Retries()
    patience: ClassVar[float] = 30.0
    submitted_status: ClassVar[int] = 200
    invalid_status: ClassVar[int] = 422
    page_size: ClassVar[int] = 20
    missing: ClassVar[str] = "Not found."
    picture_at: ClassVar[Sequence[str | int]]
    secrets: tuple[str, ...] = ()

    def __init__(self, options: Options, clock: Clock, signer: Signer | None = None) -> None:
        self.options = options
        self.clock = clock
        self.jobs: OrderedDict[str, Job[OrderT]] = OrderedDict()
        self.results = Results(self.hosting(), options, clock)
        self.faults = FaultPicker(options.faults, options.seed)
        self._folder: Path
        # Loopback is dialled without a proxy, and a redirect could lead away from it.
        self._client = httpx.AsyncClient(
            verify=options.tls(),
            trust_env=False,
            follow_redirects=False,
            timeout=None,  # noqa: S113 - one asyncio.timeout bounds each whole call, drips included
            headers={"User-Agent": f"{options.provider}-sandbox", "Accept-Encoding": "identity"},
        )
        self._deliveries = Deliveries(self._client, options, clock, self.patience, signer)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Two pictures at a time bound the memory, and leave processors to the program under trial.
        self._resizing = CapacityLimiter(2)

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

    @abstractmethod
    def hosting(self) -> Hosting:
        """Return how the results are given out."""

    @abstractmethod
    def message(self, job: Job[OrderT], request: Any, event: Event) -> Any:
        """Return the body of the delivery for an event; ``None`` sends none."""

    def message_id(self, _job: Job[OrderT]) -> str:
        return f"msg_{uuid.uuid4().hex}"

    def new_id(self) -> str:
        return str(uuid.uuid4())

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
        job = self._new_job(order, str(request.base_url).rstrip("/"))
        await to_thread.run_sync(self._request_file(job).write_bytes, body)
        self.jobs[job.id] = job
        forgotten = []
        while len(self.jobs) > self.options.keep_jobs:
            forgotten.append(self.jobs.popitem(last=False)[1])
        task = self._start(job, self._run(job))
        await to_thread.run_sync(self._forget, forgotten)
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

    # The jobs.

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the files in a temporary folder. At the end, cancel the jobs and remove the folder."""
        with TemporaryDirectory(prefix="sandbox-") as folder:
            self._folder = Path(folder)
            async with self._client:
                try:
                    yield
                finally:
                    tasks = tuple(self._tasks.values())
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

    def _new_job(self, order: OrderT, base_url: str) -> Job[OrderT]:
        now, plan = self.clock(), self.faults.plan()
        return Job(self.new_id(), order, plan if order.plan is None else order.plan, base_url, now, now)

    async def cancel(self, job: Job[OrderT]) -> None:
        """End a job that has not ended yet as canceled."""
        if job.state not in ENDED:
            self._move(job, State.CANCELED)
            task = self._tasks.get(job.id)
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
            self._start(job, self._tell(job, Event.ENDED))

    def _start(self, job: Job[OrderT], work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=job.id)
        self._tasks[job.id] = task
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        if self._tasks.get(task.get_name()) is task:
            del self._tasks[task.get_name()]
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("job %s: the sandbox itself failed", task.get_name(), exc_info=error)

    async def _run(self, job: Job[OrderT]) -> None:
        await asyncio.sleep(self.options.delay / 2)
        if JobFault.ABORTED in job.plan:
            await self._end(job, State.ABORTED)
            return
        self._move(job, State.WORKING)
        await self._tell(job, Event.STARTED)
        await asyncio.sleep(self.options.delay / 2)
        if JobFault.STUCK in job.plan:
            return
        for fault in job.plan & _ENDS.keys():
            if _ENDS[fault] is State.FAILED:
                job.error = "The job failed."
            await self._end(job, _ENDS[fault])
            return
        try:
            job.outputs = [Output(file) for file in await self._upscale(job)]
        except UnusableSourceError as error:
            job.error = str(error)
        if JobFault.RECORD in job.plan and job.error is None:
            job.error = "Internal error while upscaling the record."
        if job.error is None:
            await self._publish(job)
            await self._tell(job, Event.OUTPUT)
        await self._end(job, State.SUCCEEDED if job.error is None else State.FAILED)

    async def _end(self, job: Job[OrderT], state: State) -> None:
        self._move(job, state)
        await self._tell(job, Event.ENDED)

    def _move(self, job: Job[OrderT], state: State) -> None:
        job.state = state
        job.modified = self.clock()
        if state is State.WORKING:
            job.started = job.modified
        elif state in ENDED:
            job.ended = job.modified

    async def _upscale(self, job: Job[OrderT]) -> list[Upscaled]:
        async with self._resizing:
            source = await self._source(job)
            work = partial(
                upscale,
                source,
                job.order.upscaling,
                self._folder / job.id,
                max_pixels=self.options.max_result_pixels,
                plan=job.plan,
            )
            return await to_thread.run_sync(work)

    async def _source(self, job: Job[OrderT]) -> bytes:
        if job.order.source is not None:
            return await self._fetch(job.order.source)
        try:
            return await to_thread.run_sync(self._picture, job)
        except FileNotFoundError as error:
            raise UnusableSourceError("the job was forgotten for newer ones") from error

    def _picture(self, job: Job[OrderT]) -> bytes:
        found = self._request(job)
        for key in self.picture_at:
            found = found[key]
        return picture(found)

    async def _fetch(self, url: str) -> bytes:
        try:
            source = bytearray()
            async with (
                asyncio.timeout(self.options.call_timeout),
                self._client.stream("GET", loopback_url(url)) as answer,
            ):
                if answer.status_code != 200:
                    raise UnusableSourceError(f"the source's URL answers with {answer.status_code}")
                async for chunk in answer.aiter_raw():
                    source += chunk
                    if len(source) > self.options.max_source_bytes:
                        raise UnusableSourceError(f"larger than {self.options.max_source_bytes} bytes")
            return bytes(source)
        except (httpx.HTTPError, TimeoutError) as error:
            raise UnusableSourceError(f"the source could not be fetched: {type(error).__name__}") from error

    async def _publish(self, job: Job[OrderT]) -> None:
        """Give the results their URLs, and remove results whose URLs have expired."""
        for output in job.outputs:
            output.url = output.announced_url = self.results.publish(job, output)
            if ResultFault.STALE in job.plan:
                output.announced_url = self.results.publish(job, output, dead=True)
        expired = self.results.sweep(self.jobs)
        if not self.options.renew_urls:
            await to_thread.run_sync(_remove, expired)

    async def _tell(self, job: Job[OrderT], event: Event) -> None:
        """Call the webhook, if the job has one and the provider calls it for this event."""
        if job.order.webhook is None:
            return
        ended = event is Event.ENDED
        if ended and CompletionFault.DROP in job.plan:
            logger.info("job %s: completion dropped", job.id)
            return
        if ended and CompletionFault.LATE in job.plan:
            await asyncio.sleep(self.options.late_by)
        if ended and CompletionFault.REORDER in job.plan:
            await self._deliveries.overtaken()

        def message(job: Job[OrderT], request: Any) -> Any:
            return self.message(job, request, event)

        try:
            body = await to_thread.run_sync(self.formed, message, job)
        except FileNotFoundError:
            logger.info("job %s: forgotten for newer ones", job.id)
            return
        if body == b"null":
            return
        plan = job.plan if ended else job.plan - set(CompletionFault)
        waits = self.retries.waits(self.options.retry_within) if ended else ()
        await self._deliveries.send(job, body, self.message_id(job), plan, waits)

    def _request_file(self, job: Job[OrderT]) -> Path:
        return self._folder / f"{job.id}.request"

    def _request(self, job: Job[OrderT]) -> Any:
        return json.loads(self._request_file(job).read_bytes())

    def formed(self, form: Callable[[Job[OrderT], Any], Any], job: Job[OrderT]) -> bytes:
        return json.dumps(form(job, self._request(job))).encode()

    def _forget(self, jobs: list[Job[OrderT]]) -> None:
        for job in jobs:
            self._request_file(job).unlink(missing_ok=True)
            _remove([output.file.path for output in job.outputs])


def _remove(paths: Any) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _bad_gateway() -> Response:
    return HTMLResponse("<html><head><title>502 Bad Gateway</title></head></html>", 502)
