"""Many downloads over one slow line, whose time passes by the bytes that it carries."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpcore
import pytest

from receiver.core.jobs import State
from receiver.fetch.asyncio_backend import AsyncioBackend
from receiver.pipeline.fetch_stage import FetchPlan
from tests.faults.workshop import MIB, at_work
from tests.support.clock import HOUR
from tests.support.gallery import gallery

IMAGES = 16
PADDING = 1_200_000
PIECE = 16 * 1024


@dataclass(eq=False)
class Line(httpcore.AsyncNetworkBackend):
    """Carries so many bytes a second for all connections together, each as fast as any other.

    Attributes:
        now: seconds. They pass once every open connection has bytes to carry, so neither the machine's
            speed nor its disk favours one of them.
    """

    rate: float
    now: float = 0.0
    open: set["Connection"] = field(default_factory=set)
    waiting: list[tuple[int, asyncio.Event]] = field(default_factory=list)
    inner: httpcore.AsyncNetworkBackend = field(default_factory=AsyncioBackend)

    async def connect_tcp(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        connection = Connection(self, await self.inner.connect_tcp(*args, **options))
        self.open.add(connection)
        return connection

    async def carry(self, size: int) -> None:
        carried = asyncio.Event()
        self.waiting.append((size, carried))
        self.pass_on()
        await carried.wait()

    def pass_on(self) -> None:
        if len(self.waiting) < len(self.open):
            return
        self.now += sum(size for size, _ in self.waiting) / self.rate
        for _, carried in self.waiting:
            carried.set()
        self.waiting = []


@dataclass(eq=False)
class Connection(httpcore.AsyncNetworkStream):
    line: Line
    inner: httpcore.AsyncNetworkStream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        data = await self.inner.read(min(max_bytes, PIECE), timeout)
        if data:
            await self.line.carry(len(data))
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's
        await self.inner.write(buffer, timeout)

    async def aclose(self) -> None:
        self.line.open.discard(self)
        self.line.pass_on()
        await self.inner.aclose()


@pytest.mark.parametrize("rate", [80e3, 150e3, 1e6])
async def test_images_over_a_slow_line_take_the_time_that_the_line_takes(tmp_path: Path, rate: float) -> None:
    """16 at a time, none of 16 images of 1.2 MB was whole after 170 s at 150 KB/s."""
    line = Line(rate)
    plan = FetchPlan(16, timedelta(minutes=10))
    with gallery(padding=PADDING) as images:
        async with at_work(
            tmp_path, images, plan=plan, max_bytes=2 * MIB, line=line, clock=lambda: line.now
        ) as shop:
            for number in range(IMAGES):
                await shop.deliver(f"job-{number}", 20 * HOUR)
            jobs = [await shop.ended(f"job-{number}") for number in range(IMAGES)]

    assert {job.state for job in jobs} == {State.ARCHIVED}
    assert line.now < 1.05 * IMAGES * PADDING / rate
