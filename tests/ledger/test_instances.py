"""Several receivers on one ledger: claims, spools, deaths and returns, the leader, and rates."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from receiver.core.errors import ImageError, LedgerError, UnavailableError
from receiver.core.jobs import Image, State
from receiver.core.ledger_location import LedgerLocation
from receiver.core.rate_limit import SharedRateLimiter
from receiver.ledger import Ledger
from receiver.ledger.commands.instances import BEAT_MS, DEAD_AFTER_MS, LEAD_MS, SETTLED_MS
from receiver.operations.membership import MARGIN_MS, Membership, while_leading
from tests.ledger.actions import (
    IMAGE,
    LEASE,
    STORED,
    TIMEOUT,
    claimed,
    delivery,
    history,
    kept_totals,
    recounted_totals,
    tables_of,
    the_job,
)
from tests.support.clock import HOUR, NOW, SECOND, Clock
from tests.support.waiting import eventually

Opens = Callable[..., Awaitable[Ledger]]


@pytest.fixture
def engine() -> str:
    return "postgres"


@pytest.fixture
async def opened(
    new_place: Callable[[], LedgerLocation], tmp_path: Path, clock: Clock
) -> AsyncIterator[Opens]:
    """Opens the ledger of an instance, whose data directory has its name unless told otherwise."""
    empty = new_place()
    async with AsyncExitStack() as stack:

        async def open_ledger(name: str, directory: str | None = None) -> Ledger:
            folder = tmp_path / (directory or name)
            folder.mkdir(exist_ok=True)
            ledger = await Ledger.serve(LedgerLocation(folder, empty.url, name), now=clock)
            stack.push_async_callback(ledger.close)
            return ledger

        yield open_ledger


@pytest.fixture
async def two(opened: Opens, clock: Clock) -> tuple[Ledger, Ledger]:
    """Instances a and b, which have lived for a while."""
    a, b = await opened("a"), await opened("b")
    clock.forward(SETTLED_MS)
    await a.beat()
    await b.beat()
    return a, b


async def fetched(ledger: Ledger, job_id: str, *, deadline: int, image: Image = IMAGE) -> None:
    await ledger.record(delivery(job_id, deadline=deadline))
    assert await ledger.fetched(await claimed(ledger), image, f"{job_id}.spool")


async def die(dead: Ledger, clock: Clock, *others: Ledger) -> None:
    """Lets time go by in which only the others send heartbeats; ``dead`` is not even closed."""
    assert dead not in others
    for _ in range(DEAD_AFTER_MS // BEAT_MS):
        clock.forward(BEAT_MS)
        for other in others:
            await other.beat()


async def states(ledger: Ledger, *job_ids: str) -> list[str]:
    return [(await the_job(ledger, job_id)).state.value for job_id in job_ids]


async def events(ledger: Ledger, job_id: str) -> list[str]:
    return [event.event for event in await history(ledger, job_id)]


# Names and data directories.


async def test_a_second_live_instance_of_one_name_refuses_to_start(opened: Opens, clock: Clock) -> None:
    await opened("a")
    clock.forward(DEAD_AFTER_MS - 1)
    with pytest.raises(LedgerError, match="RECEIVER_INSTANCE") as caught:
        await opened("a", "another directory")
    assert caught.value.reason == "ledger.in_use"
    clock.forward(1)
    assert (await opened("a", "another directory")).member.name == "a"


async def test_the_same_directory_takes_over_at_once_and_its_former_process_is_out(opened: Opens) -> None:
    killed = await opened("a")
    await killed.record(delivery("in-progress"))
    claim = await claimed(killed)
    again = await opened("a")
    assert again.interrupted == ["in-progress"]
    assert (await events(again, "in-progress"))[-1] == "cut_off"
    assert not await killed.fetched(claim, IMAGE, "in-progress.spool")
    async with Membership(again):
        with pytest.raises(LedgerError) as caught:
            await killed.beat()
        assert caught.value.reason == "ledger.in_use"
    former = Membership(killed)
    assert await former.beat() is None
    assert not former.leads
    for attempt in (killed.record(delivery("late")), killed.check_writable()):
        with pytest.raises(LedgerError, match="Another process has started"):
            await attempt
    assert await again.job("late") is None


async def test_a_directory_may_change_its_name_except_while_it_is_in_use(opened: Opens, clock: Clock) -> None:
    """A container's host name changes when it is made anew; a copied directory has a live original."""
    former = await opened("host-1", "volume")
    await fetched(former, "job-1", deadline=NOW + HOUR)
    with pytest.raises(LedgerError, match="copy of this data directory runs as host-1"):
        await opened("host-2", "volume")
    await former.resign()
    now = await opened("host-2", "volume")
    assert [claim.job.id for claim in await now.claim_to_archive(9, lease=LEASE)] == ["job-1"]
    await now.beat()
    clock.forward(DEAD_AFTER_MS)
    killed_and_renamed = await opened("host-3", "volume")
    assert await killed_and_renamed.spool_names() == {"job-1.spool"}


