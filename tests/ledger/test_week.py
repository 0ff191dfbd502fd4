"""How images fared in the last days is counted with each move, whatever the engine."""

import pytest

from receiver.core.errors import ImageError
from receiver.core.jobs import State
from receiver.ledger import Ledger
from receiver.ledger.queries.week import DAY
from tests.ledger.actions import IMAGE, LEASE, STORED, brought_to, claimed, delivery
from tests.support.clock import HOUR, NOW, SECOND, Clock

TODAY = NOW - NOW % DAY


async def archive(ledger: Ledger, clock: Clock, job_id: str, took: int) -> None:
    await ledger.record(delivery(job_id, deadline=clock.now + DAY))
    await ledger.fetched(await claimed(ledger), IMAGE, f"{job_id}.spool")
    clock.forward(took)
    (claim,) = await ledger.claim_to_archive(1, lease=LEASE)
    await ledger.archived(claim, STORED)
    clock.forward(-took)


async def test_durations_are_right_to_a_tenth_by_hour_and_together(ledger: Ledger, clock: Clock) -> None:
    for number in range(20):
        await archive(ledger, clock, f"fast-{number}", 3 * SECOND)
    await archive(ledger, clock, "slow", 50 * SECOND)
    await archive(ledger, clock, "later", HOUR)
    found = await ledger.week(NOW + HOUR)

    hour = NOW - NOW % HOUR
    assert list(found.hours) == [hour, hour + HOUR]
    first, second = found.hours.values()
    assert (first.images, second.images) == (21, 1)
    assert first.median == first.slow == pytest.approx(3 * SECOND, rel=0.1)
    assert second.median == second.slow == pytest.approx(HOUR, rel=0.1)
    assert found.durations is not None
    assert found.durations.images == 22
    assert found.durations.slow == pytest.approx(50 * SECOND, rel=0.1)


@pytest.mark.parametrize("took", [0, 1, 9, 10, 11, 999, 60_000, 86_400_000, 5_000_000_000])
async def test_any_duration_has_its_class(ledger: Ledger, clock: Clock, took: int) -> None:
    await archive(ledger, clock, "job-1", took)
    found = await ledger.week(NOW + took)
    assert found.durations is not None
    assert found.durations.median == pytest.approx(took, rel=0.1, abs=10)


async def test_an_image_that_was_received_after_it_was_archived_took_no_time(
    ledger: Ledger, clock: Clock
) -> None:
    """The clock was set back."""
    await archive(ledger, clock, "job-1", -HOUR)
    found = await ledger.week(NOW)
    assert [hour.slow for hour in found.hours.values()] == [0]


async def test_days_count_images_and_bytes_and_older_ones_are_left_out(ledger: Ledger, clock: Clock) -> None:
    for number, days in enumerate((7, 6, 0, 0)):
        clock.now = TODAY - days * DAY + HOUR
        await archive(ledger, clock, f"job-{number}", SECOND)
    found = await ledger.week(NOW)

    assert list(found.days) == [TODAY - days * DAY for days in range(6, -1, -1)]
    assert list(found.days.values()) == [(1, IMAGE.bytes), *[(0, 0)] * 5, (2, 2 * IMAGE.bytes)]


async def test_failures_are_counted_by_reason_each_time(ledger: Ledger, clock: Clock) -> None:
    await brought_to(ledger, State.FAILED, "failed")
    await brought_to(ledger, State.EXPIRED, "expired")
    for number in range(3):
        await ledger.record(delivery(f"job-{number}", deadline=clock.now + DAY))
        await ledger.rejected(await claimed(ledger), ImageError("image.truncated"))
    await ledger.retry("job-0")
    await ledger.rejected(await claimed(ledger), ImageError("image.truncated"))
    found = await ledger.week(clock.now)
    assert list(found.failures.items()) == [
        ("image.truncated", 4),
        ("fetch.expired", 1),
        ("provider.job_failed", 1),
    ]
    assert (await ledger.week(clock.now + 8 * DAY)).failures == {}


async def test_the_overview_names_the_reasons_that_jobs_have_now(ledger: Ledger) -> None:
    await brought_to(ledger, State.FAILED, "failed")
    await brought_to(ledger, State.REJECTED, "rejected")
    await brought_to(ledger, State.ARCHIVED, "archived")
    seen = await ledger.overview(overdue_before=0, limit=1)
    reasons = {job.problem.reason for job in seen.troubled if job.problem}
    assert seen.reasons == tuple(sorted(seen.reasons))
    assert reasons <= set(seen.reasons)
    assert len(seen.reasons) == 2
