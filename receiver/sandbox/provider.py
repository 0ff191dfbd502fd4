"""Runs jobs: each is created, waits, is resized, and its completion is sent."""

import asyncio
import logging
import uuid
from functools import partial
from typing import Self

import httpx
from anyio import CapacityLimiter, to_thread

from receiver.sandbox.completions import CompletionSender
from receiver.sandbox.faults import Dice, JobFault, ResultFault
from receiver.sandbox.jobs import Clock, Files, Job, Jobs, RecordStatus, Status
from receiver.sandbox.loopback import loopback_url
from receiver.sandbox.options import Options
from receiver.sandbox.upscale import UnusableSourceError, Upscaled, upscale
from receiver.sandbox.validation import Submission, source_of

logger = logging.getLogger(__name__)

_FINAL_STATUS = {
    JobFault.FAILED: Status.FAILED,
    JobFault.FAILED_TOLD: Status.FAILED,
    JobFault.LIMIT: Status.API_LIMIT_EXCEEDED,
    JobFault.UNSUPPORTED: Status.NOT_SUPPORTED,
}


class Provider:
    """Runs each job in a task of its own, and cancels the tasks at the end of its context.

    Args:
        client: must follow no redirects, which could lead off this machine.
    """

    def __init__(self, options: Options, files: Files, client: httpx.AsyncClient, clock: Clock) -> None:
        self.options = options
        self.jobs = Jobs(options.keep_jobs)
        self.files = files
        self.clock = clock
        self.dice = Dice(options.faults, options.seed)
        self._client = client
        self._sender = CompletionSender(client, options)
        self._tasks: set[asyncio.Task[None]] = set()
        # Two pictures at a time bound the memory, and leave CPU to the program under test.
        self._resizing = CapacityLimiter(2)

    async def accept(
        self, submission: Submission, body: bytes, base_url: str
    ) -> tuple[Job, asyncio.Task[None]]:
        """Create and start a job. Return it with its task, which ends when its completion was sent."""
        now = self.clock()
        plan = self.dice.plan()
        job = Job(
            id=str(uuid.uuid4()),
            submission=submission,
            plan=plan if submission.plan is None else submission.plan,
            base_url=base_url,
            workspace=submission.workspace or self.options.workspace,
            created=now,
            modified=now,
        )
        await to_thread.run_sync(self.files.write_request, job.id, body)
        forgotten = self.jobs.add(job)
        task = asyncio.create_task(self._run(job), name=job.id)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        await to_thread.run_sync(self.files.remove, forgotten)
        return job, task

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def renew_url(self, job: Job) -> None:
        """Give the job a new URL if the last one has expired, and the sandbox renews URLs."""
        if not self.options.renew_urls or job.url is None:
            return
        link = self.jobs.linked(job.url.rsplit("/", 1)[-1])
        if link is None or link.expires <= self.clock():
            job.url = self.jobs.link(job, self.clock() + self.options.url_lifetime)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("job %s: the sandbox itself failed", task.get_name(), exc_info=error)

    async def _run(self, job: Job) -> None:
        fault = job.plan.job
        await asyncio.sleep(self.options.delay / 2)
        self._move(job, Status.RETRY if fault is JobFault.RETRY else Status.PROCESSING)
        await asyncio.sleep(self.options.delay / 2)
        if fault is JobFault.STUCK:
            return
        if fault in _FINAL_STATUS:
            self._move(job, _FINAL_STATUS[fault])
            if fault is JobFault.FAILED_TOLD:
                await self._sender.deliver(job)
            return
        await self._finish(job)
        await self._sender.deliver(job)

    async def _finish(self, job: Job) -> None:
        try:
            job.result = await self._upscale(job)
            job.record = RecordStatus(200, "OK")
            if job.plan.job is JobFault.RECORD:
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
                self.files.folder / job.id,
                max_pixels=self.options.max_result_pixels,
                fault=job.plan.result,
            )
            return await to_thread.run_sync(work)

    async def _source(self, job: Job) -> bytes:
        if job.submission.url is None:
            try:
                body = await to_thread.run_sync(self.files.read_request, job.id)
            except FileNotFoundError as error:
                raise UnusableSourceError("the job was forgotten for newer ones") from error
            return await to_thread.run_sync(source_of, body)
        return await self._fetch(job.submission.url)

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
        now = self.clock()
        expires = now + self.options.url_lifetime
        if job.plan.result is ResultFault.STALE:
            job.announced_url = self.jobs.link(job, expires, dead=True)
            job.url = self.jobs.link(job, expires)
        else:
            job.url = job.announced_url = self.jobs.link(job, expires)
        expired = [link.job for link in self.jobs.prune_links(now)]
        if not self.options.renew_urls:
            await to_thread.run_sync(self.files.remove_results, expired)

    def _move(self, job: Job, status: Status) -> None:
        job.status = status
        job.modified = self.clock()
