"""A thousand clients who wait: what they cost in memory, and that deliveries are acknowledged meanwhile."""

import asyncio
import resource
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.e2e.test_queries import is_problem
from tests.support.load import deliver
from tests.support.memory import MIB, resident
from tests.support.processes import API_TOKEN, PATIENCE, Programs, Receiver, settings

LISTENERS = 500
WAITERS = 500
DELIVERIES = 200
SEATS = 1_200
"""Of 2,000 connections, six of ten."""
MOST_MEMORY = 100 * MIB
"""Of all of them together; measured: some 45."""


@pytest.fixture(autouse=True)
def files() -> Iterator[None]:
    """Enough of them for all of the sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 4 * (LISTENERS + WAITERS):
        most = 4 * (LISTENERS + WAITERS)
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
        )
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Client:
    """One connection with one request on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def ask(cls, port: int, path: str) -> "Client":
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4 * MIB)
        head = f"GET {path} HTTP/1.1\r\nHost: receiver\r\nAuthorization: Bearer {API_TOKEN}\r\n\r\n"
        writer.write(head.encode())
        return cls(reader, writer)

    async def status(self) -> int:
        head = await self._reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1])

    async def until(self, text: bytes) -> bytes:
        return await self._reader.readuntil(text)

    async def told_of(self, jobs: list[str]) -> None:
        """Returns when it was told of all of them, in whatever order they were committed."""
        left = {f'"id":"{job_id}"'.encode() for job_id in jobs}
        while left:
            event = await self.until(b"\n\n")
            left = {job for job in left if job not in event}

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


def failure(job_id: str) -> dict[str, str]:
    return {"id": job_id, "status": "FAILED"}


@asynccontextmanager
async def clients(port: int, paths: list[str]) -> AsyncIterator[list[Client]]:
    """As many who wait, until the block ends."""
    asking: list[Client] = []
    try:
        for path in paths:
            asking.append(await Client.ask(port, path))  # noqa: PERF401 - all that are open are to be closed
        yield asking
    finally:
        for client in asking:
            await client.close()


async def crowd(receiver: Receiver, silent: list[str]) -> None:
    port = receiver.port
    waits = [f"/jobs/{job_id}?wait=60" for job_id in silent]
    async with (
        asyncio.timeout(PATIENCE * 3),
        clients(port, ["/jobs/changes"] * LISTENERS) as listeners,
        clients(port, waits) as waiters,
    ):
        for listener in listeners:
            assert await listener.status() == 200
            await listener.until(b"retry: 2000\nid: ")

        jobs = [f"crowd-{number}" for number in range(DELIVERIES)]
        answers = await deliver(port, {job_id: failure(job_id) for job_id in jobs}, 16)
        assert answers.statuses == {200: DELIVERIES}
        for number, listener in enumerate(listeners):
            await listener.told_of(jobs if number % 50 == 0 else jobs[-1:])

        ended = await deliver(port, {job_id: failure(job_id) for job_id in silent}, 16)
        assert ended.statuses == {200: WAITERS}
        for waiter in waiters:
            assert await waiter.status() == 200
            await waiter.until(b'"state":"failed"')


def test_a_thousand_who_wait_cost_little_and_keep_no_delivery_out(programs: Programs) -> None:
    with programs.receiver_process(settings(programs.folder)) as receiver:
        silent = [str(uuid.uuid4()) for _ in range(WAITERS)]
        for job_id in silent:
            receiver.post("/jobs", json={"id": job_id}).raise_for_status()
        pid = receiver.program.process.pid
        before = resident(pid)
        asyncio.run(crowd(receiver, silent))
        assert resident(pid, "VmHWM") - before < MOST_MEMORY
        assert receiver.get("/readyz").status_code == 200
        assert "Traceback" not in receiver.program.log


def test_more_who_wait_than_there_is_room_for_are_sent_away_and_deliveries_are_not(
    programs: Programs,
) -> None:
    async def run(receiver: Receiver) -> None:
        paths = ["/jobs/changes"] * SEATS
        async with asyncio.timeout(PATIENCE * 3), clients(receiver.port, paths) as listeners:
            for listener in listeners:
                assert await listener.status() == 200
                await listener.until(b"id: ")
            answer = await asyncio.to_thread(receiver.get, "/jobs/changes")
            assert is_problem(answer, 503, "ledger.crowded")
            assert answer.headers["retry-after"]
            answer = await asyncio.to_thread(receiver.get, "/jobs/silent?wait=1")
            assert is_problem(answer, 503, "ledger.crowded")
            answer = await asyncio.to_thread(receiver.get, "/jobs/ended?wait=1")
            assert answer.status_code == 200  # it is final, so that nobody waits
            told = await deliver(receiver.port, {"a": failure("a")}, 1)
            assert told.statuses == {200: 1}
        async with asyncio.timeout(PATIENCE):  # their seats are free again
            while (await asyncio.to_thread(receiver.get, "/jobs/changes?wait=0")).status_code != 200:
                pass

    with programs.receiver(settings(programs.folder)) as receiver:
        receiver.post("/jobs", json={"id": "silent"}).raise_for_status()
        receiver.deliver(failure("ended")).raise_for_status()
        asyncio.run(run(receiver))