# Claims and spools.


async def test_no_two_instances_claim_one_job(two: tuple[Ledger, Ledger]) -> None:
    a, b = two
    for number in range(60):
        await a.record(delivery(f"job-{number}"))
    taken = await asyncio.gather(
        *(ledger.claim_to_fetch(7, again=7, lease=LEASE) for _ in range(6) for ledger in two)
    )
    ids = [claim.job.id for claims in taken for claim in claims]
    assert sorted(ids) == sorted({f"job-{number}" for number in range(60)})
    by_instance = await b.stats(overdue_before=0)
    assert by_instance.claimed[State.RECEIVED] == 60


async def test_an_image_is_archived_by_the_instance_that_has_its_file(two: tuple[Ledger, Ledger]) -> None:
    a, b = two
    await fetched(a, "job-1", deadline=NOW + HOUR)
    await fetched(b, "job-2", deadline=NOW + HOUR, image=replace(IMAGE, bytes=7))
    assert await a.spool_names() == {"job-1.spool"}
    assert await b.spool_names() == {"job-2.spool"}
    assert [await a.spool_bytes(), await b.spool_bytes()] == [IMAGE.bytes, 7]
    (of_b,) = await b.claim_to_archive(9, lease=LEASE)
    (of_a,) = await a.claim_to_archive(9, lease=LEASE)
    assert (of_a.job.id, of_b.job.id) == ("job-1", "job-2")
    assert await b.archived(of_b, STORED)
    assert await b.spool_bytes() == 0
    assert await a.spool_bytes() == IMAGE.bytes


async def test_leases_of_an_instance_are_voided_by_no_other(two: tuple[Ledger, Ledger]) -> None:
    a, b = two
    await a.record(delivery("job-1"))
    (claim,) = await a.claim_to_fetch(1, again=0, lease=-1)
    await b.release_expired_leases()  # it may merely be unable to record that the work is done
    assert (await b.stats(overdue_before=0)).claimed == {State.RECEIVED: 1}
    await a.release_expired_leases()
    assert not await a.release(claim)


# Death and return.


async def test_the_work_of_a_dead_instance_is_free_and_its_images_are_fetched_while_urls_live(
    two: tuple[Ledger, Ledger], clock: Clock
) -> None:
    a, b = two
    for name, life in (("lives", HOUR), ("ends", 30 * SECOND)):
        await fetched(a, name, deadline=clock.now + life)
    await a.record(delivery("in-progress"))
    await claimed(a)
    await fetched(b, "of-b", deadline=clock.now + HOUR)
    await die(a, clock, b)
    assert await states(b, "lives", "ends", "in-progress", "of-b") == [
        *("received", "fetched", "received", "fetched")
    ]
    assert (await events(b, "lives"))[-1] == "instance_dead"
    assert (await events(b, "in-progress"))[-1] == "cut_off"
    clock.forward(60 * SECOND)
    claims = await b.claim_to_fetch(9, again=9, lease=LEASE)
    assert {claim.job.id for claim in claims} == {"lives", "in-progress"}
    assert [it.job.id for it in await b.claim_to_archive(9, lease=LEASE)] == ["of-b"]


async def test_accepted_bytes_wait_for_their_instance_although_the_url_lives(
    two: tuple[Ledger, Ledger], clock: Clock
) -> None:
    """To fetch them again would only have them refused again."""
    a, b = two
    await a.record(delivery("job-1", deadline=clock.now + HOUR))
    assert await a.rejected(await claimed(a), ImageError("image.undecodable", "Cut off."))
    await a.accept("job-1", replace(IMAGE, accepted="image.undecodable"), "aside/job-1")
    await die(a, clock, b)
    assert await states(b, "job-1") == ["fetched"]
    assert await a.spool_names() == {"aside/job-1"}


async def test_an_operator_has_an_image_fetched_again_that_a_dead_disk_has(
    two: tuple[Ledger, Ledger], opened: Opens, clock: Clock
) -> None:
    """Its URL has ended: only the provider can name another."""
    a, b = two
    await fetched(a, "job-1", deadline=clock.now + SECOND)
    await die(a, clock, b)
    assert (await b.retry("job-1")).state is State.RECEIVED
    (claim,) = await b.claim_to_fetch(1, again=1, lease=LEASE)
    assert not await b.expired(claim)
    assert await states(b, "job-1") == ["fetched"]
    back = await opened("a")
    assert (await back.retry("job-1")).state is State.FETCHED
    assert [it.job.id for it in await back.claim_to_archive(9, lease=LEASE)] == ["job-1"]


