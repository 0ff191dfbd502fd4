"""The circuit breaker, before an archive whose answers the test chooses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path

from receiver.archive.base import ProbeResult, SpooledImage
from receiver.core.errors import ArchiveError
from receiver.core.jobs import Image, StoredObject
from receiver.pipeline.circuit_breaker import LONGEST_WAIT, CircuitBreaker
from tests.support.clock import skipping

DENIED = ArchiveError("archive.denied", "No.", permanent=True)
AWAY = ArchiveError("archive.unavailable", "Later.")


class ProbedArchive:
    """Answers probes from a list, the last answer for ever; and notes when it was asked."""

    uri = "memory://"

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)
        self.probed_at: list[float] = []
        self.probed = asyncio.Event()

    async def probe(self) -> tuple[ProbeResult, ...]:
        self.probed_at.append(asyncio.get_running_loop().time())
        self.probed.set()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is not None:
            raise answer
        return (
            ProbeResult("checksums", honoured=True, detail=""),
            ProbeResult("conditions", honoured=False, detail=""),
        )

    async def put(self, item: SpooledImage) -> StoredObject:  # noqa: ARG002 - a circuit breaker puts nothing
        raise AssertionError

    async def locate(self, stored: StoredObject, image: Image) -> Path | str:  # noqa: ARG002 - nor reads
        raise AssertionError

    async def local_file(self, stored: StoredObject, image: Image, scratch: Path) -> Path:  # noqa: ARG002 - as above
        raise AssertionError

    async def aclose(self) -> None:
        raise AssertionError


class Running:
    """A gate with its task running; ``on_recovery`` is set whenever it opens."""

    def __init__(self, archive: ProbedArchive) -> None:
        self.on_recovery = asyncio.Event()
        self.breaker = CircuitBreaker(archive, self.on_recovery.set)

    async def until_open(self) -> None:
        await self.on_recovery.wait()
        self.on_recovery.clear()


@asynccontextmanager
async def running(archive: ProbedArchive) -> AsyncIterator[Running]:
    run = Running(archive)
    task = asyncio.create_task(run.breaker.run())
    try:
        yield run
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def gaps(archive: ProbedArchive) -> list[float]:
    return [round(later - earlier, 1) for earlier, later in pairwise(archive.probed_at)]


@skipping
async def test_no_upload_is_allowed_until_a_probe_has_succeeded() -> None:
    archive = ProbedArchive(None)
    assert not CircuitBreaker(archive, lambda: None).allows_uploads
    async with running(archive) as run:
        await run.until_open()
        assert run.breaker.allows_uploads
        assert run.breaker.error is None
        assert len(archive.probed_at) == 1


@skipping
async def test_an_archive_that_refuses_is_probed_in_growing_intervals_up_to_a_ceiling() -> None:
    archive = ProbedArchive(*[DENIED] * 10, None)
    async with running(archive) as run:
        await run.until_open()
    assert gaps(archive) == [1, 2, 4, 8, 16, 32, 64, LONGEST_WAIT, LONGEST_WAIT, LONGEST_WAIT]


@skipping
async def test_an_unexpected_error_of_a_probe_does_not_end_the_probing() -> None:
    archive = ProbedArchive(ValueError("a header of the store's"), None)
    async with running(archive) as run:
        await archive.probed.wait()
        assert run.breaker.error is not None
        assert run.breaker.error.reason == "archive.unexpected"
        await run.until_open()
        assert run.breaker.error is None


@skipping
async def test_the_error_is_the_archives_last_one() -> None:
    archive = ProbedArchive(DENIED, AWAY, None)
    async with running(archive) as run:
        await archive.probed.wait()
        assert run.breaker.error is DENIED
        archive.probed.clear()
        await archive.probed.wait()
        assert run.breaker.error is AWAY
        assert not run.breaker.allows_uploads
        await run.until_open()
        assert run.breaker.error is None


@skipping
async def test_a_failed_upload_pauses_uploads_until_a_probe_succeeds() -> None:
    archive = ProbedArchive(None)
    async with running(archive) as run:
        await run.until_open()
        run.breaker.record_failure(AWAY, "a")
        assert not run.breaker.allows_uploads
        await run.until_open()
        assert run.breaker.allows_uploads


@skipping
async def test_only_a_second_job_or_a_probe_shows_that_the_archive_refuses() -> None:
    archive = ProbedArchive(None)
    async with running(archive) as run:
        for _ in range(2):
            await run.until_open()
            run.breaker.record_failure(DENIED, "a")
            assert run.breaker.error is None
        run.breaker.record_failure(DENIED, "b")
        assert run.breaker.error is DENIED
        await run.until_open()
        assert run.breaker.error is None

        archive.answers = [AWAY]
        archive.probed.clear()
        run.breaker.record_success()
        run.breaker.record_failure(DENIED, "c")
        assert run.breaker.error is None
        await archive.probed.wait()
        assert run.breaker.error is AWAY


@skipping
async def test_an_archive_whose_probes_work_and_whose_uploads_fail_is_left_alone_ever_longer() -> None:
    archive = ProbedArchive(None)
    async with running(archive) as run:
        for _ in range(4):
            await run.until_open()
            run.breaker.record_failure(AWAY, "a")
        await run.until_open()
        assert gaps(archive) == [1, 2, 4, 8]
        run.breaker.record_success()
        run.breaker.record_failure(AWAY, "a")
        await run.until_open()
        assert gaps(archive)[-1] == 0
