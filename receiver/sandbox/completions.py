"""Sends completions: one attempt each, since the provider's page promises no retry."""

import asyncio
import logging

import httpx

from receiver.sandbox.faults import CompletionFault
from receiver.sandbox.jobs import Job
from receiver.sandbox.options import Options

logger = logging.getLogger(__name__)


class CompletionSender:
    """Sends completions to their webhooks, as the job's plan says.

    Args:
        client: follows no redirects, which could lead off this machine; endpoints were checked at submit.
    """

    def __init__(self, client: httpx.AsyncClient, options: Options) -> None:
        self._client = client
        self._options = options
        self._next_sent = asyncio.Event()

    async def deliver(self, job: Job) -> None:
        """Send the job's completion, if it has a webhook. Return when that has succeeded or failed."""
        fault = job.plan.completion
        if job.submission.webhook is None:
            return
        if fault is CompletionFault.DROP:
            logger.info("job %s: completion dropped", job.id)
            return
        if fault is CompletionFault.LATE:
            await asyncio.sleep(self._options.late_by)
        if fault is CompletionFault.REORDER:
            await self._wait_to_be_overtaken()
        for _ in range(2 if fault is CompletionFault.TWICE else 1):
            await self._post(job)

    async def _wait_to_be_overtaken(self) -> None:
        # There may be no other completion.
        try:
            async with asyncio.timeout(self._options.reorder_within):
                await self._next_sent.wait()
        except TimeoutError:
            logger.info("a completion waited to be overtaken, and no other came")

    async def _post(self, job: Job) -> None:
        webhook = job.submission.webhook
        assert webhook is not None
        try:
            # Streamed, so that a body of any size is left unread.
            async with (
                asyncio.timeout(self._options.call_timeout),
                self._client.stream(
                    "POST", webhook.endpoint, json=job.completion(), headers=dict(webhook.headers)
                ) as answer,
            ):
                logger.info("job %s: completion answered with %d", job.id, answer.status_code)
        except (httpx.HTTPError, TimeoutError) as error:
            logger.warning("job %s: completion lost, %s: %s", job.id, type(error).__name__, error)
        sent, self._next_sent = self._next_sent, asyncio.Event()
        sent.set()
