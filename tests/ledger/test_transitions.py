"""Transitions: which are legal, what they enter in the history, and which claims may make them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise, product

import pytest

from receiver.archive.metadata import ArchivedImage
from receiver.core.errors import LedgerError, SpoolError
from receiver.core.jobs import MOVES, Image, State
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import Claim, Ledger
from receiver.ledger.commands.retries import NotRetriableError
from receiver.ledger.connection import Connection
from tests.ledger.actions import (
    IMAGE,
    LEASE,
    STORED,
    TIMEOUT,
    brought_to,
    claimed,
    delivery,
    failure,
    history,
    kept_totals,
    recounted_totals,
    tables_of,
    the_job,
)
from tests.support.clock import HOUR, NOW, SECOND, Clock

LOST = SpoolError("spool.lost", "Gone.")

SHOWN = ArchivedImage(
    "job-1", None, Image("jpeg", 4, 3, 12, "ef" * 32), STORED, received_at=NOW, archived_at=NOW
)
"""The job's image as an object that was put before shows it."""

DEEDS: dict[str, Callable[[Ledger, Claim], Awaitable[bool]]] = {
    "fetched": lambda ledger, claim: ledger.fetched(claim, IMAGE, "spool"),
    "archived": lambda ledger, claim: ledger.archived(claim, STORED),
    "recognised": lambda ledger, claim: ledger.recognised(claim, SHOWN),
    "rejected": lambda ledger, claim: ledger.rejected(claim, TIMEOUT),
    "retry_later": lambda ledger, claim: ledger.retry_later(claim, NOW + SECOND, TIMEOUT),
    "spool_lost": lambda ledger, claim: ledger.spool_lost(claim, LOST),
    "expired": lambda ledger, claim: ledger.expired(claim),
    "url_refreshed": lambda ledger, claim: ledger.url_refreshed(
        claim, delivery(url="https://host/2.png").completion, NOW + HOUR, NOW + SECOND
    ),
    "release": lambda ledger, claim: ledger.release(claim),
}
"""All that can be done with a claim and ends it."""


@pytest.fixture
async def db(place: LedgerLocation) -> AsyncIterator[Connection]:
    """The tables of a ledger that has no job."""
    await (await Ledger.serve(place)).close()
    with tables_of(place) as db:
        yield db


@pytest.mark.parametrize(("before", "after"), list(product(State, State)))
def test_the_database_itself_refuses_every_move_that_is_not_legal(
    db: Connection, before: State, after: State
) -> None:
    db.execute(
        "INSERT INTO jobs (id, state, event, created_at, updated_at) VALUES ('a', ?, 'born', 1, 1)", (before,)
    )
    move = "UPDATE jobs SET state = ?, event = 'moved', updated_at = 2, reason = 'r', detail = 'd'"
    if after is before or after in MOVES[before]:
        db.execute(move, (after,))
        events = [
            tuple(row) for row in db.execute("SELECT at, event, before, after, reason, detail FROM history")
        ]
        assert events == [(1, "born", None, before, None, None), (2, "moved", before, after, "r", "d")]
    else:
        with pytest.raises(Exception, match="illegal move"):
            db.execute(move, (after,))
        assert db.execute("SELECT state FROM jobs").fetchone()["state"] == before
        assert db.execute("SELECT count(*) FROM history").fetchone()[0] == 1
    assert kept_totals(db) == recounted_totals(db)


def test_the_database_itself_refuses_an_unknown_state(db: Connection) -> None:
    with pytest.raises(Exception, match=r"CHECK|check constraint"):
        db.execute(
            "INSERT INTO jobs (id, state, event, created_at, updated_at) VALUES ('a', 'done', 'b', 1, 1)"
        )


@pytest.mark.parametrize("state", State)
async def test_every_state_is_reached_with_a_history_that_tells_each_move(
    ledger: Ledger, place: LedgerLocation, state: State
) -> None:
    await brought_to(ledger, state)
    assert (await the_job(ledger)).state is state
    events = await history(ledger)
    assert events[0].before is None
    assert events[-1].after is state
    assert all(one.after is other.before for one, other in pairwise(events))
    assert all(event.after in MOVES[event.before] for event in events if event.before is not None)
    with tables_of(place) as db:
        assert kept_totals(db) == recounted_totals(db)


