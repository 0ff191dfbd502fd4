"""Claims: which jobs are claimed, in which order, and when a claim ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from receiver.core.completion import Completion
from receiver.core.errors import ArchiveError, LedgerError
from receiver.core.jobs import State
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import Claim, Delivery, HostLimits, Ledger
from tests.ledger.actions import (
    IMAGE,
    LEASE,
    TIMEOUT,
    brought_to,
    claimed,
    delivery,
    history,
    never_wait_for_others,
    only_sqlite,
    tables_of,
    the_job,
)
from tests.support.clock import HOUR, NOW, SECOND, Clock


def ids(claims: list[Claim]) -> list[str]:
    return [claim.job.id for claim in claims]


async def tried(ledger: Ledger, job_id: str, deadline: int) -> None:
    """Records a job whose first attempt failed, and which is ready for the next. No other may be ready."""
    await ledger.record(delivery(job_id, deadline=deadline))
    assert await ledger.retry_later(await claimed(ledger), NOW, TIMEOUT)


async def test_the_earliest_deadline_comes_first_whatever_came_first(ledger: Ledger) -> None:
    for hours in (5, 1, 9, 3):
        await ledger.record(delivery(f"in-{hours}", deadline=NOW + hours * HOUR))
    assert ids(await ledger.claim_to_fetch(3, again=3, lease=LEASE)) == ["in-1", "in-3", "in-5"]
    assert ids(await ledger.claim_to_fetch(3, again=3, lease=LEASE)) == ["in-9"]
    assert ids(await ledger.claim_to_fetch(3, again=3, lease=LEASE)) == []


async def test_first_and_further_attempts_are_one_order_by_deadline(ledger: Ledger) -> None:
    await tried(ledger, "tried-2", NOW + 2 * HOUR)
    assert await ledger.release(await claimed(ledger))
    for hours in (1, 3):
        await ledger.record(delivery(f"fresh-{hours}", deadline=NOW + hours * HOUR))
    claims = await ledger.claim_to_fetch(9, again=9, lease=LEASE)
    assert ids(claims) == ["fresh-1", "tried-2", "fresh-3"]
    assert [claim.job.attempts for claim in claims] == [1, 2, 1]


async def test_further_attempts_take_no_more_hands_than_they_are_allowed(ledger: Ledger) -> None:
    await tried(ledger, "tried-1", NOW + HOUR)
    held = await claimed(ledger)
    await tried(ledger, "tried-2", NOW + 2 * HOUR)
    await ledger.release(held)
    await ledger.record(delivery("fresh", deadline=NOW + 9 * HOUR))
    assert ids(await ledger.claim_to_fetch(2, again=1, lease=LEASE)) == ["tried-1", "fresh"]
    assert ids(await ledger.claim_to_fetch(2, again=0, lease=LEASE)) == []
    assert ids(await ledger.claim_to_fetch(2, again=-3, lease=LEASE)) == []
    assert ids(await ledger.claim_to_fetch(2, again=1, lease=LEASE)) == ["tried-2"]


@pytest.mark.parametrize("limit", [0, -1])
async def test_who_has_no_hands_gets_nothing(ledger: Ledger, limit: int) -> None:
    await ledger.record(delivery())
    assert await ledger.claim_to_fetch(limit, again=limit, lease=LEASE) == []
    await ledger.fetched(await claimed(ledger), IMAGE, "spool")
    assert await ledger.claim_to_archive(limit, lease=LEASE) == []
    assert await ledger.claim_past_deadline(limit, lease=LEASE) == []


async def test_a_job_that_came_too_late_is_tried_once_with_hands_that_no_living_job_wants(
    ledger: Ledger, clock: Clock
) -> None:
    await ledger.record(delivery("late", deadline=NOW - HOUR))
    for number in range(2):
        await ledger.record(delivery(f"living-{number}", deadline=NOW + HOUR + number))
    assert ids(await ledger.claim_to_fetch(2, again=2, lease=LEASE)) == ["living-0", "living-1"]
    assert await ledger.expire() == []
    late = await claimed(ledger)
    assert late.job.id == "late"
    await ledger.retry_later(late, NOW + SECOND, TIMEOUT)
    clock.forward(2 * SECOND)
    assert await ledger.claim_to_fetch(2, again=2, lease=LEASE) == []
    assert await ledger.expire() == ["late"]


def limits(share: int, most: int = 9, **running: int) -> HostLimits:
    return HostLimits(running, {}, {}, most, share)


async def hosted(ledger: Ledger, *urls: str) -> None:
    """Records a job for each URL, named by it, the earliest deadline first."""
    for hours, url in enumerate(urls, 1):
        await ledger.record(delivery(url, f"https://{url}", deadline=NOW + hours * HOUR))


async def test_a_host_that_has_its_share_lets_others_go_first(ledger: Ledger) -> None:
    await hosted(ledger, *(f"crowd/{n}" for n in range(5)), "b/1", "c/1", "b/2", "crowd/5")
    claims = await ledger.claim_to_fetch(4, again=4, lease=LEASE, hosts=limits(2))
    assert ids(claims) == ["crowd/0", "crowd/1", "b/1", "c/1"]
    assert [claim.host for claim in claims] == ["crowd", "crowd", "b", "c"]
    busy = limits(2, crowd=2)
    assert ids(await ledger.claim_to_fetch(2, again=2, lease=LEASE, hosts=busy)) == ["b/2", "crowd/2"]
    assert ids(await ledger.claim_to_fetch(9, again=9, lease=LEASE, hosts=busy)) == [
        f"crowd/{n}" for n in (3, 4, 5)
    ]


async def test_a_host_never_gets_more_than_its_limit(ledger: Ledger, clock: Clock) -> None:
    await hosted(ledger, *(f"a/{n}" for n in range(5)), "b/1")
    two_more = HostLimits({"a": 1}, {}, {"a": 3}, default=9, share=9)
    assert ids(await ledger.claim_to_fetch(9, again=9, lease=LEASE, hosts=two_more)) == ["a/0", "a/1", "b/1"]
    clock.forward(100 * HOUR)
    assert ids(await ledger.claim_to_fetch(9, again=9, lease=LEASE, hosts=limits(9, 1, a=1))) == []


async def test_further_attempts_are_limited_among_hosts_too(ledger: Ledger) -> None:
    for number, name in enumerate(("a", "b", "c")):
        await ledger.record(delivery(name, f"https://{name}/", deadline=NOW + HOUR + number))
    for claim in await ledger.claim_to_fetch(3, again=0, lease=LEASE):
        await ledger.retry_later(claim, NOW, TIMEOUT)
    busy = limits(1, a=1)
    assert ids(await ledger.claim_to_fetch(9, again=1, lease=LEASE, hosts=busy)) == ["b"]
    assert ids(await ledger.claim_to_fetch(9, again=0, lease=LEASE, hosts=busy)) == []


async def test_one_of_a_host_s_downloads_is_kept_for_first_attempts(ledger: Ledger) -> None:
    names = [f"tried-{n}" for n in range(6)]
    for name in names:
        await ledger.record(delivery(name, "https://a/", deadline=NOW + HOUR))
    for claim in await ledger.claim_to_fetch(9, again=0, lease=LEASE):
        await ledger.retry_later(claim, NOW, TIMEOUT)
    await ledger.record(delivery("fresh", "https://a/"))
    await ledger.record(delivery("other", "https://b/"))
    hosts = HostLimits({"a": 2}, {"a": 2}, {}, default=4, share=4)
    claims = await ledger.claim_to_fetch(9, again=9, lease=LEASE, hosts=hosts)
    assert sorted(ids(claims)) == ["fresh", "other", claims[0].job.id]
    assert claims[0].job.id in names


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Host.Example/a", "host.example"),
        ("https://host:8443?a=https://other/", "host:8443"),
        ("http://[::1]:80#a", "[::1]:80"),
        ("https://host", "host"),
        (None, ""),
    ],
)
async def test_a_host_is_what_stands_between_the_scheme_and_the_path(
    ledger: Ledger, url: str | None, host: str
) -> None:
    await ledger.record(Delivery(Completion("job-1", url), b"{}", NOW + HOUR))
    assert (await claimed(ledger)).host == host


async def test_a_waiting_job_is_not_claimed_before_its_time(ledger: Ledger, clock: Clock) -> None:
    await ledger.record(delivery())
    await ledger.retry_later(await claimed(ledger), NOW + 5 * SECOND, TIMEOUT)
    assert await ledger.next_event_at() == NOW + 5 * SECOND
    clock.forward(5 * SECOND - 1)
    assert await ledger.claim_to_fetch(1, again=1, lease=LEASE) == []
    clock.forward(1)
    assert ids(await ledger.claim_to_fetch(1, again=1, lease=LEASE)) == ["job-1"]


async def test_the_longest_waiting_image_is_uploaded_first(ledger: Ledger, clock: Clock) -> None:
    for hours in (3, 1, 2):
        await ledger.record(delivery(f"in-{hours}", deadline=NOW + hours * HOUR))
    for claim in reversed(await ledger.claim_to_fetch(3, again=3, lease=LEASE)):
        clock.forward(SECOND)
        assert await ledger.fetched(claim, IMAGE, f"{claim.job.id}.spool")
    assert ids(await ledger.claim_to_archive(2, lease=LEASE)) == ["in-3", "in-2"]
    assert ids(await ledger.claim_to_archive(2, lease=LEASE)) == ["in-1"]


async def test_a_lease_ends_by_the_monotonic_clock_and_by_no_other(
    ledger: Ledger, clock: Clock, monotonic: Clock
) -> None:
    await ledger.record(delivery(deadline=NOW + 1000 * HOUR))
    await claimed(ledger)
    for hours in (500, -600):
        clock.forward(hours * HOUR)
        await ledger.release_expired_leases()
        assert await ledger.claim_to_fetch(1, again=1, lease=LEASE) == []
    monotonic.forward(LEASE)
    await ledger.release_expired_leases()
    assert await ledger.claim_to_fetch(1, again=1, lease=LEASE) == []
    monotonic.forward(1)
    await ledger.release_expired_leases()
    assert (await claimed(ledger)).job.attempts == 2


@only_sqlite
async def test_a_lease_does_not_end_over_an_outcome_that_the_ledger_could_not_take(
    ledger: Ledger, clock: Clock, monotonic: Clock, place: LedgerLocation
) -> None:
    await ledger.record(delivery(deadline=NOW + HOUR))
    claim = await claimed(ledger)
    await never_wait_for_others(ledger)
    with tables_of(place) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError):
            await ledger.fetched(claim, IMAGE, "spool")
        for each in (clock, monotonic):
            each.forward(2 * HOUR)
        other.execute("ROLLBACK")
    # The rounds of the worker may come before its next attempt to record what it did.
    await ledger.release_expired_leases()
    assert await ledger.expire() == []
    assert await ledger.fetched(claim, IMAGE, "spool")
    assert (await the_job(ledger)).state is State.FETCHED


async def test_a_claim_that_is_given_back_was_never_taken(ledger: Ledger) -> None:
    await ledger.record(delivery())
    before = await ledger.job_with_history("job-1")
    assert await ledger.release(await claimed(ledger))
    assert await ledger.job_with_history("job-1") == before


async def test_a_job_expires_when_its_time_is_over_and_not_at_its_next_attempt(
    ledger: Ledger, clock: Clock
) -> None:
    await ledger.record(delivery(deadline=NOW + HOUR))
    await ledger.retry_later(await claimed(ledger), NOW + 2 * HOUR, TIMEOUT)
    clock.forward(HOUR - 1)
    assert await ledger.expire() == []
    assert await ledger.next_event_at() == NOW + HOUR
    clock.forward(1)
    assert await ledger.expire() == ["job-1"]
    job = await the_job(ledger)
    assert (job.state, job.next_attempt_at) == (State.EXPIRED, None)
    assert job.problem is not None
    assert job.problem.reason == "fetch.expired"
    assert "fetch.timeout, Too slow." in job.problem.detail
    assert (await history(ledger))[-1].event == "expired"
    assert await ledger.next_event_at() is None


async def test_a_job_that_is_being_fetched_does_not_expire_meanwhile(ledger: Ledger, clock: Clock) -> None:
    await ledger.record(delivery(deadline=NOW + HOUR))
    claim = await claimed(ledger)
    clock.forward(2 * HOUR)
    assert await ledger.expire() == []
    assert await ledger.claim_past_deadline(1, lease=LEASE) == []
    assert await ledger.fetched(claim, IMAGE, "spool")


async def test_jobs_whose_time_is_over_can_be_claimed_for_a_last_question(
    ledger: Ledger, clock: Clock
) -> None:
    await tried(ledger, "waits", NOW + HOUR)
    clock.forward(2 * HOUR)
    await ledger.record(delivery("untried", deadline=NOW))
    (claim,) = await ledger.claim_past_deadline(5, lease=LEASE)
    assert claim.job.id == "waits"
    assert await ledger.expire() == []
    assert await ledger.expired(claim)
    assert (await the_job(ledger, "waits")).state is State.EXPIRED


async def test_jobs_at_risk_are_told_once(ledger: Ledger, clock: Clock) -> None:
    await ledger.record(delivery("fresh", deadline=NOW + 10 * HOUR))
    await ledger.record(delivery("held", deadline=NOW + 10 * HOUR - 1))
    held = await claimed(ledger)
    clock.forward(9 * HOUR)
    assert held.job.id == "held"
    assert await ledger.mark_at_risk() == ["held"]
    clock.forward(1)
    assert await ledger.mark_at_risk() == ["fresh"]
    assert await ledger.mark_at_risk() == []
    assert (await ledger.stats(overdue_before=0)).at_risk == 2
    assert await ledger.fetched(held, IMAGE, "spool")
    assert (await ledger.stats(overdue_before=0)).at_risk == 1


async def test_waits_move_along_when_the_clock_was_set(ledger: Ledger, clock: Clock) -> None:
    await ledger.record(delivery())
    await ledger.retry_later(await claimed(ledger), NOW + 5 * SECOND, TIMEOUT)
    clock.forward(-HOUR)
    await ledger.shift_waits(-HOUR)
    assert await ledger.claim_to_fetch(1, again=1, lease=LEASE) == []
    clock.forward(5 * SECOND)
    assert ids(await ledger.claim_to_fetch(1, again=1, lease=LEASE)) == ["job-1"]


async def test_a_wait_that_began_after_the_clock_was_set_stays_as_it_is(ledger: Ledger, clock: Clock) -> None:
    await ledger.record(delivery())
    clock.forward(HOUR)
    await ledger.retry_later(await claimed(ledger), NOW + HOUR + 5 * SECOND, TIMEOUT)
    await ledger.shift_waits(HOUR)
    clock.forward(5 * SECOND)
    assert ids(await ledger.claim_to_fetch(1, again=1, lease=LEASE)) == ["job-1"]


async def test_a_clock_that_was_set_forward_moves_no_wait_beyond_the_deadline(
    ledger: Ledger, clock: Clock
) -> None:
    await ledger.record(delivery(deadline=NOW + 2 * HOUR))
    await ledger.retry_later(await claimed(ledger), NOW + HOUR, TIMEOUT)
    clock.forward(HOUR + HOUR // 2)
    await ledger.shift_waits(HOUR + HOUR // 2)
    assert ids(await ledger.claim_to_fetch(1, again=1, lease=LEASE)) == ["job-1"]


async def test_a_refused_answer_has_come_for_no_longer_because_the_clock_was_set(
    ledger: Ledger, clock: Clock
) -> None:
    await ledger.record(delivery())
    await ledger.retry_later(await claimed(ledger), NOW + 5 * SECOND, TIMEOUT, suspect="placeholder")
    clock.forward(HOUR)
    await ledger.shift_waits(HOUR)
    assert (await the_job(ledger)).suspect_since == NOW + HOUR


async def test_a_restart_voids_the_claims_of_the_process_that_is_gone(
    place: LedgerLocation, clock: Clock
) -> None:
    folder = place
    first = await Ledger.serve(folder, now=clock)
    await first.record(delivery())
    claim = await claimed(first)
    await first.close()
    second = await Ledger.serve(folder, now=clock)
    assert not await second.fetched(claim, IMAGE, "spool")
    again = await claimed(second)
    assert again.job.attempts == 1  # the one that was cut off is none
    assert again.holder != claim.holder
    await second.close()


@asynccontextmanager
async def served(folder: LedgerLocation, clock: Clock) -> AsyncIterator[Ledger]:
    """One life of a process on the ledger; closed at all events, for its thread would keep pytest alive."""
    ledger = await Ledger.serve(folder, now=clock)
    try:
        yield ledger
    finally:
        await ledger.close()


async def test_a_job_that_is_cut_off_again_and_again_lets_others_go_first_and_ends(
    place: LedgerLocation, clock: Clock
) -> None:
    waits = []
    async with served(place, clock) as ledger:
        await ledger.record(delivery("deadly", deadline=NOW + HOUR))
        await claimed(ledger)
    for _ in range(4):
        async with served(place, clock) as ledger:
            job = await the_job(ledger, "deadly")
            waits.append((job.next_attempt_at or clock.now) - clock.now)
            clock.forward(waits[-1])
            assert (await claimed(ledger)).job.id == "deadly"
    assert waits == [0, 0, 4 * SECOND, 8 * SECOND]

    clock.forward(HOUR)
    async with served(place, clock) as ledger:
        assert await ledger.expire() == ["deadly"]
        events = [event.event for event in await history(ledger, "deadly")]
    assert events == ["received", *["cut_off"] * 5, "expired"]


async def test_a_download_s_wait_does_not_last_for_a_clock_that_was_set_back_while_nobody_looked(
    place: LedgerLocation, clock: Clock
) -> None:
    async with served(place, clock) as ledger:
        await ledger.record(delivery())
        await ledger.retry_later(await claimed(ledger), clock.now + 60 * SECOND, TIMEOUT)
    clock.forward(SECOND)

    async with served(place, clock) as ledger:
        assert await ledger.claim_to_fetch(1, again=1, lease=LEASE) == []
    clock.forward(-HOUR)

    async with served(place, clock) as ledger:
        assert ids(await ledger.claim_to_fetch(1, again=1, lease=LEASE)) == ["job-1"]


async def test_an_upload_s_wait_does_not_last_for_a_clock_that_was_set_while_nobody_looked(
    place: LedgerLocation, clock: Clock
) -> None:
    async with served(place, clock) as ledger:
        for name, wait in (("long", 60 * SECOND), ("short", -HOUR + 2 * SECOND)):
            await brought_to(ledger, State.FETCHED, name)
            (claim,) = await ledger.claim_to_archive(1, lease=LEASE)
            await ledger.retry_later(claim, clock.now + wait, ArchiveError("archive.unavailable"))
    clock.forward(-HOUR)

    async with served(place, clock) as ledger:
        assert ids(await ledger.claim_to_archive(9, lease=LEASE)) == ["long"]
        clock.forward(2 * SECOND)
        assert ids(await ledger.claim_to_archive(9, lease=LEASE)) == ["short"]
