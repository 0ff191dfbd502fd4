"""Commits whose answer is lost: the ledger has what its caller was told of as an error."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from receiver.core.errors import LedgerError
from receiver.core.jobs import State
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import Ledger
from tests.ledger.actions import IMAGE, LEASE, STORED, TIMEOUT, claimed, delivery, history, the_job
from tests.support.clock import NOW, Clock
from tests.support.lost_answers import open_to_lose


@dataclass
class Line:
    """A ledger, and whether the answer to the next commit comes."""

    ledger: Ledger
    cut: bool = False


@pytest.fixture
async def line(place: LedgerLocation, clock: Clock, monotonic: Clock) -> AsyncIterator[Line]:
    ledger, _ = await open_to_lose(place, lambda: found.cut, now=clock, monotonic=monotonic)
    found = Line(ledger)
    yield found
    await ledger.close()


async def test_a_delivery_whose_answer_was_lost_is_a_duplicate_when_it_comes_again(line: Line) -> None:
    line.cut = True
    with pytest.raises(LedgerError) as caught:
        await line.ledger.record(delivery())
    assert caught.value.reason == "ledger.unavailable"
    line.cut = False
    assert (await line.ledger.record(delivery())).duplicate
    assert [event.event for event in await history(line.ledger)] == ["received"]


async def test_claims_whose_answer_was_lost_are_made_again_at_once(line: Line) -> None:
    """Nobody works on them: they would stand until their lease ends, and their URL may end before."""
    await line.ledger.record(delivery("job-1"))
    await line.ledger.record(delivery("job-2"))
    line.cut = True
    for _ in range(2):
        with pytest.raises(LedgerError):
            await line.ledger.claim_to_fetch(2, again=2, lease=LEASE)
    line.cut = False
    claims = await line.ledger.claim_to_fetch(2, again=2, lease=LEASE)
    assert {(claim.job.id, claim.job.attempts) for claim in claims} == {("job-1", 1), ("job-2", 1)}
    assert await line.ledger.fetched(claims[0], IMAGE, "the.spool")
    line.cut = True
    with pytest.raises(LedgerError):
        await line.ledger.claim_to_archive(1, lease=LEASE)
    line.cut = False
    assert await line.ledger.claim_past_deadline(1, lease=LEASE) == []  # any claim gives them back
    (claim,) = await line.ledger.claim_to_archive(1, lease=LEASE)
    assert (claim.job.id, claim.job.attempts) == (claims[0].job.id, 1)


async def test_the_end_of_an_attempt_whose_answer_was_lost_is_told_from_a_void_claim(line: Line) -> None:
    await line.ledger.record(delivery())
    claim = await claimed(line.ledger)
    line.cut = True
    with pytest.raises(LedgerError):
        await line.ledger.fetched(claim, IMAGE, "the.spool")
    line.cut = False
    assert await line.ledger.fetched(claim, IMAGE, "the.spool")
    assert await line.ledger.spool_names() == {"the.spool"}
    (claim,) = await line.ledger.claim_to_archive(1, lease=LEASE)
    line.cut = True
    with pytest.raises(LedgerError):
        await line.ledger.archived(claim, STORED)
    line.cut = False
    assert await line.ledger.archived(claim, STORED)
    assert [event.event for event in await history(line.ledger)] == ["received", "fetched", "archived"]


async def test_a_claim_that_ended_while_its_work_could_not_be_recorded_is_void(
    line: Line, monotonic: Clock
) -> None:
    """The ledger then has another's file, or another state, which must not be taken for one's own."""
    await line.ledger.record(delivery())
    late = await claimed(line.ledger)
    await line.ledger.release_expired_leases()
    assert await line.ledger.retry_later(late, NOW, TIMEOUT)
    claim = await claimed(line.ledger)
    line.cut = True
    with pytest.raises(LedgerError):  # nothing was to be recorded any more
        await line.ledger.fetched(late, IMAGE, "late.spool")
    line.cut = False
    assert not await line.ledger.fetched(late, IMAGE, "late.spool")
    assert (await the_job(line.ledger)).state is State.RECEIVED
    assert await line.ledger.fetched(claim, replace(IMAGE, sha256="cd" * 32), "other.spool")
    assert not await line.ledger.fetched(late, IMAGE, "late.spool")
