"""Deliveries: what they change, and what they do not."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from receiver.core.completion import Completion
from receiver.core.errors import AuthError, BodyError, LedgerError
from receiver.core.jobs import Event, State
from receiver.core.ledger_location import LedgerLocation
from receiver.ledger import Delivery, Filter, Intent, Ledger, Submission
from receiver.ledger.commands.deliveries import OTHERS_KEPT
from receiver.ledger.connection import MAX_ROWS
from receiver.ledger.types import Recorded
from tests.ledger.actions import (
    IMAGE,
    TIMEOUT,
    brought_to,
    claimed,
    delivery,
    failure,
    history,
    long_host,
    tables_of,
    the_job,
)
from tests.support.clock import HOUR, NOW, SECOND, Clock


def words(events: Iterable[Event]) -> list[str]:
    return [event.event for event in events]


async def test_a_completion_is_recorded_with_all_that_it_says(ledger: Ledger) -> None:
    recorded = await ledger.record(delivery(ref="order 7", deadline=NOW + 5))
    assert recorded == Recorded(State.RECEIVED, duplicate=False)
    job = await the_job(ledger)
    assert (job.id, job.state, job.ref, job.deadline) == ("job-1", State.RECEIVED, "order 7", NOW + 5)
    assert (job.image_url, job.source_url) == ("https://host/1.png", "https://host/in.png")
    assert (job.promised_width, job.promised_height) == (424, 348)
    assert (job.received_at, job.updated_at, job.submitted_at) == (NOW, NOW, None)
    assert (job.problem, job.image, job.attempts, job.next_attempt_at) == (None, None, 0, None)


async def test_a_delivery_that_comes_again_is_known_and_changes_nothing(
    ledger: Ledger, clock: Clock, place: LedgerLocation
) -> None:
    await ledger.record(delivery(ref="first", body=b"first"))
    before = await ledger.job_with_history("job-1")
    clock.forward(HOUR)
    again = delivery(ref="second", deadline=NOW + 99 * HOUR, body=b"second")
    assert await ledger.record(again) == Recorded(State.RECEIVED, duplicate=True)
    assert await ledger.job_with_history("job-1") == before
    with tables_of(place) as db:
        assert [row["body"] for row in db.execute("SELECT body FROM bodies")] == [b"first"]


async def test_a_completion_that_the_file_does_not_take_costs_no_other_of_its_batch(ledger: Ledger) -> None:
    # No delivery can bring one; but a statement that fails ends the transaction of all that came with it.
    wrong = delivery("wrong", deadline="tomorrow")  # type: ignore[arg-type]
    others = [delivery(f"job-{number}") for number in range(4)]
    found = await asyncio.gather(
        *map(ledger.record, [*others[:2], wrong, *others[2:]]), return_exceptions=True
    )
    assert isinstance(found[2], LedgerError)
    for number in range(4):
        assert words(await history(ledger, f"job-{number}")) == ["received"]
    assert await ledger.job("wrong") is None


async def test_deliveries_of_one_batch_are_recorded_as_if_each_came_alone(
    new_place: Callable[[], LedgerLocation],
) -> None:
    def reported(job: str, **more: Any) -> Delivery:
        return replace(delivery(job, f"https://host/{job}.png", body=job.encode()), **more)

    new = [reported(f"job-{number}", ref=f"ref-{number}") for number in range(MAX_ROWS + 39)]
    odd = [
        failure("failed"),
        reported("known"),
        reported("silent"),
        reported("ticketed", ticket="ticket-1"),
        reported("thief", ticket="ticket-1"),
        reported("found", found=True),
        reported("marked", mark="mark"),
        reported("dropped", ref_dropped=True),
        delivery("job-3", "https://host/other.png"),
        reported("job-5"),
        reported("failed"),
    ]
    came = [*new[:20], *odd[:6], *new[20:50], *odd[6:], *new[50:]]

    async def told(
        folder: LedgerLocation, *, together: bool
    ) -> tuple[list[object], list[tuple[object, ...]]]:
        ledger = await Ledger.serve(folder, now=Clock(), monotonic=Clock())
        await ledger.record(reported("known"))
        await ledger.expect(Submission("silent"))
        await ledger.record_intent(Intent("key", "mark", "ref", None, None))
        if together:
            answers = await asyncio.gather(*map(ledger.record, came), return_exceptions=True)
        else:
            answers = [(await asyncio.gather(ledger.record(one), return_exceptions=True))[0] for one in came]
        await ledger.close()
        with tables_of(folder) as db:
            rows = db.execute(
                "SELECT id, state, ref, image_url, source_url, deadline, promised_width, reason, received_at,"
                " submitted_at, found_at, body FROM jobs LEFT JOIN bodies ON job = seq ORDER BY id"
            ).fetchall()
            rows += db.execute(
                "SELECT id, history.event, history.detail FROM jobs JOIN history ON job = jobs.seq"
                " ORDER BY id, history.seq"
            ).fetchall()
            return [repr(answer) for answer in answers], [tuple(row) for row in rows]

    together = await told(new_place(), together=True)
    assert together == await told(new_place(), together=False)
    jobs = {row[0] for row in together[1]}
    assert len(jobs) == len(new) + len(odd) - 4  # of these, three are known, and one is refused


async def test_of_a_hundred_deliveries_at_once_exactly_one_is_new(ledger: Ledger) -> None:
    recorded = await asyncio.gather(*(ledger.record(delivery()) for _ in range(100)))
    assert sorted(one.duplicate for one in recorded) == [False] + [True] * 99
    assert {one.state for one in recorded} == {State.RECEIVED}
    assert words(await history(ledger)) == ["received"]


@pytest.mark.parametrize("state", [State.RECEIVED, State.FETCHED, State.ARCHIVED])
async def test_another_url_changes_nothing_and_is_kept_once_in_the_history(
    ledger: Ledger, state: State
) -> None:
    await brought_to(ledger, state)
    job = await the_job(ledger)
    for url in ("https://evil/2.png", "https://evil/2.png", "https://evil/3.png"):
        assert await ledger.record(delivery(url=url)) == Recorded(state, duplicate=True)
    assert await the_job(ledger) == job
    others = [event for event in await history(ledger) if event.event == "other_url"]
    assert [(event.before, event.after, event.reason) for event in others] == [
        (state, state, "ledger.other_url")
    ] * 2
    assert [event.detail for event in others] == ["https://evil/2.png", "https://evil/3.png"]


async def test_no_more_other_urls_are_kept_than_a_few_and_that_there_were_more_is_noted_once(
    ledger: Ledger, clock: Clock
) -> None:
    await brought_to(ledger, State.ARCHIVED)
    before = await history(ledger)
    for number in range(50):
        clock.forward(SECOND)
        url = f"https://evil/{number}.png"
        assert await ledger.record(delivery(url=url)) == Recorded(State.ARCHIVED, duplicate=True)
    kept = [f"https://evil/{number}.png" for number in range(OTHERS_KEPT)]
    for url in kept:  # known by now, however often they come
        assert (await ledger.record(delivery(url=url))).events == ()
    assert (await ledger.record(delivery(url="https://evil/more.png"))).events == ("other_urls",)

    after = await history(ledger)
    assert after[: len(before)] == before
    *others, rest = after[len(before) :]
    assert [event.detail for event in others] == kept
    assert (rest.event, rest.reason, rest.at) == ("other_urls", "ledger.other_url", others[-1].at + SECOND)
    assert (rest.before, rest.after) == (State.ARCHIVED, State.ARCHIVED)
    assert rest.detail == "Later deliveries named further URLs, which are not kept."
    assert await ledger.record(delivery()) == Recorded(State.ARCHIVED, duplicate=True)
    assert await history(ledger) == after


async def test_a_failure_is_recorded_with_the_providers_words(ledger: Ledger) -> None:
    assert await ledger.record(failure()) == Recorded(State.FAILED, duplicate=False)
    assert await ledger.record(failure()) == Recorded(State.FAILED, duplicate=True)
    job = await the_job(ledger)
    assert job.problem is not None
    assert (job.problem.reason, job.problem.detail) == ("provider.job_failed", "FAILED: no GPU")
    assert (job.image_url, job.deadline) == (None, None)


async def test_a_good_completion_without_a_url_counts_after_a_failure_that_was_only_reported(
    ledger: Ledger,
) -> None:
    """Such as one of fal without a payload: the provider is to be asked for it."""
    without = replace(delivery(), completion=Completion("job-1", None))
    await ledger.expect(Submission("job-1"))
    await ledger.forget("job-1")
    assert await ledger.record(without) == Recorded(State.RECEIVED, duplicate=False)
    claim = await claimed(ledger)
    assert await ledger.rejected(claim, TIMEOUT)
    assert await ledger.record(without) == Recorded(State.REJECTED, duplicate=True)

    await ledger.record(failure("job-2"))
    again = replace(without, completion=Completion("job-2", None))
    assert await ledger.record(again) == Recorded(State.RECEIVED, duplicate=False)
    assert await ledger.record(failure("job-2")) == Recorded(State.RECEIVED, duplicate=True)

    await ledger.record(replace(failure("job-3"), found=True))  # the provider's own answer
    once_more = replace(without, completion=Completion("job-3", None))
    assert await ledger.record(once_more) == Recorded(State.FAILED, duplicate=True)


async def test_a_good_completion_after_a_failure_is_received(ledger: Ledger) -> None:
    await ledger.record(failure())
    assert await ledger.record(delivery()) == Recorded(State.RECEIVED, duplicate=False)
    assert (await the_job(ledger)).problem is None
    assert words(await history(ledger)) == ["failed", "received"]


@pytest.mark.parametrize("state", [State.REJECTED, State.EXPIRED])
async def test_a_fresh_url_brings_a_final_job_back_and_the_old_one_does_not(
    ledger: Ledger, state: State
) -> None:
    await brought_to(ledger, state)
    assert await ledger.record(delivery()) == Recorded(state, duplicate=True)
    fresh = delivery(url="https://host/fresh.png", deadline=NOW + HOUR)
    assert await ledger.record(fresh) == Recorded(State.RECEIVED, duplicate=False)
    job = await the_job(ledger)
    assert (job.image_url, job.deadline, job.attempts) == ("https://host/fresh.png", NOW + HOUR, 0)
    assert (job.problem, job.suspect, job.next_attempt_at) == (None, None, None)
    assert len(await ledger.claim_to_fetch(9, again=9, lease=1)) == 1


@pytest.mark.parametrize("state", [s for s in State if s not in (State.SUBMITTED, State.FAILED)])
async def test_a_failure_after_a_completion_changes_nothing(ledger: Ledger, state: State) -> None:
    await brought_to(ledger, state)
    before = await ledger.job_with_history("job-1")
    assert await ledger.record(failure()) == Recorded(state, duplicate=True)
    assert await ledger.job_with_history("job-1") == before


async def test_a_submitted_job_is_expected_once_and_then_completed(ledger: Ledger, clock: Clock) -> None:
    said = Submission("job-1", "order 7", "upscale_2x", "https://host/in.png")
    assert await ledger.expect(said) is True
    clock.forward(HOUR)
    assert await ledger.expect(said) is False
    assert (await the_job(ledger)).state is State.SUBMITTED
    recorded = await ledger.record(delivery(source=None, ref="another"))
    assert recorded == Recorded(State.RECEIVED, duplicate=False)
    job = await the_job(ledger)
    assert (job.ref, job.endpoint, job.source_url) == ("order 7", "upscale_2x", "https://host/in.png")
    assert (job.submitted_at, job.received_at) == (NOW, NOW + HOUR)


async def test_a_submission_that_is_noted_after_its_completion_adds_what_was_not_known(
    ledger: Ledger,
) -> None:
    await ledger.record(delivery(source=None))
    assert await ledger.expect(Submission("job-1", "order 7", "upscale_4x", "https://host/in.png")) is False
    job = await the_job(ledger)
    assert (job.state, job.ref, job.endpoint) == (State.RECEIVED, "order 7", "upscale_4x")
    assert (job.source_url, job.submitted_at) == ("https://host/in.png", NOW)


async def test_a_failure_keeps_what_the_submission_said(ledger: Ledger) -> None:
    await ledger.expect(Submission("job-1", source_url="https://host/in.png"))
    await ledger.record(failure())
    job = await the_job(ledger)
    assert (job.state, job.source_url) == (State.FAILED, "https://host/in.png")


async def test_a_fresh_url_voids_the_claim_on_what_was_there_before(ledger: Ledger) -> None:
    await ledger.expect(Submission("job-1"))
    await ledger.record(delivery())
    claim = await claimed(ledger)
    assert await ledger.rejected(claim, TIMEOUT)
    await ledger.record(delivery(url="https://host/fresh.png"))
    assert not await ledger.fetched(claim, IMAGE, "spool")
    assert (await the_job(ledger)).state is State.RECEIVED


async def test_a_ticket_belongs_to_the_first_job_that_used_it(ledger: Ledger) -> None:
    await ledger.record(delivery("job-1", ticket="number"))
    assert (await ledger.record(delivery("job-1", ticket="number"))).duplicate
    with pytest.raises(AuthError) as caught:
        await ledger.record(delivery("job-2", ticket="number"))
    assert caught.value.reason == "auth.refused"
    assert await ledger.job("job-2") is None


async def test_of_many_jobs_that_race_for_a_ticket_one_gets_it(ledger: Ledger) -> None:
    deliveries = (delivery(f"job-{number}", ticket="number") for number in range(20))
    outcomes = await asyncio.gather(*map(ledger.record, deliveries), return_exceptions=True)
    assert sum(isinstance(outcome, Recorded) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, AuthError) for outcome in outcomes) == 19


async def test_what_is_no_completion_is_kept_raw_and_listed_newest_first(ledger: Ledger) -> None:
    bodies = [b"\xff\x00", b"{}", b"[]"]
    await ledger.record_unread(BodyError("body.not_json", "No."), bodies[0])
    for body in bodies[1:]:
        await ledger.record_unread(BodyError("body.not_a_completion", "No id."), body)
    found = await ledger.unread_deliveries()
    assert found.next is None
    assert [(one.body, one.detail, one.at) for one in found.deliveries] == [
        (b"[]", "No id.", NOW),
        (b"{}", "No id.", NOW),
        (b"\xff\x00", "No.", NOW),
    ]
    of_one_kind = await ledger.unread_deliveries("body.not_a_completion")
    assert [one.body for one in of_one_kind.deliveries] == [b"[]", b"{}"]
    first = await ledger.unread_deliveries(limit=1)
    assert [one.body for one in first.deliveries] == [b"[]"]
    rest = await ledger.unread_deliveries(before=first.next)
    assert [one.body for one in rest.deliveries] == [b"{}", b"\xff\x00"]
    assert (await ledger.stats(overdue_before=0)).unread == 3


async def test_a_page_of_large_bodies_is_short_and_goes_on_where_it_ends(ledger: Ledger) -> None:
    for number in range(5):
        await ledger.record_unread(BodyError("body.not_json"), bytes([number]) * (3 * 2**20))
    seen, before = [], None
    while True:
        page = await ledger.unread_deliveries(before=before, limit=100)
        assert len(page.deliveries) == 1
        seen += [one.body[0] for one in page.deliveries]
        before = page.next
        if before is None:
            break
    assert seen == [4, 3, 2, 1, 0]


async def test_a_url_whose_host_no_index_holds_is_recorded_and_found(ledger: Ledger) -> None:
    host = long_host()
    bad = delivery("bad", f"https://{host}/1.png", source=f"https://{host.upper()}?in.png")
    assert not (await ledger.record(bad)).duplicate
    assert await ledger.expect(Submission("said", source_url=f"https://{host[1:]}")) is True
    await ledger.record(delivery("said", source=f"https://{host[2:]}/in.png"))
    for begin, found in ((host[:253], ["bad"]), (host[2:255], ["said"])):
        assert [job.id for job in (await ledger.jobs(Filter(search=begin))).jobs] == found