async def test_a_death_is_noticed_within_a_minute_and_not_before(
    two: tuple[Ledger, Ledger], clock: Clock
) -> None:
    a, b = two
    await fetched(a, "job-1", deadline=clock.now + HOUR)
    for _ in range(10):  # 50 s
        clock.forward(BEAT_MS)
        assert (await b.beat()).dead == ()
    clock.forward(BEAT_MS)
    (dead,) = (await b.beat()).dead
    assert (dead.name, dead.interrupted, dead.fetched_again, dead.waiting) == ("a", 0, 1, 0)
    assert (await b.beat()).dead == ()


async def test_what_others_did_not_fetch_comes_back_with_its_instance(
    two: tuple[Ledger, Ledger], opened: Opens, clock: Clock
) -> None:
    a, b = two
    for name in ("again", "not-again", "in-progress"):
        await fetched(a, name, deadline=clock.now + HOUR)
    await die(a, clock, b)
    taken = {claim.job.id: claim for claim in await b.claim_to_fetch(9, again=9, lease=LEASE)}
    assert await b.fetched(taken["again"], replace(IMAGE, sha256="cd" * 32), "again.other")
    assert await b.release(taken["not-again"])
    back = await opened("a")
    assert await states(b, "again", "not-again", "in-progress") == ["fetched", "fetched", "received"]
    assert await back.spool_names() == {"not-again.spool"}
    assert await b.spool_names() == {"again.other"}
    assert await b.retry_later(taken["in-progress"], clock.now + HOUR, TIMEOUT)
    await back.beat()
    assert await back.spool_names() == {"not-again.spool", "in-progress.spool"}
    claims = await back.claim_to_archive(9, lease=LEASE)
    assert {claim.job.id for claim in claims} == {"not-again", "in-progress"}
    assert {claim.job.image for claim in claims} == {IMAGE}
    assert (await events(b, "in-progress"))[-1] == "instance_back"


@pytest.mark.parametrize("how", ["at its deadline", "by a worker", "as another image"])
async def test_an_image_on_a_dead_disk_is_not_given_up_when_its_url_ends(
    two: tuple[Ledger, Ledger], opened: Opens, clock: Clock, how: str
) -> None:
    a, b = two
    await fetched(a, "job-1", deadline=clock.now + HOUR)
    await die(a, clock, b)
    claim = await claimed(b)
    if how == "at its deadline":
        assert await b.retry_later(claim, clock.now + 2 * HOUR, TIMEOUT)
        clock.forward(HOUR)
        assert await b.expire() == []
    elif how == "by a worker":
        assert not await b.expired(claim)
    else:
        assert not await b.rejected(claim, TIMEOUT)
    assert await states(b, "job-1") == ["fetched"]
    assert (await events(b, "job-1"))[-1] == "instance_awaited"
    assert await b.claim_to_archive(9, lease=LEASE) == []
    back = await opened("a")
    (waiting,) = await back.claim_to_archive(9, lease=LEASE)
    assert await back.archived(waiting, STORED)
    with tables_of(LedgerLocation(Path(), _url(back), "")) as db:
        assert kept_totals(db) == recounted_totals(db)
        assert db.execute("SELECT count(*) FROM away").fetchone()[0] == 0


def _url(ledger: Ledger) -> str:
    url: str = ledger._engine._writer._url  # type: ignore[attr-defined]
    return url


async def test_an_instance_that_was_cut_off_for_a_while_goes_on_where_it_may(
    two: tuple[Ledger, Ledger], clock: Clock
) -> None:
    """Its process lives on: it finds its claims void, and its images its own again."""
    a, b = two
    await fetched(a, "job-1", deadline=clock.now + HOUR)
    await a.record(delivery("in-progress"))
    claim = await claimed(a)
    await die(a, clock, b)
    found = await a.beat()
    assert found.returned
    assert not (await a.beat()).returned
    assert not await a.fetched(claim, IMAGE, "in-progress.spool")
    assert await a.spool_names() == {"job-1.spool"}


async def test_an_instance_that_others_hold_for_dead_claims_nothing_before_its_next_heartbeat(
    two: tuple[Ledger, Ledger], clock: Clock
) -> None:
    """If it ended for good before that heartbeat, nobody would free what it had taken."""
    a, b = two
    await fetched(a, "on-its-disk", deadline=clock.now + SECOND)
    await die(a, clock, b)
    await b.record(delivery("new"))
    assert await a.claim_to_fetch(9, again=9, lease=LEASE) == []
    assert await a.claim_to_archive(9, lease=LEASE) == []
    assert (await a.beat()).returned
    assert [it.job.id for it in await a.claim_to_fetch(9, again=9, lease=LEASE)] == ["new"]
    assert [it.job.id for it in await a.claim_to_archive(9, lease=LEASE)] == ["on-its-disk"]


