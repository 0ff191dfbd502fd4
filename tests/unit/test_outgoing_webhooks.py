"""Notifications by a clock that is set: when they are given up, and how long is waited before."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from receiver.core.backoff import NOTIFY_MAX, notification_retry_at
from receiver.events.feed import Feed
from receiver.events.outgoing_webhooks import GIVE_UP_AFTER_MS, OutgoingWebhooks
from receiver.ledger import Delivery, Ledger
from tests.ledger.actions import failure, given_up_notifications
from tests.support.clock import NOW, SECOND, Clock
from tests.support.endpoint import SECRET, Endpoint, endpoint
from tests.support.ledgers import make_empty_ledger
from tests.support.processes import PATIENCE


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ledger(tmp_path: Path, clock: Clock) -> AsyncIterator[Ledger]:
    ledger = await Ledger.serve(make_empty_ledger(tmp_path), now=clock)
    yield ledger
    await ledger.close()


@pytest.fixture
def told() -> Iterator[Endpoint]:
    with endpoint() as it:
        it.verifies = False  # the library looks at a clock of its own
        yield it


@asynccontextmanager
async def notifying(ledger: Ledger, clock: Clock, url: str) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    async with Feed(ledger, stopping) as feed:
        notifier = OutgoingWebhooks(
            ledger=ledger,
            feed=feed,
            url=url,
            secret=SECRET,
            user_agent="a test",
            now=clock,
            jitter=lambda: 0.5,
        )
        async with notifier:
            yield
        stopping.set()


async def counted(ledger: Ledger, **wanted: int) -> None:
    """Returns when the ledger has counted so many; the notifier's own tick is a second."""
    async with asyncio.timeout(PATIENCE):
        while True:
            stats = await ledger.stats(overdue_before=0)
            found = stats.counters.get("notifications", {})
            if all(found.get(name, 0) >= number for name, number in wanted.items()):
                assert {name: found.get(name, 0) for name in wanted} == wanted
                return
            await asyncio.sleep(0.02)


async def test_what_nobody_takes_is_tried_for_a_day_then_given_up_and_kept(
    ledger: Ledger, clock: Clock, told: Endpoint
) -> None:
    told.answer = 500
    async with notifying(ledger, clock, told.url):
        await ledger.record(failure())
        await counted(ledger, failed=1)
        clock.forward(GIVE_UP_AFTER_MS - 1)
        await counted(ledger, failed=2, given_up=0)
        clock.forward(1 + 2 * NOTIFY_MAX)
        await counted(ledger, failed=3, given_up=1)
    assert len(told.told) == 3
    assert len({one.id for one in told.told}) == 1
    assert len({one.headers["webhook-timestamp"] for one in told.told}) == 3
    assert {str(one.said) for one in told.told} == {str(told.told[0].said)}
    (kept,) = await given_up_notifications(ledger)
    assert (kept["job"], kept["attempts"], kept["detail"]) == ("job-1", 3, "The endpoint answers 500.")
    assert (await ledger.stats(overdue_before=0)).notifications_pending == 0


async def test_a_receiver_that_was_down_for_days_still_tries_once(
    ledger: Ledger, clock: Clock, told: Endpoint
) -> None:
    await ledger.start_notifications()
    await ledger.record(failure())
    clock.forward(3 * GIVE_UP_AFTER_MS)
    async with notifying(ledger, clock, told.url):
        await ledger.record(failure("job-2"))
        await counted(ledger, sent=2, given_up=0)


async def test_an_endpoint_may_ask_to_be_left_alone_for_a_while(
    ledger: Ledger, clock: Clock, told: Endpoint
) -> None:
    told.answer = 429
    told.headers = {"Retry-After": "600"}
    async with notifying(ledger, clock, told.url):
        await ledger.record(failure())
        await counted(ledger, failed=1)
    assert await ledger.next_notification_at() == NOW + 600 * SECOND


async def test_an_endpoint_that_is_not_there_is_a_failure_like_any_other(
    ledger: Ledger, clock: Clock
) -> None:
    with endpoint() as gone:
        url = gone.url
    async with notifying(ledger, clock, url):
        await ledger.record(failure())
        await counted(ledger, failed=1)
    (one,) = await ledger.notifications_due(by=NOW + NOTIFY_MAX, limit=9)
    assert one.detail == "The endpoint does not answer (ConnectError)."


async def test_nothing_is_written_for_jobs_that_go_on(ledger: Ledger, clock: Clock, told: Endpoint) -> None:
    async with notifying(ledger, clock, told.url):
        for number in range(50):
            said = failure(f"job-{number}").completion
            await ledger.record(Delivery(said, b"{}", NOW))
        await counted(ledger, sent=50)
    assert len(told.told) == 50


def test_waits_grow_to_an_hour_and_are_never_shorter_than_the_endpoint_asks() -> None:
    waits = [notification_retry_at(0, attempts, lambda: 1.0) for attempts in range(1, 40)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (10 * SECOND, NOTIFY_MAX)
    assert notification_retry_at(0, 5, lambda: 0.0) == SECOND
    assert notification_retry_at(0, 1, lambda: 0.0, 30) == 30 * SECOND
    assert notification_retry_at(0, 1, lambda: 0.0, 10**6) == NOTIFY_MAX
