"""Deliveries as fast as loopback gives them, over so many connections, each answer timed."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.processes import PATIENCE, PROOF, WEBHOOK

PAUSE = 0.05
"""Seconds before a sender that insists tries a receiver again that is not there."""


@dataclass
class Answers:
    """What the receiver said.

    Attributes:
        statuses: how often each status was answered.
        acknowledged: the jobs whose delivery was answered with 200.
        unanswered: the jobs whose connection ended without an answer.
        took: of each answer, ms.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    acknowledged: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    took: list[float] = field(default_factory=list)

    @property
    def p99(self) -> float:
        """The time, ms, within which 99 of 100 answers came."""
        return sorted(self.took)[int(len(self.took) * 0.99)]


async def deliver(
    port: int,
    jobs: Mapping[str, dict[str, Any]],
    connections: int,
    *,
    insisting: bool = False,
    into: Answers | None = None,
) -> Answers:
    """Delivers each job's body over so many connections, each waiting for its answer before the next.

    Args:
        port: of the receiver, on loopback.
        jobs: ids and bodies.
        connections: at a time.
        into: where the answers are noted as they come.
        insisting: whether a delivery is sent again until it is acknowledged, as the provider would.
    """
    answers = Answers() if into is None else into
    waiting = iter(jobs.items())
    async with asyncio.timeout(PATIENCE * 4):
        await asyncio.gather(*(_Sender(port, answers, insisting).run(waiting) for _ in range(connections)))
    return answers


class _Sender:
    """One connection after the other."""

    def __init__(self, port: int, answers: Answers, insisting: bool) -> None:  # noqa: FBT001 - passed through
        self._port = port
        self._answers = answers
        self._insisting = insisting
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, waiting: Iterator[tuple[str, dict[str, Any]]]) -> None:
        for job_id, body in waiting:
            while True:
                if await self._deliver(job_id, _request(body)) or not self._insisting:
                    break
                await asyncio.sleep(PAUSE)
        self._hang_up()

    async def _deliver(self, job_id: str, request: bytes) -> bool:
        began = time.perf_counter()
        try:
            status = await self._exchange(request)
        except (ConnectionError, asyncio.IncompleteReadError):
            self._hang_up()
            self._answers.unanswered.append(job_id)
            return False
        self._answers.took.append((time.perf_counter() - began) * 1000)
        self._answers.statuses[status] += 1
        if status == 200:
            self._answers.acknowledged.append(job_id)
        return status == 200

    async def _exchange(self, request: bytes) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        if b"connection: close" in head:
            self._hang_up()
        return int(head.split(b" ", 2)[1])

    def _hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


def _request(document: dict[str, Any]) -> bytes:
    body = json.dumps(document).encode()
    proof = "".join(f"{name}: {value}\r\n" for name, value in PROOF.items())
    headers = f"{proof}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"POST {WEBHOOK} HTTP/1.1\r\nHost: receiver\r\n{headers}\r\n".encode() + body
