"""The gate before the archive, in front of an archive that does as it is told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from receiver.archive import Item, ProbeResult
from receiver.core.errors import REASONS, ArchiveError
from receiver.core.jobs import Image, StoredObject
from receiver.pipeline.circuit_breaker import ABOUT_ONE_OBJECT, LONGEST_WAIT, CircuitBreaker
from tests.support.clock import SkippingLoop

DENIED = ArchiveError("archive.denied", "No.", pause=True)
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

    async def put(self, item: Item) -> StoredObject:  # noqa: ARG002 - a gate puts nothing
        raise AssertionError

    async def locate(self, stored: StoredObject, image: Image) -> Path | str:  # noqa: ARG002 - nor reads
        raise AssertionError

    async def local_file(self, stored: StoredObject, image: Image, scratch: Path) -> Path:  # noqa: ARG002 - as above
        raise AssertionError

    async def aclose(self) -> None:
        raise AssertionError


class Kept:
    """A gate with its keeper running; ``on_recovery`` is set whenever it opens."""

    def __init__(self, archive: ProbedArchive) -> None:
        self.on_recovery = asyncio.Event()
        self.breaker = CircuitBreaker(archive, self.on_recovery.set)

    async def until_open(self) -> None:
        await self.on_recovery.wait()
        self.on_recovery.clear()


@asynccontextmanager
async def kept(archive: ProbedArchive) -> AsyncIterator[Kept]:
    held = Kept(archive)
    keeper = asyncio.create_task(held.breaker.run())
    try:
        yield held
    finally:
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper


def skipping(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    """Runs the test on a loop that nobody waits for."""

    def run() -> None:
        with asyncio.Runner(loop_factory=SkippingLoop) as runner:
            runner.run(test())

    run.__name__ = test.__name__
    return run


def gaps(archive: ProbedArchive) -> list[float]:
    return [round(later - earlier, 1) for earlier, later in pairwise(archive.probed_at)]


@skipping
async def test_the_gate_is_closed_until_a_probe_has_shown_that_the_archive_takes_something() -> None:
    archive = ProbedArchive(None)
    assert not CircuitBreaker(archive, lambda: None).allows_uploads
    async with kept(archive) as held:
        await held.until_open()
        assert held.breaker.allows_uploads
        assert held.breaker.error is None
        assert len(archive.probed_at) == 1


@skipping
async def test_while_the_archive_refuses_it_is_probed_in_growing_intervals_up_to_a_ceiling() -> None:
    archive = ProbedArchive(*[DENIED] * 10, None)
    async with kept(archive) as held:
        await held.until_open()
    assert gaps(archive) == [1, 2, 4, 8, 16, 32, 64, LONGEST_WAIT, LONGEST_WAIT, LONGEST_WAIT]


@skipping
async def test_an_unforeseen_error_of_a_probe_does_not_end_the_probing() -> None:
    archive = ProbedArchive(ValueError("a header of the store's"), None)
    async with kept(archive) as held:
        await archive.probed.wait()
        assert held.breaker.error is not None
        assert held.breaker.error.reason == "archive.unexpected"
        await held.until_open()
        assert held.breaker.error is None


@skipping
async def test_the_trouble_is_what_the_archive_said_last() -> None:
    archive = ProbedArchive(DENIED, AWAY, None)
    async with kept(archive) as held:
        await archive.probed.wait()
        assert held.breaker.error is DENIED
        archive.probed.clear()
        await archive.probed.wait()
        assert held.breaker.error is AWAY
        assert not held.breaker.allows_uploads
        await held.until_open()
        assert held.breaker.error is None


@skipping
async def test_an_upload_that_fails_closes_the_gate_until_a_probe_opens_it() -> None:
    archive = ProbedArchive(None)
    async with kept(archive) as held:
        await held.until_open()
        held.breaker.record_failure(AWAY)
        assert not held.breaker.allows_uploads
        assert held.breaker.error is AWAY
        await held.until_open()
        assert held.breaker.allows_uploads


@skipping
async def test_an_archive_whose_probes_work_and_whose_uploads_fail_is_left_alone_ever_longer() -> None:
    archive = ProbedArchive(None)
    async with kept(archive) as held:
        for _ in range(4):
            await held.until_open()
            held.breaker.record_failure(AWAY)
        await held.until_open()
        assert gaps(archive) == [1, 2, 4, 8]
        held.breaker.record_success()
        held.breaker.record_failure(AWAY)
        await held.until_open()
        assert gaps(archive)[-1] == 0


@pytest.mark.parametrize("reason", sorted(r for r in REASONS if r.startswith("archive.")))
async def test_only_what_says_something_of_other_objects_closes_the_gate(reason: str) -> None:
    async with kept(ProbedArchive(None)) as held:
        await held.until_open()
        held.breaker.record_failure(ArchiveError(reason))
        assert held.breaker.allows_uploads == (reason in ABOUT_ONE_OBJECT)
