"""Runs each job: creates it, waits, resizes the image, and sends the completion."""

import asyncio
import logging
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from anyio import CapacityLimiter, to_thread

from receiver.sandbox.faults import CompletionFault, Fault, FaultPicker, JobFault, ResultFault
from receiver.sandbox.jobs import Clock, Job, Link, RecordStatus, Status
from receiver.sandbox.loopback import loopback_url
from receiver.sandbox.options import Options
from receiver.sandbox.upscale import UnusableSourceError, Upscaled, upscale
from receiver.sandbox.validation import Submission, Webhook, source_of

logger = logging.getLogger(__name__)

_FINAL_STATUS: Mapping[Fault, Status] = {
    JobFault.FAILED: Status.FAILED,
    JobFault.FAILED_TOLD: Status.FAILED,
    JobFault.LIMIT: Status.API_LIMIT_EXCEEDED,
    JobFault.UNSUPPORTED: Status.NOT_SUPPORTED,
}


class Provider:
    """Runs each job in a background task of its own, with its request and its result as files.

    Attributes:
        jobs: the newest ``keep_jobs`` jobs by id, oldest first.
        links: by the name in the URL, oldest first; all live equally long.
    """

    def __init__(self, options: Options, clock: Clock) -> None:
        self.options = options
        self.jobs: OrderedDict[str, Job] = OrderedDict()
        self.links: OrderedDict[str, Link] = OrderedDict()
        self.clock = clock
        self.faults = FaultPicker(options.faults, options.seed)
        self._folder: Path
        # Loopback is dialled without a proxy, and a redirect could lead away from it.
        self._client = httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            timeout=None,  # noqa: S113 - one asyncio.timeout bounds each whole call, drips included
            headers={"User-Agent": "ximilar-sandbox", "Accept-Encoding": "identity"},
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_sent = asyncio.Event()
        # Two pictures at a time bound the memory, and leave processors to the program under trial.
        self._resizing = CapacityLimiter(2)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the files in a temporary folder. At the end, cancel the jobs and remove the folder."""
        with TemporaryDirectory(prefix="sandbox-") as folder:
            self._folder = Path(folder)
            async with self._client:
                try:
                    yield
                finally:
                    tasks = tuple(self._tasks)
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

    async def accept(
        self, submission: Submission, body: bytes, base_url: str
    ) -> tuple[Job, asyncio.Task[None]]:
        """Create and start a job. Return it with its task, which ends when its completion was sent."""
        now = self.clock()
        plan = self.faults.plan()
        job = Job(
            id=str(uuid.uuid4()),
            submission=submission,
            plan=plan if submission.record.plan is None else submission.record.plan,
            base_url=base_url,
            workspace=submission.workspace or self.options.workspace,
            created=now,
            modified=now,
        )
        await to_thread.run_sync(self._request_file(job).write_bytes, body)
        self.jobs[job.id] = job
        forgotten = []
        while len(self.jobs) > self.options.keep_jobs:
            forgotten.append(self.jobs.popitem(last=False)[1])
        task = asyncio.create_task(self._run(job), name=job.id)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        await to_thread.run_sync(self._remove, forgotten)
        return job, task

    async def read_request(self, job: Job) -> bytes:
        """Return the body of the submit; raise `FileNotFoundError` if the job was forgotten meanwhile."""
        return await to_thread.run_sync(self._request_file(job).read_bytes)

    def renew_url(self, job: Job) -> None:
        """Give the job a fresh URL if the last one has expired and ``renew_urls`` is set."""
        if not self.options.renew_urls or job.url is None:
            return
        link = self.links.get(job.url.rsplit("/", 1)[-1])
        if link is None or link.expires <= self.clock():
            job.url = self._new_url(job)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("job %s: the sandbox itself failed", task.get_name(), exc_info=error)

    async def _run(self, job: Job) -> None:
        await asyncio.sleep(self.options.delay / 2)
        self._move(job, Status.RETRY if JobFault.RETRY in job.plan else Status.PROCESSING)
        await asyncio.sleep(self.options.delay / 2)
        if JobFault.STUCK in job.plan:
            return
        for fault in job.plan & _FINAL_STATUS.keys():
            self._move(job, _FINAL_STATUS[fault])
            if fault is JobFault.FAILED_TOLD:
                await self._send_completion(job)
            return
        await self._finish(job)
        await self._send_completion(job)

    async def _finish(self, job: Job) -> None:
        try:
            job.result = await self._upscale(job)
            job.record = RecordStatus(200, "OK")
            if JobFault.RECORD in job.plan:
                job.record = RecordStatus(500, "Internal error while upscaling the record.")
        except UnusableSourceError as error:
            job.record = RecordStatus(400, str(error))
        if job.result is not None and job.record.code == 200:
            await self._publish(job)
        self._move(job, Status.DONE)

    async def _upscale(self, job: Job) -> Upscaled:
        async with self._resizing:
            source = await self._source(job)
            work = partial(
                upscale,
                source,
                job.submission,
                self._folder / job.id,
                max_pixels=self.options.max_result_pixels,
                plan=job.plan,
            )
            return await to_thread.run_sync(work)

    async def _source(self, job: Job) -> bytes:
        if job.submission.record.url is None:
            try:
                body = await self.read_request(job)
            except FileNotFoundError as error:
                raise UnusableSourceError("the job was forgotten for newer ones") from error
            return await to_thread.run_sync(source_of, body)
        return await self._fetch(job.submission.record.url)

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

    async def _publish(self, job: Job) -> None:
        """Give the result its URL, and remove results whose URLs have expired."""
        job.url = job.announced_url = self._new_url(job)
        if ResultFault.STALE in job.plan:
            job.announced_url = self._new_url(job, dead=True)
        expired = []
        while self.links:
            link = next(iter(self.links.values()))
            if link.expires > self.clock() and link.job.id in self.jobs:
                break
            self.links.popitem(last=False)
            expired.append(link.job)
        if not self.options.renew_urls:
            await to_thread.run_sync(partial(self._remove, expired, keep_requests=True))

    def _new_url(self, job: Job, *, dead: bool = False) -> str:
        assert job.result is not None
        name = f"{uuid.uuid4()}{job.result.path.suffix}"
        self.links[name] = Link(job, self.clock() + self.options.url_lifetime, dead)
        return f"{job.base_url}/ximilar-tmp-images/{name}"

    def _move(self, job: Job, status: Status) -> None:
        job.status = status
        job.modified = self.clock()

    async def _send_completion(self, job: Job) -> None:
        """Send the completion if the job has a webhook: one attempt, since the page promises no retry."""
        if job.submission.webhook is None:
            return
        if CompletionFault.DROP in job.plan:
            logger.info("job %s: completion dropped", job.id)
            return
        if CompletionFault.LATE in job.plan:
            await asyncio.sleep(self.options.late_by)
        if CompletionFault.REORDER in job.plan:
            try:
                async with asyncio.timeout(self.options.reorder_within):
                    await self._next_sent.wait()
            except TimeoutError:
                logger.info("a completion waited to be overtaken, and no other came")
        for _ in range(2 if CompletionFault.TWICE in job.plan else 1):
            await self._post(job, job.submission.webhook)

    async def _post(self, job: Job, webhook: Webhook) -> None:
        try:
            # Streamed and left unread: only the status is of interest, whatever the body's size.
            async with (
                asyncio.timeout(self.options.call_timeout),
                self._client.stream(
                    "POST", webhook.endpoint, json=job.completion(), headers=webhook.headers
                ) as answer,
            ):
                logger.info("job %s: completion answered with %d", job.id, answer.status_code)
        except (httpx.HTTPError, TimeoutError) as error:
            logger.warning("job %s: completion lost, %s: %s", job.id, type(error).__name__, error)
        sent, self._next_sent = self._next_sent, asyncio.Event()
        sent.set()

    def _request_file(self, job: Job) -> Path:
        return self._folder / f"{job.id}.request"

    def _remove(self, jobs: Sequence[Job], *, keep_requests: bool = False) -> None:
        for job in jobs:
            if not keep_requests:
                self._request_file(job).unlink(missing_ok=True)
            if job.result is not None:
                job.result.path.unlink(missing_ok=True)
