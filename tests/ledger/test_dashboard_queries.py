"""The status page's overview: the order of each list, and that each list is bounded."""

from receiver.core.completion import Completion
from receiver.core.jobs import State
from receiver.ledger import Delivery, Ledger, Submission
from tests.ledger.actions import IMAGE, LEASE, STORED, TIMEOUT, brought_to, claimed, delivery
from tests.support.clock import HOUR, NOW, SECOND, Clock


async def test_unsafe_images_come_by_deadline_wherever_they_stand(ledger: Ledger) -> None:
    for number, job_id in enumerate(("claimed", "waiting", "tried", "fresh")):
        await ledger.record(delivery(job_id, deadline=NOW + (9 - number) * HOUR))
    claims = {job_id: await claimed(ledger) for job_id in ("fresh", "tried", "waiting", "claimed")}
    assert all(claim.job.id == job_id for job_id, claim in claims.items())
    await ledger.retry_later(claims["waiting"], NOW + HOUR, TIMEOUT)
    await ledger.retry_later(claims["tried"], NOW, TIMEOUT)
    await ledger.claim_to_archive(1, lease=LEASE)  # puts back whose wait is over
    await ledger.release(claims["fresh"])

    seen = await ledger.overview(overdue_before=0, limit=10)
    few = await ledger.overview(overdue_before=0, limit=2)

    assert [job.id for job in seen.unsafe] == ["fresh", "tried", "waiting", "claimed"]
    assert [job.id for job in few.unsafe] == ["fresh", "tried"]
    assert seen.at_risk == frozenset()


async def test_those_at_risk_are_marked(ledger: Ledger, clock: Clock) -> None:
    await ledger.record(Delivery(Completion("job-1", "https://host/1.png"), b"{}", NOW + 100 * SECOND))
    clock.forward(95 * SECOND)
    await ledger.mark_at_risk()

    assert (await ledger.overview(overdue_before=0, limit=5)).at_risk == {"job-1"}


async def test_the_longest_silent_come_first(ledger: Ledger, clock: Clock) -> None:
    for number in range(4):
        await ledger.expect(Submission(f"job-{number}"))
        clock.forward(SECOND)

    seen = await ledger.overview(overdue_before=NOW + 2 * SECOND, limit=5)

    assert [job.id for job in seen.overdue] == ["job-0", "job-1"]
    assert seen.stats.overdue == 2


async def test_what_failed_last_comes_first_and_what_is_well_is_not_there(
    ledger: Ledger, clock: Clock
) -> None:
    for state in (State.ARCHIVED, State.REJECTED, State.EXPIRED, State.FAILED):
        await brought_to(ledger, state, state.value)
        clock.forward(SECOND)
    await ledger.record(delivery("waits"))
    await ledger.retry_later(await claimed(ledger), NOW + HOUR, TIMEOUT)

    seen = await ledger.overview(overdue_before=0, limit=5)
    few = await ledger.overview(overdue_before=0, limit=1)

    assert [job.id for job in seen.troubled] == ["waits", "failed", "expired", "rejected"]
    assert [job.id for job in few.troubled] == ["waits"]


async def test_the_newest_archived_are_told_with_their_times(ledger: Ledger, clock: Clock) -> None:
    for number in range(3):
        await ledger.record(delivery(f"job-{number}"))
        await ledger.fetched(await claimed(ledger), IMAGE, f"{number}.spool")
        (claim,) = await ledger.claim_to_archive(1, lease=LEASE)
        await ledger.archived(claim, STORED)
        clock.forward(SECOND)

    assert await ledger.archived_lately(2) == (3, (NOW + 2 * SECOND, NOW + SECOND))
    assert await ledger.archived_lately(0) == (3, ())
