"""Retention: old records are removed in small transactions; what is still needed stays."""

import asyncio
from datetime import timedelta

from receiver.core.concurrency import cancel
from receiver.core.errors import BodyError
from receiver.core.jobs import State
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import Intent, Ledger, Submission
from receiver.operations.retention import WINDOW, count_prunable, keep_pruning, prune
from receiver.providers.base import TICKET_LIFETIME
from tests.ledger.actions import STORED, brought_to, delivery, history, tables_of, the_job
from tests.support.clock import HOUR, NOW, Clock

DAY = 24 * HOUR
KEEP = timedelta(days=90)


async def at_once(_: float) -> None:
    """No pause."""


def rows(folder: LedgerLocation, table: str) -> int:
    with tables_of(folder) as db:
        (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(count)


async def test_old_archived_jobs_keep_their_row_and_lose_history_and_body(
    ledger: Ledger, clock: Clock, place: LedgerLocation
) -> None:
    await brought_to(ledger, State.ARCHIVED)
    job = await the_job(ledger)
    for state in State:
        if state is not State.ARCHIVED:
            await brought_to(ledger, state, state.value)
            if state is State.RECEIVED:
                await ledger.claim_to_fetch(9, again=9, lease=DAY)
            await ledger.claim_to_archive(9, lease=DAY)
    others = {state: await history(ledger, state.value) for state in State if state is not State.ARCHIVED}
    clock.forward(91 * DAY)
    await brought_to(ledger, State.ARCHIVED, "young")
    expected = await count_prunable(ledger, KEEP, clock())
    assert (expected["history"], expected["bodies"]) == (3, 1)
    assert rows(place, "bodies") == 7  # of the submitted one there is none

    assert await prune(ledger, KEEP, sleep=at_once) == {key: n for key, n in expected.items() if n}

    assert await the_job(ledger) == job
    assert await history(ledger) == ()
    assert len(await history(ledger, "young")) == 3
    assert {state: await history(ledger, state.value) for state in others} == others
    assert rows(place, "bodies") == 6
    assert sum((await prune(ledger, KEEP, sleep=at_once)).values()) == 0
    assert (await ledger.record(delivery())).duplicate  # whose body would be read, if it were not known


async def test_no_number_of_the_history_is_ever_given_out_again(clock: Clock, place: LedgerLocation) -> None:
    seen: set[int] = set()
    for life in range(3):
        ledger = await Ledger.serve(place, now=clock)
        await brought_to(ledger, State.ARCHIVED, f"job-{life}")
        with tables_of(place) as db:
            new = {row["seq"] for row in db.execute("SELECT seq FROM history")} - seen
            last = max(new)
        assert len(new) == 3
        assert not seen or min(new) > max(seen)
        seen |= new
        clock.forward(91 * DAY)
        await prune(ledger, KEEP, sleep=at_once)
        with tables_of(place) as db:  # all is old, and the last line stays all the same
            assert [row["seq"] for row in db.execute("SELECT seq FROM history")] == [last]
        await ledger.close()


async def test_the_last_line_goes_when_it_is_the_last_no_more(ledger: Ledger, clock: Clock) -> None:
    await brought_to(ledger, State.ARCHIVED)
    clock.forward(91 * DAY)
    await prune(ledger, KEEP, sleep=at_once)
    assert len(await history(ledger)) == 1
    await ledger.expect(Submission("next"))
    assert await prune(ledger, KEEP, sleep=at_once) == {"history": 1, "bodies": 0}
    assert await history(ledger) == ()


async def test_a_job_that_was_archived_lately_keeps_all_of_its_history(ledger: Ledger, clock: Clock) -> None:
    await brought_to(ledger, State.FETCHED)
    clock.forward(91 * DAY)
    (claim,) = await ledger.claim_to_archive(1, lease=DAY)
    await ledger.archived(claim, STORED)
    await ledger.expect(Submission("next"))
    assert sum((await prune(ledger, KEEP, sleep=at_once)).values()) == 0
    assert len(await history(ledger)) == 3


async def test_old_deliveries_that_could_not_be_read_go_and_their_numbers_are_not_given_again(
    ledger: Ledger, clock: Clock
) -> None:
    for _ in range(3):
        await ledger.record_unread(BodyError("body.not_json"), b"{")
    clock.forward(91 * DAY)
    assert await prune(ledger, KEEP, sleep=at_once) == {"unread": 2}
    (left,) = (await ledger.unread_deliveries()).deliveries
    await ledger.record_unread(BodyError("body.not_json"), b"{")
    assert [unread.seq for unread in (await ledger.unread_deliveries()).deliveries] == [
        left.seq + 1,
        left.seq,
    ]


async def test_tickets_go_when_their_life_is_over_however_long_history_is_kept(
    ledger: Ledger, clock: Clock, place: LedgerLocation
) -> None:
    await ledger.record(delivery("a", ticket="first"))
    clock.forward(int(TICKET_LIFETIME.total_seconds() * 1000))
    await ledger.record(delivery("b", ticket="second"))
    assert sum((await prune(ledger, KEEP, sleep=at_once)).values()) == 0  # clocks may differ by a day
    clock.forward(DAY + 1)
    assert await prune(ledger, KEEP, sleep=at_once) == {"tickets": 1}
    assert rows(place, "tickets") == 1


async def test_submissions_go_when_they_are_old_and_their_job_is_known(
    ledger: Ledger, clock: Clock, place: LedgerLocation
) -> None:
    for key in ("known", "open"):
        await ledger.record_intent(Intent(key, f"mark of {key}"))
    await ledger.confirm_intent("known", "job-1")
    clock.forward(91 * DAY)
    await ledger.record_intent(Intent("young", "mark"))
    assert await prune(ledger, KEEP, sleep=at_once) == {"submissions": 1}
    assert [intent.key for intent in await ledger.open_intents(before=clock())] == ["open"]


async def test_notifications_that_were_given_up_go_and_those_to_be_sent_stay(
    ledger: Ledger, clock: Clock, place: LedgerLocation
) -> None:
    await ledger.start_notifications()
    for job_id in ("taken", "given up", "waiting"):
        await brought_to(ledger, State.FAILED, job_id)
    await ledger.enqueue_notifications(
        until=await ledger.last_history_seq(), render=lambda job, _: job.id.encode()
    )
    due = {one.job: one.seq for one in await ledger.notifications_due(by=clock(), limit=9)}
    await ledger.notification_sent(due["taken"])
    await ledger.notification_failed(due["given up"], "Nobody is there.", at=None)
    clock.forward(91 * DAY)
    assert await prune(ledger, KEEP, sleep=at_once) == {"notifications": 1, "failed_by_day": 1}
    assert [one.job for one in await ledger.notifications_due(by=clock(), limit=9)] == ["waiting"]


async def test_counts_go_when_the_page_shows_them_no_more_however_long_history_is_kept(
    ledger: Ledger, clock: Clock, place: LedgerLocation
) -> None:
    for day in range(12):
        await brought_to(ledger, State.ARCHIVED, f"archived-{day}")
        await brought_to(ledger, State.FAILED, f"failed-{day}")
        clock.forward(DAY)
    shown = await ledger.week(clock())
    assert (rows(place, "archived_by_hour"), rows(place, "failed_by_day")) == (12, 12)
    expected = await count_prunable(ledger, KEEP, clock())

    removed = await prune(ledger, KEEP, sleep=at_once)

    assert removed == {"archived_by_hour": 5, "failed_by_day": 5}  # hours and days begin earlier
    assert removed == {table: number for table, number in expected.items() if number}
    assert (rows(place, "archived_by_hour"), rows(place, "failed_by_day")) == (7, 7)
    assert await ledger.week(clock()) == shown
    assert shown.days[max(shown.days) - DAY][0] == 1


async def test_who_follows_the_history_learns_of_what_was_removed(ledger: Ledger, clock: Clock) -> None:
    await brought_to(ledger, State.ARCHIVED)
    last = await ledger.last_history_seq()
    clock.forward(91 * DAY)
    await brought_to(ledger, State.ARCHIVED, "young")
    await prune(ledger, KEEP, sleep=at_once)
    assert (await ledger.transitions(after=0, limit=1)).pruned == last
    moves = await ledger.transitions(after=last, limit=99)
    assert [move.id for move in moves.transitions] == ["young"] * 3


async def test_a_long_history_goes_in_small_pieces_with_pauses_between_them(
    ledger: Ledger, clock: Clock, place: LedgerLocation
) -> None:
    count = 3 * WINDOW
    with tables_of(place) as db:
        db.execute("BEGIN")
        db.executemany(
            "INSERT INTO jobs (id, state, event, created_at, archived_at, updated_at) VALUES (?, 'archived',"
            " 'archived', ?, ?, ?)",
            [(f"job-{number}", NOW, NOW, NOW) for number in range(count)],
        )
        db.execute("COMMIT")
    clock.forward(91 * DAY)
    pauses = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await ledger.record(delivery(f"meanwhile-{len(pauses)}"))  # which waits for no more than one piece

    told: list[int] = []
    gone = await prune(ledger, KEEP, lambda rows: told.append(rows["history"]), pause)
    assert gone["history"] in (count, count - 1)
    assert len(pauses) >= 3
    assert max(b - a for a, b in zip([0, *told], told, strict=False)) <= WINDOW
    assert rows(place, "jobs") == count + len(pauses)


async def test_the_server_prunes_by_itself_and_is_stopped_at_once(ledger: Ledger, clock: Clock) -> None:
    await brought_to(ledger, State.ARCHIVED)
    await ledger.expect(Submission("next"))
    clock.forward(91 * DAY)
    ended = asyncio.Event()

    async def sleep(seconds: float) -> None:
        if seconds > 60:
            ended.set()
            await asyncio.Event().wait()

    pruning = asyncio.create_task(keep_pruning(ledger, KEEP, sleep))
    await asyncio.wait_for(ended.wait(), 30)
    assert await history(ledger) == ()
    await asyncio.wait_for(cancel([pruning]), 30)