async def test_the_way_of_an_image_from_delivery_to_archive(ledger: Ledger, clock: Clock) -> None:
    await ledger.record(delivery(ref="order 7"))
    clock.forward(SECOND)
    claim = await claimed(ledger)
    assert claim.job.attempts == 1
    assert await ledger.retry_later(claim, clock() + SECOND, TIMEOUT, suspect="cd" * 32)
    job = await the_job(ledger)
    assert job.problem is not None
    assert (job.problem.reason, job.problem.at, job.suspect) == ("fetch.timeout", NOW + SECOND, "cd" * 32)
    assert job.next_attempt_at == NOW + 2 * SECOND
    clock.forward(SECOND)
    claim = await claimed(ledger)
    assert (claim.job.attempts, claim.job.suspect) == (2, "cd" * 32)
    assert await ledger.fetched(claim, IMAGE, "the.spool")
    assert await ledger.spool_names() == {"the.spool"}
    assert await ledger.spool_bytes() == IMAGE.bytes
    (claim,) = await ledger.claim_to_archive(5, lease=LEASE)
    assert (claim.job.image, claim.job.spool, claim.job.attempts) == (IMAGE, "the.spool", 1)
    clock.forward(SECOND)
    assert await ledger.archived(claim, STORED)
    job = await the_job(ledger)
    assert (job.state, job.stored, job.image, job.spool) == (State.ARCHIVED, STORED, IMAGE, None)
    assert (job.received_at, job.fetched_at, job.archived_at) == (NOW, NOW + 2 * SECOND, NOW + 3 * SECOND)
    assert job.problem is None
    assert [(event.event, event.reason) for event in await history(ledger)] == [
        ("received", None),
        ("attempt_failed", "fetch.timeout"),
        ("fetched", None),
        ("archived", None),
    ]
    assert await ledger.spool_bytes() == 0


async def test_the_same_wrong_answer_is_counted_from_its_first_time_on(
    ledger: Ledger, clock: Clock, place: LedgerLocation
) -> None:
    async def after(suspect: str | None) -> tuple[str | None, int, int | None]:
        assert await ledger.retry_later(await claimed(ledger), clock(), TIMEOUT, suspect=suspect)
        clock.forward(SECOND)
        job = await the_job(ledger)
        return job.suspect, job.suspects, job.suspect_since

    await ledger.record(delivery())
    assert await after(None) == (None, 0, None)
    assert (await ledger.stats(overdue_before=0)).refused == 0
    assert await after("page") == ("page", 1, NOW + SECOND)
    assert await after("page") == ("page", 2, NOW + SECOND)
    assert await after(None) == ("page", 2, NOW + SECOND)  # a failure between two of them is no other answer
    assert await after("page") == ("page", 3, NOW + SECOND)
    assert (await ledger.stats(overdue_before=0)).refused == 1
    assert await after("other") == ("other", 1, NOW + 5 * SECOND)
    job = await ledger.retry("job-1")
    assert (job.suspect, job.suspects, job.suspect_since) == (None, 0, None)
    assert (await ledger.stats(overdue_before=0)).refused == 0


async def test_an_image_that_stood_in_the_archive_already_takes_the_place_of_the_fetched_one(
    ledger: Ledger, clock: Clock, place: LedgerLocation
) -> None:
    await brought_to(ledger, State.FETCHED)
    (claim,) = await ledger.claim_to_archive(1, lease=LEASE)
    clock.forward(SECOND)
    assert await ledger.recognised(claim, SHOWN)
    job = await the_job(ledger)
    assert (job.state, job.stored, job.image, job.spool) == (State.ARCHIVED, STORED, SHOWN.image, None)
    assert (job.problem, job.archived_at) == (None, NOW + SECOND)
    last = (await history(ledger))[-1]
    assert last.event == "recognised"
    assert IMAGE.sha256 in (last.detail or "")
    assert await ledger.spool_bytes() == 0
    with tables_of(place) as db:
        assert kept_totals(db) == recounted_totals(db)


async def test_a_lost_spool_file_sends_the_job_back_to_be_fetched_once_more(
    ledger: Ledger, clock: Clock
) -> None:
    await brought_to(ledger, State.FETCHED)
    clock.forward(48 * HOUR)  # past the deadline: it is tried all the same
    (claim,) = await ledger.claim_to_archive(1, lease=LEASE)
    assert await ledger.spool_lost(claim, LOST)
    job = await the_job(ledger)
    assert (job.state, job.image, job.spool, job.attempts) == (State.RECEIVED, None, None, 0)
    assert job.problem is not None
    assert job.problem.reason == "spool.lost"
    assert await ledger.spool_bytes() == 0
    assert (await claimed(ledger)).job.id == "job-1"


async def test_an_upload_that_failed_waits(ledger: Ledger, clock: Clock) -> None:
    await brought_to(ledger, State.FETCHED)
    (claim,) = await ledger.claim_to_archive(1, lease=LEASE)
    assert await ledger.retry_later(claim, NOW + HOUR, TIMEOUT)
    assert await ledger.claim_to_archive(1, lease=LEASE) == []
    clock.forward(HOUR)
    (claim,) = await ledger.claim_to_archive(1, lease=LEASE)
    assert (claim.job.state, claim.job.attempts) == (State.FETCHED, 2)


@pytest.mark.parametrize("late", DEEDS)
async def test_whoever_comes_after_the_end_of_its_lease_changes_nothing(
    ledger: Ledger, monotonic: Clock, late: str
) -> None:
    await ledger.record(delivery())
    old = await claimed(ledger)
    monotonic.forward(LEASE + 1)
    await ledger.release_expired_leases()
    new = await claimed(ledger)
    before = await ledger.job_with_history("job-1")
    assert not await DEEDS[late](ledger, old)
    assert await ledger.job_with_history("job-1") == before
    assert await ledger.fetched(new, IMAGE, "spool")


