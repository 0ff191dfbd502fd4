"""Many downloads over one slow line, whose time passes by the bytes that it carries."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from receiver.core.jobs import State
from receiver.pipeline.fetch_stage import FetchPlan
from tests.faults.workshop import MIB, at_work
from tests.support.clock import HOUR
from tests.support.gallery import Gallery

IMAGES = 16
PADDING = 1_200_000
PIECE = 16 * 1024


@dataclass
class Line:
    """Carries so many bytes a second for all connections in turn.

    Attributes:
        now: seconds; they pass only while bytes are carried.
    """

    rate: float
    now: float = 0.0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def carry(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Sends a body in pieces; each waits for the turns of all other connections."""
        for start in range(0, len(data), PIECE):
            async with self.turn:
                piece = data[start : start + PIECE]
                self.now += len(piece) / self.rate
                writer.write(piece)
                await writer.drain()
                for _ in range(4):  # the receiver, in the same loop, reads it
                    await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def host(line: Line) -> AsyncIterator[Gallery]:
    """A host of images behind the line."""
    images = Gallery(padding=PADDING)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            picture = images.picture(head.split(b" ")[1].decode().removeprefix("/"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(picture))
            await line.carry(writer, picture)
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        images.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield images


@pytest.mark.parametrize("rate", [80e3, 150e3, 1e6])
async def test_images_over_a_slow_line_take_the_time_that_the_line_takes(tmp_path: Path, rate: float) -> None:
    """16 at a time, none of 16 images of 1.2 MB was whole after 170 s at 150 KB/s."""
    line = Line(rate)
    plan = FetchPlan(16, timedelta(minutes=10), timedelta(hours=24))
    async with (
        host(line) as images,
        at_work(tmp_path, images, plan=plan, max_bytes=2 * MIB, clock=lambda: line.now) as shop,
    ):
        for number in range(IMAGES):
            await shop.deliver(f"job-{number}", 20 * HOUR)
        jobs = [await shop.ended(f"job-{number}") for number in range(IMAGES)]

    assert {job.state for job in jobs} == {State.ARCHIVED}
    assert line.now < 1.05 * IMAGES * PADDING / rate
