"""Two receivers on one ledger, each with a disk of its own: one dies, or is cut off. And lost answers."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from receiver.core.jobs import State
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import Ledger
from receiver.pipeline.fetch_stage import FetchPlan
from tests.faults.matrix import in_folder
from tests.faults.workshop import Workshop, at_work
from tests.support.clock import HOUR, SECOND, Clock
from tests.support.gallery import Gallery, gallery
from tests.support.lost_answers import open_to_lose
from tests.support.waiting import eventually

MINUTE = 60 * SECOND
Works = Callable[..., AbstractAsyncContextManager[Workshop]]


@pytest.fixture
def images() -> Iterator[Gallery]:
    with gallery() as it:
        yield it


@pytest.fixture
def works(tmp_path: Path, images: Gallery, database: str) -> Works:
    """Starts the worker of an instance; without an archive, what it fetches stays on its disk."""
    wall = Clock()
    (tmp_path / "none").write_bytes(b"")

    @asynccontextmanager
    async def work(name: str, *, archive: bool = True, fetches: int = 4) -> AsyncIterator[Workshop]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)

        async def opened(now: Clock, monotonic: Clock) -> Ledger:
            return await Ledger.serve(LedgerLocation(folder, database, name), now=now, monotonic=monotonic)

        place = tmp_path / ("archive" if archive else "none")
        plan = FetchPlan(fetches, timedelta(minutes=10))
        async with at_work(folder, images, plan=plan, wall=wall, archive_at=place, opened=opened) as shop:
            yield shop

    return work


async def silence(dead: Workshop, *others: Workshop) -> None:
    """Lets a minute go by in which only the others send heartbeats."""
    for _ in range(12):
        dead.wall.forward(5 * SECOND)
        for other in others:
            await other.ledger.beat()


def spooled(shop: Workshop) -> list[str]:
    """The jobs whose files are in a spool."""
    return sorted(path.name.split(".")[0] for path in (shop.folder / "spool").iterdir())


async def test_images_of_a_dead_receiver_are_fetched_again_and_the_rest_comes_back_with_its_disk(
    works: Works, images: Gallery, tmp_path: Path
) -> None:
    async with works("a", archive=False) as a:
        await a.deliver("lives", HOUR)
        await a.deliver("ends", 30 * SECOND)
        for name in ("lives", "ends"):
            await a.until(name, lambda job: job.state is State.FETCHED)
        # a ends here, and says nothing to the ledger but which claims it gives back.
    async with works("b") as b:
        assert spooled(a) == ["ends", "lives"]
        await silence(a, b)
        assert (await b.ended("lives")).state is State.ARCHIVED
        waiting = await b.ledger.job("ends")
        assert waiting is not None
        assert waiting.state is State.FETCHED
        (dead, _) = (await b.ledger.stats(overdue_before=0)).instances
        assert (dead.name, dead.state(a.wall.now), dead.images) == ("a", "dead", 1)
        async with works("a") as back:
            assert spooled(back) == ["ends"]  # the other one is archived, from b's disk
            assert (await back.ended("ends")).state is State.ARCHIVED
            await asyncio.to_thread(_eventually_empty, back)
        tally = await _tally(b, tmp_path / "archive", "lives", "ends")
        assert tally == {"lives": 1, "ends": 1}
        assert sorted(images.asked) == ["ends", "lives", "lives"]


async def test_images_of_a_disk_that_is_lost_are_fetched_again_or_expire(
    works: Works, images: Gallery, tmp_path: Path
) -> None:
    async with works("a", archive=False) as a:
        for name in ("still-there", "gone"):
            await a.deliver(name, 30 * SECOND)
            await a.until(name, lambda job: job.state is State.FETCHED)
    images.never["gone"] = "410"
    async with works("b") as b:
        assert await b.ledger.give_up_disk("a") is None  # it may still live
        await silence(a, b)
        assert await b.ledger.give_up_disk("b") is None
        lost = await b.ledger.give_up_disk("a")
        assert sorted(lost or ()) == ["gone", "still-there"]
        assert (await b.ended("gone")).state is State.EXPIRED
        assert (await b.ended("still-there")).state is State.ARCHIVED
        assert await b.ledger.give_up_disk("a") == []
        async with works("a") as back:  # found again after all
            await back.until("gone", lambda job: job.state is State.ARCHIVED)
            await asyncio.to_thread(_eventually_empty, back)
        del images.never["gone"]
        tally = await _tally(b, tmp_path / "archive", "still-there", "gone")
        assert tally == {"still-there": 1, "gone": 1}


async def test_a_receiver_that_was_cut_off_does_not_spoil_what_others_did_meanwhile(
    works: Works, tmp_path: Path
) -> None:
    """Its process lives on. Its spool keeps what only it has, and nothing else."""
    async with works("a", archive=False) as a:
        await a.deliver("again", HOUR)
        await a.deliver("kept", 30 * SECOND)
        for name in ("again", "kept"):
            await a.until(name, lambda job: job.state is State.FETCHED)
        async with works("b") as b:
            await silence(a, b)
            assert (await b.ended("again")).state is State.ARCHIVED
            assert (await a.ledger.beat()).returned
            await a.worker._check_spool()
            assert spooled(a) == ["kept"]
            assert await _tally(b, tmp_path / "archive", "again") == {"again": 1}


async def test_a_receiver_that_is_to_be_taken_out_empties_its_disk_and_downloads_nothing_more(
    works: Works, images: Gallery, tmp_path: Path
) -> None:
    async with works("a", archive=False) as a:
        await a.deliver("on-its-disk", HOUR)
        await a.until("on-its-disk", lambda job: job.state is State.FETCHED)
    async with works("a", fetches=0) as a:
        await a.deliver("new", HOUR)
        assert (await a.ended("on-its-disk")).state is State.ARCHIVED
        await asyncio.to_thread(_eventually_empty, a)
        assert images.asked == ["on-its-disk"]
        assert a.worker.alive()
        async with works("b") as b:
            assert (await b.ended("new")).state is State.ARCHIVED
    assert images.asked == ["on-its-disk", "new"]


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_a_job_goes_its_way_though_one_answer_in_three_of_the_ledger_is_lost(
    tmp_path: Path, images: Gallery, request: pytest.FixtureRequest, engine: str
) -> None:
    url = request.getfixturevalue("database") if engine == "postgres" else None
    place = LedgerLocation(tmp_path, url, "here")
    dice = random.Random(7)
    losing = False
    opened = partial(_open_to_lose, place, lambda: losing and dice.random() < 1 / 3)
    names = [f"job-{number}" for number in range(6)]
    async with at_work(tmp_path, images, opened=opened) as shop:
        for name in names:
            await shop.deliver(name, 24 * HOUR)
        losing = True
        for name in names:
            assert (await shop.ended(name)).state is State.ARCHIVED
        losing = False
        await asyncio.to_thread(_eventually_empty, shop)
        assert await _tally(shop, tmp_path / "archive", *names) == dict.fromkeys(names, 1)
        (left,) = (await shop.ledger.stats(overdue_before=0)).spools.values()
        assert left == 0
        for name in names:
            found = await shop.ledger.job_with_history(name)
            assert found is not None
            assert [event.event for event in found[1]] == ["received", "fetched", "archived"]
    assert sorted(images.asked) == names  # each was downloaded once


async def _open_to_lose(
    place: LedgerLocation, is_lost: Callable[[], bool], now: Clock, monotonic: Clock
) -> Ledger:
    return (await open_to_lose(place, is_lost, now=now, monotonic=monotonic))[0]


async def _tally(shop: Workshop, archive: Path, *job_ids: str) -> dict[str, int]:
    """How many objects each job has, which must be its own."""
    kept = in_folder(archive)
    for job_id, sha256 in shop.images.images(job_ids).items():
        assert set(kept[job_id]) == {sha256}
    return {job_id: len(kept[job_id]) for job_id in job_ids}


def _eventually_empty(shop: Workshop) -> None:
    eventually(lambda: spooled(shop) == [])