@pytest.mark.parametrize("deed", sorted(set(DEEDS) - {"archived", "recognised", "spool_lost"}))
async def test_a_claim_can_be_used_once(ledger: Ledger, deed: str) -> None:
    await ledger.record(delivery())
    claim = await claimed(ledger)
    assert await DEEDS[deed](ledger, claim)
    before = await ledger.job_with_history("job-1")
    for late in DEEDS.values():
        assert not await late(ledger, claim)
    assert await ledger.job_with_history("job-1") == before


@pytest.mark.parametrize("deed", ["archived", "recognised", "spool_lost"])
async def test_what_is_for_another_state_leaves_the_claim_as_it_is(ledger: Ledger, deed: str) -> None:
    await ledger.record(delivery())
    claim = await claimed(ledger)
    assert not await DEEDS[deed](ledger, claim)
    assert await ledger.fetched(claim, IMAGE, "spool")


async def test_the_providers_confirmation_replaces_what_was_delivered_and_keeps_the_claim(
    ledger: Ledger,
) -> None:
    await ledger.record(delivery())
    claim = await claimed(ledger)
    confirmed = await ledger.confirmed(claim, delivery(url="https://host/2.png").completion, NOW + HOUR)
    assert confirmed is not None
    job = confirmed.job
    assert (job.image_url, job.deadline, job.confirmed_at) == ("https://host/2.png", NOW + HOUR, NOW)
    assert await ledger.fetched(confirmed, IMAGE, "spool")
    assert await ledger.confirmed(confirmed, delivery().completion, NOW) is None


async def test_a_fresh_url_of_the_providers_is_tried_when_its_time_comes(
    ledger: Ledger, clock: Clock
) -> None:
    await ledger.record(delivery(deadline=NOW + SECOND))
    claim = await claimed(ledger)
    assert await DEEDS["url_refreshed"](ledger, claim)
    assert await ledger.claim_to_fetch(1, again=1, lease=LEASE) == []
    clock.forward(2 * SECOND)
    claim = await claimed(ledger)
    assert (claim.job.image_url, claim.job.deadline) == ("https://host/2.png", NOW + HOUR)


@pytest.mark.parametrize("state", [State.REJECTED, State.EXPIRED])
async def test_an_operators_retry_begins_anew(ledger: Ledger, state: State) -> None:
    await brought_to(ledger, state)
    job = await ledger.retry("job-1")
    assert (job.state, job.attempts, job.problem) == (State.RECEIVED, 0, None)
    assert [event.event for event in await history(ledger)][-1] == "retried"
    assert (await claimed(ledger)).job.id == "job-1"


@pytest.mark.parametrize("state", [State.RECEIVED, State.FETCHED])
async def test_an_operators_retry_ends_a_wait(ledger: Ledger, state: State) -> None:
    async def claims() -> list[Claim]:
        if state is State.RECEIVED:
            return await ledger.claim_to_fetch(1, again=1, lease=LEASE)
        return await ledger.claim_to_archive(1, lease=LEASE)

    await brought_to(ledger, state)
    (claim,) = await claims()
    await ledger.retry_later(claim, NOW + HOUR, TIMEOUT)
    assert await claims() == []
    job = await ledger.retry("job-1")
    assert (job.state, job.next_attempt_at, job.attempts) == (state, None, 1)
    assert len(await claims()) == 1


async def test_an_operators_retry_of_what_is_being_worked_on_is_refused_and_leaves_it_alone(
    ledger: Ledger,
) -> None:
    await ledger.record(delivery())
    claim = await claimed(ledger)
    before = await history(ledger)
    with pytest.raises(NotRetriableError, match="it is being worked on at this moment") as refused:
        await ledger.retry("job-1")
    assert refused.value.reason == "ledger.wrong_state"
    assert await history(ledger) == before
    assert await ledger.fetched(claim, IMAGE, "spool")


async def test_there_is_nothing_to_retry_in_some_states(ledger: Ledger) -> None:
    with pytest.raises(LedgerError) as caught:
        await ledger.retry("job-0")
    assert caught.value.reason == "ledger.unknown_job"
    for state in (State.ARCHIVED, State.SUBMITTED, State.FAILED):
        await brought_to(ledger, state, f"job-{state}")
        with pytest.raises(LedgerError) as caught:
            await ledger.retry(f"job-{state}")
        assert caught.value.reason == "ledger.wrong_state"


async def test_watchers_hear_of_their_own_job_after_its_commit(ledger: Ledger) -> None:
    with ledger.changes() as anything, ledger.changes("job-2") as mine:
        await ledger.record(delivery("job-1"))
        assert anything.is_set()
        assert not mine.is_set()
        await ledger.record(failure("job-2"))
        assert mine.is_set()
        anything.clear()
        await ledger.record(delivery("job-1"))
        assert not anything.is_set()
