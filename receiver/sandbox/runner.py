"""The way of a job through a stand-in: taken, upscaled, published, told to the webhook."""

import asyncio
import json
import logging
import uuid
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Generic

import httpx
from anyio import CapacityLimiter, to_thread

from receiver.sandbox.delivery import Deliveries, Post, Retries
from receiver.sandbox.faults import CompletionFault, Fault, FaultPicker, JobFault, ResultFault
from receiver.sandbox.hosting import Hosting, Results
from receiver.sandbox.jobs import ENDED, Clock, Event, Job, OrderT, Output, State
from receiver.sandbox.loopback import loopback_url
from receiver.sandbox.options import Options
from receiver.sandbox.signing import Signer
from receiver.sandbox.upscale import UnusableSourceError, Upscaled, upscale

logger = logging.getLogger(__name__)

_ENDS: Mapping[Fault, State] = {
    JobFault.FAILED: State.FAILED,
    JobFault.FAILED_TOLD: State.FAILED,
    JobFault.LIMIT: State.FAILED,
    JobFault.UNSUPPORTED: State.FAILED,
    JobFault.CANCELED: State.CANCELED,
}


class Runner(ABC, Generic[OrderT]):
    """Runs each job in a background task, with its request and its results as files.

    Attributes:
        jobs: the newest ``keep_jobs`` jobs by id, oldest first.
        retries: of the delivery that tells the end.
        patience: seconds for which a delivery waits for its answer.
    """

    retries: ClassVar[Retries] = Retries()
    patience: ClassVar[float] = 30.0

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
    def hosting(self) -> Hosting:
        """Return how the results are given out."""

    @abstractmethod
    def picture_of(self, request: Any) -> bytes:
        """Return the picture in the JSON of a submit that `parse` has accepted."""

    @abstractmethod
    def message(self, job: Job[OrderT], request: Any, event: Event) -> Any:
        """Return the body of the delivery for an event; ``None`` sends none."""

    def message_id(self, _job: Job[OrderT]) -> str:
        return f"msg_{uuid.uuid4().hex}"

    def new_id(self) -> str:
        return str(uuid.uuid4())

    # What is common to all.

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

    async def accept(
        self, order: OrderT, body: bytes, base_url: str
    ) -> tuple[Job[OrderT], asyncio.Task[None]]:
        """Create and start a job. Return it with its task, which ends when its completion was sent."""
        now = self.clock()
        plan = self.faults.plan()
        job = Job(
            id=self.new_id(),
            order=order,
            plan=plan if order.plan is None else order.plan,
            base_url=base_url,
            created=now,
            modified=now,
        )
        await to_thread.run_sync(self._request_file(job).write_bytes, body)
        self.jobs[job.id] = job
        forgotten = []
        while len(self.jobs) > self.options.keep_jobs:
            forgotten.append(self.jobs.popitem(last=False)[1])
        task = self._start(job, self._run(job))
        await to_thread.run_sync(self._forget, forgotten)
        return job, task

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
            return await to_thread.run_sync(lambda: self.picture_of(self._request(job)))
        except FileNotFoundError as error:
            raise UnusableSourceError("the job was forgotten for newer ones") from error

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
        post = Post(job.id, job.order.webhook, body, self.message_id(job), job.order.headers)
        if ended:
            await self._deliveries.send(post, job.plan, self.retries.waits(self.options.retry_within))
        else:
            await self._deliveries.send(post, job.plan - set(CompletionFault))

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
