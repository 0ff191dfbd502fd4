"""Sends what a provider has to tell to a webhook, with retries and the faults of the job's plan."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from receiver.sandbox.faults import CompletionFault, Plan, ProofFault
from receiver.sandbox.jobs import Clock, Job
from receiver.sandbox.options import Options
from receiver.sandbox.signing import Signer

logger = logging.getLogger(__name__)

_OLD = 3600
"""Seconds by which an old timestamp is old."""


@dataclass(frozen=True, slots=True)
class Retries:
    """A provider's retries: so many, at doubling intervals, the last of them ``within`` seconds."""

    count: int = 0
    within: float = 0.0

    def waits(self, within: float | None) -> list[float]:
        first = (self.within if within is None else within) / max(2**self.count - 1, 1)
        return [first * 2**number for number in range(self.count)]


class Deliveries:
    """Posts to webhooks, with the client given. Each attempt is signed anew."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        options: Options,
        clock: Clock,
        patience: float,
        signer: Signer | None,
    ) -> None:
        self._client = client
        self._options = options
        self._clock = clock
        self._patience = min(patience, options.call_timeout)
        self._signer = signer
        self._next_sent = asyncio.Event()

    async def overtaken(self) -> None:
        """Wait until another delivery was sent."""
        try:
            async with asyncio.timeout(self._options.reorder_within):
                await self._next_sent.wait()
        except TimeoutError:
            logger.info("a completion waited to be overtaken, and no other came")

    async def send(
        self, job: Job[Any], body: bytes, message_id: str, plan: Plan, waits: Sequence[float] = ()
    ) -> None:
        """Send until a 2xx comes, or the retries are used up."""
        # A blank changes no meaning, so that only a proof over the raw body can tell.
        sent = body + b" " if ProofFault.ALTERED in plan else body

        def signed() -> Mapping[str, str]:
            if self._signer is None:
                return {}
            time = int(self._clock()) - (_OLD if ProofFault.OLD_TIMESTAMP in plan else 0)
            return self._signer.headers(message_id, body, time, wrong=ProofFault.WRONG_SIGNATURE in plan)

        for wait in (0.0, *waits):
            await asyncio.sleep(wait)
            proof = signed()
            if await self._send(job, sent, proof):
                break
        if CompletionFault.REPLAY in plan:
            await self._send(job, sent, proof)
        if CompletionFault.TWICE in plan:
            await self._send(job, sent, signed())

    async def _send(self, job: Job[Any], body: bytes, proof: Mapping[str, str]) -> bool:
        headers = {"Content-Type": "application/json", **job.order.headers, **proof}
        answered = False
        try:
            # Streamed and left unread: only the status is of interest, whatever the body's size.
            async with (
                asyncio.timeout(self._patience),
                self._client.stream("POST", job.order.webhook, content=body, headers=headers) as answer,
            ):
                answered = answer.is_success
                logger.info("job %s: completion answered with %d", job.id, answer.status_code)
        except (httpx.HTTPError, TimeoutError) as error:
            logger.warning("job %s: completion lost, %s: %s", job.id, type(error).__name__, error)
        sent, self._next_sent = self._next_sent, asyncio.Event()
        sent.set()
        return answered