async def test_nobody_is_dead_because_the_database_was_away_or_its_clock_was_set(
    two: tuple[Ledger, Ledger], clock: Clock
) -> None:
    a, b = two
    for span in (HOUR, -2 * HOUR, 24 * HOUR):
        clock.forward(span)
        for ledger in (b, a, b, a):
            assert (await ledger.beat()).dead == ()
            clock.forward(BEAT_MS)
    # After the clock was set back, a death is noticed as ever.
    clock.forward(-HOUR)
    await b.beat()
    for _ in range(DEAD_AFTER_MS // BEAT_MS):
        clock.forward(BEAT_MS)
        beat = await b.beat()
    assert [it.name for it in beat.dead] == ["a"]


async def test_more_images_than_one_transaction_takes_are_sent_back_in_several(
    two: tuple[Ledger, Ledger], clock: Clock
) -> None:
    a, b = two
    count = 1_201
    await asyncio.gather(*(a.record(delivery(f"job-{number}")) for number in range(count)))
    claims = await a.claim_to_fetch(count, again=0, lease=LEASE)
    await asyncio.gather(*(a.fetched(it, IMAGE, f"{it.job.id}.spool") for it in claims))
    await die(a, clock, b)
    first = await a.stats(overdue_before=0)
    assert first.jobs[State.RECEIVED] == 1_000
    (dead,) = (await b.beat()).dead
    assert (dead.fetched_again, dead.more, dead.waiting) == (201, False, 0)
    await a.beat()
    assert await a.spool_bytes() == count * IMAGE.bytes


# The leader.


async def test_one_leads_until_its_lease_ends_and_then_another(
    two: tuple[Ledger, Ledger], clock: Clock
) -> None:
    a, b = two
    first = (await a.beat()).fence
    assert first is not None
    for _ in range(3):
        clock.forward(BEAT_MS)
        assert (await b.beat()).fence is None
    clock.forward(LEAD_MS - 3 * BEAT_MS)
    assert (await b.beat()).fence == first + 1
    assert (await a.beat()).fence is None
    await b.resign()
    assert (await a.beat()).fence == first + 2
    clock.forward(-HOUR)  # its lease seems to last for an hour more
    assert (await b.beat()).fence == first + 3


async def test_what_one_does_for_all_ends_with_its_lead_and_begins_at_another_within_30_seconds(
    two: tuple[Ledger, Ledger], clock: Clock
) -> None:
    """Also where the leader hears nothing from the ledger, and only its own clock tells it."""
    monotonic = Clock(0)
    at_work: list[str] = []

    def duties(name: str) -> Callable[[], Any]:
        @asynccontextmanager
        async def work() -> AsyncIterator[None]:
            at_work.append(name)
            try:
                yield
            finally:
                at_work.remove(name)

        return work

    a, b = (Membership(ledger, monotonic=monotonic) for ledger in two)
    async with while_leading(a, duties("a")), while_leading(b, duties("b")):
        await a.beat()
        await b.beat()
        await asyncio.to_thread(eventually, lambda: at_work == ["a"])
        monotonic.forward(LEAD_MS - MARGIN_MS)
        clock.forward(LEAD_MS - MARGIN_MS)
        assert not a.leads  # while nobody else can lead yet
        assert (a.led_last, b.led_last) == (True, False)
        await b.beat()
        assert not b.leads
        a._notify()
        await asyncio.to_thread(eventually, lambda: at_work == [])
        monotonic.forward(MARGIN_MS)
        clock.forward(MARGIN_MS)
        await b.beat()
        await asyncio.to_thread(eventually, lambda: at_work == ["b"])
        await a.beat()
        assert (a.leads, b.leads) == (False, True)
        assert (a.led_last, b.led_last) == (False, True)
    assert at_work == []


# Rates.


async def test_a_rate_holds_for_all_instances_together(two: tuple[Ledger, Ledger], clock: Clock) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    limiters = [
        SharedRateLimiter(2.0, partial(it.next_call, "ximilar"), now=clock, sleep=sleep) for it in two
    ]
    for limiter in [*limiters, *limiters]:
        await limiter.wait()
    assert slept == [0.5, 1.0, 1.5]
    clock.forward(10 * SECOND)
    await limiters[0].wait()
    assert len(slept) == 3


async def test_without_the_ledger_no_call_is_made() -> None:
    async def away(_: int) -> int:
        raise LedgerError("ledger.unavailable")

    with pytest.raises(UnavailableError, match=r"ledger\.unavailable"):
        await SharedRateLimiter(2.0, away, now=lambda: 0).wait()
