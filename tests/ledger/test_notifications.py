"""Notifications of final jobs: queued, sent, given up; and the change feed's cursors."""

import json

import pytest

from receiver.core.errors import UrlError
from receiver.core.jobs import FINAL, Event, Job, State
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import Ledger, Submission, notifications
from tests.ledger.actions import (
    brought_to,
    claimed,
    delivery,
    failure,
    given_up_notifications,
    tables_of,
    the_job,
)
from tests.support.clock import HOUR, NOW, SECOND, Clock


def render(job: Job, event: Event) -> bytes:
    return json.dumps([job.id, job.state, event.event, event.at]).encode()


async def note(ledger: Ledger) -> int:
    return await ledger.enqueue_notifications(until=await ledger.last_history_seq(), render=render)


async def due(ledger: Ledger, by: int = NOW + HOUR) -> list[str]:
    return [one.job for one in await ledger.notifications_due(by=by, limit=100)]


async def test_the_past_is_not_told_when_telling_is_switched_on(ledger: Ledger) -> None:
    await ledger.record(failure("past"))
    assert await ledger.start_notifications() == await ledger.last_history_seq()
    assert await note(ledger) == 0
    await ledger.record(failure("present"))
    assert await note(ledger) == 1
    assert await due(ledger) == ["present"]


@pytest.mark.parametrize("state", State)
async def test_every_end_is_told_once_and_nothing_else(ledger: Ledger, state: State) -> None:
    await ledger.start_notifications()
    await brought_to(ledger, state)
    assert await note(ledger) == ends(state)
    assert await note(ledger) == 0
    assert await due(ledger) == ["job-1"] * ends(state)


def ends(state: State) -> int:
    return int(state in FINAL)


async def test_what_stays_final_is_not_told_again_and_what_becomes_final_anew_is(
    ledger: Ledger, clock: Clock
) -> None:
    await ledger.start_notifications()
    await brought_to(ledger, State.REJECTED)
    await note(ledger)
    await ledger.record(delivery())  # the same URL again
    assert await note(ledger) == 0

    clock.forward(SECOND)
    await ledger.retry("job-1")
    assert await ledger.expired(await claimed(ledger))
    assert await note(ledger) == 1

    (first,) = await ledger.notifications_due(by=NOW + HOUR, limit=9)
    assert json.loads(first.body) == ["job-1", "rejected", "rejected", NOW]
    await ledger.notification_sent(first.seq)
    (second,) = await ledger.notifications_due(by=NOW + HOUR, limit=9)
    assert json.loads(second.body) == ["job-1", "expired", "expired", NOW + SECOND]
    assert (second.seq > first.seq, second.at) == (True, NOW + SECOND)


async def test_what_happens_while_telling_is_switched_off_is_told_to_nobody(ledger: Ledger) -> None:
    await ledger.start_notifications()
    await ledger.stop_notifications()
    await ledger.record(failure("meanwhile"))
    await ledger.start_notifications()
    assert await note(ledger) == 0


async def test_a_place_is_kept_over_a_restart(place: LedgerLocation, clock: Clock) -> None:
    for job_id in ("one", "two"):
        ledger = await Ledger.serve(place, now=clock, monotonic=clock)
        await ledger.start_notifications()
        await note(ledger)
        await ledger.record(failure(job_id))  # and then the process ends
        await ledger.close()
    ledger = await Ledger.serve(place, now=clock, monotonic=clock)
    await ledger.start_notifications()
    assert await note(ledger) == 1
    assert await due(ledger) == ["one", "two"]
    await ledger.close()


async def test_a_later_end_of_a_job_waits_for_the_earlier_one_and_other_jobs_do_not(ledger: Ledger) -> None:
    await ledger.start_notifications()
    await ledger.record(failure("a"))
    await note(ledger)
    await ledger.record(delivery("a", "https://host/2.png"))
    await ledger.rejected(await claimed(ledger), UrlError("url.source"))
    await ledger.record(failure("b"))
    await note(ledger)
    first, other = await ledger.notifications_due(by=NOW, limit=9)
    assert [first.job, other.job] == ["a", "b"]

    await ledger.notification_failed(first.seq, "Away.", at=NOW + SECOND)
    assert await due(ledger, NOW) == ["b"]
    assert await ledger.next_notification_at() == NOW
    assert await due(ledger, NOW + SECOND) == ["b", "a"]


async def test_what_is_given_up_is_kept_for_a_look_and_the_oldest_make_room(
    ledger: Ledger, clock: Clock, place: LedgerLocation
) -> None:
    await ledger.start_notifications()
    for number in range(3):
        await ledger.record(failure(f"job-{number}"))
        await note(ledger)
        clock.forward(SECOND)
    (first, *_) = await ledger.notifications_due(by=clock.now, limit=9)
    await ledger.notification_failed(first.seq, "The endpoint answers 500.", at=None)
    assert await ledger.give_up_old_notifications(before=NOW + 2 * SECOND) == 1
    kept = await given_up_notifications(ledger)
    assert [(row["job"], row["attempts"], row["detail"]) for row in kept] == [
        ("job-1", 0, None),
        ("job-0", 1, "The endpoint answers 500."),
    ]
    stats = await ledger.stats(overdue_before=0)
    assert stats.notifications_pending == 1
    assert stats.counters["notifications"] == {"failed": 1, "given_up": 2}

    with tables_of(place) as db:
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 100 + ?)"
            " INSERT INTO notifications (seq, job, at, body, next_attempt_at, given_up_at)"
            " SELECT i, 'x', 0, ?, 0, 0 FROM n",
            (notifications.KEPT, b""),
        )
    assert await ledger.give_up_old_notifications(before=NOW + HOUR) == 1
    assert len(await given_up_notifications(ledger)) == notifications.KEPT


# Places in the history


async def test_a_stretch_of_the_history_holds_the_moves_and_the_births(ledger: Ledger) -> None:
    await ledger.expect(Submission("job-1", "a ref"))
    await ledger.record(delivery())
    await ledger.record(delivery(url="https://host/2.png"))  # a line, and no move
    stretch = await ledger.transitions(after=0, limit=9)
    assert [(t.seq, t.id, t.ref, t.event.before, t.event.after) for t in stretch.transitions] == [
        (1, "job-1", "a ref", None, State.SUBMITTED),
        (2, "job-1", "a ref", State.SUBMITTED, State.RECEIVED),
    ]
    assert (stretch.until, stretch.more) == (3, False)
    begin = await ledger.transitions(after=0, limit=1)
    assert (len(begin.transitions), begin.until, begin.more) == (1, 1, True)


async def test_no_number_of_a_line_is_given_out_twice_whatever_is_removed(
    ledger: Ledger, place: LedgerLocation
) -> None:
    for number in range(3):
        await ledger.record(failure(f"job-{number}"))
    assert (await ledger.transitions(after=0, limit=1)).pruned == 0
    with tables_of(place) as db:
        db.execute("DELETE FROM history")
    assert (await ledger.last_history_seq(), (await ledger.transitions(after=0, limit=1)).pruned) == (3, 2)
    await ledger.record(failure("job-3"))
    assert await ledger.last_history_seq() == 4
    assert (await the_job(ledger, "job-3")).state is State.FAILED
