"""Intents, announced jobs, answers of the provider, and commits of other processes."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from receiver.core.errors import LedgerError
from receiver.core.jobs import State
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import Answer, DirectoryLock, Intent, Ledger, PendingJob, Submission
from receiver.ledger.types import Recorded
from tests.ledger.actions import brought_to, delivery, failure, history, only_sqlite, tables_of, the_job
from tests.support.clock import HOUR, NOW, SECOND, Clock

MINUTE = 60 * SECOND
INTENT = Intent("list:1", "mark-1", "order 7", "upscale_2x", "https://host/in.png")


async def pending_ids(ledger: Ledger, *, since: int = NOW + HOUR, by: int = NOW + HOUR) -> list[str]:
    return [job.id for job in await ledger.pending("ximilar", submitted_before=since, ask_by=by, limit=100)]


async def test_a_submitted_job_is_asked_for_once_it_is_overdue(ledger: Ledger, clock: Clock) -> None:
    await ledger.expect(Submission("job-1"))
    clock.forward(MINUTE)
    await ledger.expect(Submission("job-2"))
    assert await pending_ids(ledger, since=NOW) == []
    assert await pending_ids(ledger, since=NOW + 1) == ["job-1"]
    assert await pending_ids(ledger, since=NOW + HOUR) == ["job-1", "job-2"]
    assert await pending_ids(ledger, by=NOW - 1) == []


async def test_a_job_that_was_asked_for_waits_and_comes_last(ledger: Ledger, clock: Clock) -> None:
    for job in ("job-1", "job-2"):
        await ledger.expect(Submission(job))
    clock.forward(SECOND)
    assert await ledger.record_answer("job-1", Answer("PROCESSING"), ask_at=NOW + MINUTE)
    assert await pending_ids(ledger, by=NOW + SECOND) == ["job-2"]
    assert await pending_ids(ledger, by=NOW + MINUTE) == ["job-2", "job-1"]
    (first, _) = await ledger.pending("ximilar", submitted_before=NOW + HOUR, ask_by=NOW + MINUTE, limit=2)
    assert first == PendingJob("job-2", NOW, 0, NOW, unanswered=False)


async def test_whether_a_question_had_an_answer_is_known_of_a_silent_job(ledger: Ledger) -> None:
    await ledger.expect(Submission("job-1"))
    for answer, unanswered in (
        (Answer(reason="provider.unavailable", detail="500."), True),
        (Answer("PROCESSING"), False),
    ):
        await ledger.record_answer("job-1", answer, ask_at=NOW + MINUTE)
        (job,) = await ledger.pending("ximilar", submitted_before=NOW + HOUR, ask_by=NOW + MINUTE, limit=1)
        assert (job.ask_at, job.unanswered) == (NOW + MINUTE, unanswered)


async def test_the_same_answer_again_adds_no_line_to_the_history(ledger: Ledger) -> None:
    await ledger.expect(Submission("job-1"))
    away = Answer(reason="provider.unavailable", detail="Away.")
    for answer in [Answer("PROCESSING")] * 3 + [away] * 3 + [Answer("PROCESSING"), Answer("RETRY")]:
        await ledger.record_answer("job-1", answer, ask_at=NOW)
    lines = [(event.event, event.reason) for event in await history(ledger)]
    assert lines == [
        ("submitted", None),
        ("asked", None),
        ("asked", "provider.unavailable"),
        ("asked", None),
        ("asked", None),
    ]
    assert (await the_job(ledger)).problem is None
    assert (await ledger.stats(overdue_before=NOW)).counters == {"asked": {"": 5, "provider.unavailable": 3}}


async def test_a_forgotten_job_is_not_asked_for_and_its_completion_is_taken(ledger: Ledger) -> None:
    await ledger.expect(Submission("job-1"))
    with ledger.changes("job-1") as changed:
        assert (await ledger.forget("job-1")).state is State.FAILED
        assert changed.is_set()
    problem = (await the_job(ledger)).problem
    assert problem is not None
    assert problem.reason == "ledger.forgotten"
    assert await pending_ids(ledger) == []
    assert (await ledger.stats(overdue_before=NOW + HOUR)).overdue == 0
    for job, reason in (("job-1", "ledger.wrong_state"), ("job-2", "ledger.unknown_job")):
        with pytest.raises(LedgerError) as refusal:
            await ledger.forget(job)
        assert refusal.value.reason == reason
    await ledger.record(delivery("job-1"))
    assert [event.event for event in await history(ledger)] == ["submitted", "forgotten", "received"]
    assert (await the_job(ledger)).problem is None


async def test_what_the_list_says_of_jobs_puts_off_asking_for_each(ledger: Ledger) -> None:
    for job in ("job-1", "job-2"):
        await ledger.expect(Submission(job))
    await ledger.record_listed({"job-1": "PROCESSING", "unknown": "CREATED"}, ask_at=NOW + MINUTE)
    assert await pending_ids(ledger, by=NOW) == ["job-2"]


@pytest.mark.parametrize("state", [state for state in State if state is not State.SUBMITTED])
async def test_an_answer_that_came_too_late_changes_nothing(ledger: Ledger, state: State) -> None:
    await brought_to(ledger, state)
    before = await ledger.job_with_history("job-1")
    assert not await ledger.record_answer("job-1", Answer("PROCESSING"), ask_at=NOW)
    assert await ledger.job_with_history("job-1") == before
    assert await pending_ids(ledger) == []


async def test_a_completion_that_was_found_is_told_from_one_that_came(ledger: Ledger) -> None:
    await ledger.expect(Submission("job-1", "order 7"))
    found = replace(delivery(), found=True, endpoint="upscale_2x")
    assert await ledger.record(found) == Recorded(State.RECEIVED, duplicate=False)
    job = await the_job(ledger)
    assert (job.state, job.ref, job.endpoint) == (State.RECEIVED, "order 7", "upscale_2x")
    assert [event.event for event in await history(ledger)] == ["submitted", "found"]
    assert (await ledger.stats(overdue_before=NOW)).counters == {"found": {"": 1}}


async def test_a_found_failure_is_counted_by_its_reason(ledger: Ledger) -> None:
    await ledger.expect(Submission("job-1"))
    await ledger.record(replace(failure(), found=True))
    assert (await ledger.stats(overdue_before=NOW)).counters == {"found": {"provider.job_failed": 1}}


async def test_a_found_job_that_nobody_announced_is_adopted(ledger: Ledger) -> None:
    assert await ledger.record(replace(delivery(), found=True)) == Recorded(State.RECEIVED, duplicate=False)
    assert [event.event for event in await history(ledger)] == ["adopted"]
    assert (await ledger.stats(overdue_before=NOW)).counters == {"adopted": {"": 1}}


async def test_a_delivery_after_it_was_found_is_a_duplicate_and_late_once(
    ledger: Ledger, clock: Clock
) -> None:
    await ledger.expect(Submission("job-1"))
    await ledger.record(replace(delivery(), found=True))
    clock.forward(HOUR)
    for _ in range(3):
        assert await ledger.record(delivery()) == Recorded(State.RECEIVED, duplicate=True)
    late = [event for event in await history(ledger) if event.event == "late_delivery"]
    assert [(event.at, event.before, event.after) for event in late] == [
        (NOW + HOUR, State.RECEIVED, State.RECEIVED)
    ]
    assert (await ledger.stats(overdue_before=NOW)).counters["late"] == {"": 1}


async def test_what_was_found_and_has_come_already_changes_nothing(ledger: Ledger) -> None:
    await ledger.record(delivery())
    assert await ledger.record(replace(delivery(), found=True)) == Recorded(State.RECEIVED, duplicate=True)
    assert (await ledger.stats(overdue_before=NOW)).counters == {}


async def test_of_ids_the_ledger_knows_which_are_silent(ledger: Ledger) -> None:
    await ledger.expect(Submission("silent"))
    await ledger.record(delivery("heard"))
    known = await ledger.pending_among(["silent", "heard", "unknown"])
    silent = PendingJob("silent", NOW, 0, NOW, unanswered=False)
    assert known == {"silent": silent, "heard": None}


async def test_an_intent_is_kept_with_what_it_was_at_first(ledger: Ledger, clock: Clock) -> None:
    assert await ledger.record_intent(INTENT) == replace(INTENT, at=NOW)
    clock.forward(HOUR)
    assert await ledger.record_intent(replace(INTENT, mark="mark-2")) == replace(INTENT, at=NOW)
    assert await ledger.open_intents(before=NOW) == ()
    assert await ledger.open_intents(before=NOW + 1) == (replace(INTENT, at=NOW),)


async def test_an_intent_whose_job_is_known_is_a_submitted_job(ledger: Ledger) -> None:
    await ledger.record_intent(INTENT)
    assert await ledger.confirm_intent("list:1", "job-1")
    job = await the_job(ledger)
    assert (job.state, job.ref, job.endpoint, job.source_url, job.submitted_at) == (
        State.SUBMITTED,
        "order 7",
        "upscale_2x",
        "https://host/in.png",
        NOW,
    )
    assert await ledger.open_intents(before=NOW + 1) == ()
    assert (await ledger.record_intent(INTENT)).job == "job-1"


async def test_a_completion_that_was_faster_than_the_submits_answer_stands(ledger: Ledger) -> None:
    await ledger.record_intent(INTENT)
    await ledger.record(delivery())
    assert not await ledger.confirm_intent("list:1", "job-1")
    job = await the_job(ledger)
    assert (job.state, job.ref, job.endpoint) == (State.RECEIVED, "order 7", "upscale_2x")
    assert await pending_ids(ledger) == []


async def test_an_intent_that_was_refused_is_forgotten_and_one_that_was_taken_is_not(ledger: Ledger) -> None:
    await ledger.record_intent(INTENT)
    await ledger.withdraw_intent("list:1")
    assert await ledger.open_intents(before=NOW + 1) == ()
    await ledger.record_intent(INTENT)
    await ledger.confirm_intent("list:1", "job-1")
    await ledger.withdraw_intent("list:1")
    assert (await ledger.record_intent(INTENT)).job == "job-1"


# Two processes at the same file.


async def test_a_command_writes_beside_the_server_and_voids_no_claim(
    ledger: Ledger, place: LedgerLocation
) -> None:
    await ledger.record(delivery("claimed"))
    (claim,) = await ledger.claim_to_fetch(1, again=1, lease=HOUR)
    beside = await Ledger.open_beside(place, now=Clock(NOW))
    try:
        assert await beside.expect(Submission("announced"))
    finally:
        await beside.close()
    assert (await the_job(ledger, "announced")).state is State.SUBMITTED
    assert await ledger.release(claim)


async def test_what_another_process_writes_wakes_those_who_wait_for_it(
    ledger: Ledger, place: LedgerLocation
) -> None:
    await ledger.expect(Submission("job-1"))
    await ledger.expect(Submission("job-2"))
    await ledger.detect_foreign_commits()
    beside = await Ledger.open_beside(place, now=Clock(NOW))
    try:
        await beside.record(delivery())
    finally:
        await beside.close()
    with (
        ledger.changes("job-1") as changed,
        ledger.changes("job-2") as unchanged,
        ledger.changes() as anything,
    ):
        await ledger.detect_foreign_commits()
        assert (changed.is_set(), unchanged.is_set(), anything.is_set()) == (True, False, True)


@only_sqlite  # a needless wake does no harm
async def test_what_this_process_writes_is_not_taken_for_anothers(ledger: Ledger) -> None:
    await ledger.detect_foreign_commits()
    await ledger.expect(Submission("job-1"))
    with ledger.changes() as anything:
        await ledger.detect_foreign_commits()
        assert not anything.is_set()


async def test_a_command_makes_the_ledger_where_there_is_none(place: LedgerLocation) -> None:
    beside = await Ledger.open_beside(place, now=Clock(NOW))
    try:
        await beside.expect(Submission("job-1"))
    finally:
        await beside.close()
    for file in place.data_dir.glob("ledger.sqlite3"):
        assert file.stat().st_mode & 0o777 == 0o600
    later = await Ledger.serve(place, now=Clock(NOW))
    try:
        assert (await the_job(later)).state is State.SUBMITTED
    finally:
        await later.close()


async def test_a_command_leaves_an_older_ledger_alone_that_a_server_holds(tmp_path: Path) -> None:
    place = LedgerLocation(tmp_path)
    lock = DirectoryLock(tmp_path)
    try:
        with pytest.raises(LedgerError) as refusal:
            await Ledger.open_beside(place)
        assert refusal.value.reason == "ledger.in_use"
    finally:
        lock.release()
    with tables_of(place) as db:
        assert db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0


async def test_two_processes_that_write_at_once_lose_nothing(ledger: Ledger, place: LedgerLocation) -> None:
    beside = await Ledger.open_beside(place, now=Clock(NOW))
    try:
        await asyncio.gather(
            *(ledger.expect(Submission(f"served-{n}")) for n in range(200)),
            *(beside.expect(Submission(f"beside-{n}")) for n in range(200)),
        )
    finally:
        await beside.close()
    assert (await ledger.stats(overdue_before=NOW)).jobs[State.SUBMITTED] == 400
