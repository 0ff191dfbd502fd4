"""Asking the provider about silent jobs: a real ledger, a desk in its place, and clocks that are set."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest

from receiver.config import load
from receiver.core.errors import UnavailableError
from receiver.core.jobs import State
from receiver.core.ledger_location import LedgerLocation
from receiver.core.rate_limit import RateLimiter
from receiver.ledger import Intent, Ledger, Submission
from receiver.providers.base import Asked, Calls, Setup
from receiver.providers.fal.provider import build
from receiver.reconcile.listing import Plan
from receiver.reconcile.reconciler import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    PAGES_PER_ROUND,
    Reconciler,
    Summary,
)
from tests.ledger.actions import delivery, history, tables_of, the_job
from tests.providers.samples.fal import KEY, jwks
from tests.support.clock import HOUR, NOW, SECOND, Clock
from tests.support.desk import Desk
from tests.support.providers import NAME, asked

MINUTE = 60 * SECOND
OVERDUE = 10 * MINUTE
PLAN = Plan(
    overdue_after=timedelta(milliseconds=OVERDUE),
    every=timedelta(minutes=1),
    adopt=False,
)
ADOPTING = Plan(PLAN.overdue_after, PLAN.every, adopt=True)


class Asking:
    """A reconciler and all that it speaks to.

    Attributes:
        waits: the seconds for which it wanted to sleep.
    """

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger = ledger
        self.clock = clock
        self.desk = Desk()
        self.waits: list[float] = []
        self.provider = self.desk.client()
        self.plan = PLAN
        self._made: Reconciler | None = None

    @property
    def reconciler(self) -> Reconciler:
        if self._made is None:
            self._made = Reconciler(
                ledger=self.ledger,
                asked=asked(self.provider),
                plan=self.plan,
                settle=self.settled,
                now=self.clock,
            )
        return self._made

    async def settled(self) -> int:
        return 0

    async def round(self, pages: int = PAGES_PER_ROUND) -> Summary:
        """One look as the server makes it, with so many pages of the list."""
        now = self.clock()
        return await self.reconciler.round(submitted_before=now - OVERDUE, ask_by=now, pages=pages)

    async def expect(self, *ids: str) -> None:
        for job_id in ids:
            await self.ledger.expect(Submission(job_id))

    async def minutes_until_received(self, job_id: str) -> float:
        """Lets the server's rounds run until this job is found, for a day at most."""
        began, ended = self.clock(), asyncio.Event()

        async def sleep(seconds: float) -> None:
            self.clock.forward(max(int(seconds * 1000), 1))
            job = await self.ledger.job(job_id)
            if (job is not None and job.state is State.RECEIVED) or self.clock() > began + 24 * HOUR:
                ended.set()
                await asyncio.Event().wait()

        self._made = Reconciler(
            ledger=self.ledger,
            asked=asked(self.provider),
            plan=self.plan,
            settle=self.settled,
            now=self.clock,
            sleep=sleep,
        )
        self.reconciler.start()
        await ended.wait()
        await self.reconciler.stop()
        return (self.clock() - began) / MINUTE


@pytest.fixture
async def asking(ledger: Ledger, clock: Clock) -> AsyncIterator[Asking]:
    it = Asking(ledger, clock)
    async with it.provider:
        yield it


async def test_a_job_that_is_not_overdue_is_left_alone(asking: Asking) -> None:
    await asking.expect("job-1")
    asking.clock.forward(OVERDUE)
    assert await asking.round() == Summary()
    assert asking.desk.calls() == []


async def test_a_completion_that_never_came_is_found(asking: Asking) -> None:
    await asking.expect("job-1")
    asking.desk.put("job-1", "DONE", NOW, modified=NOW + MINUTE)
    asking.clock.forward(OVERDUE + 1)
    assert await asking.round() == Summary(asked=1, found=1)
    job = await the_job(asking.ledger)
    assert (job.state, job.image_url, job.ref, job.endpoint) == (
        State.RECEIVED,
        "https://host/job-1.png",
        "ref of job-1",
        "upscale_2x",
    )
    assert job.deadline == NOW + MINUTE + 24 * HOUR, "a URL lives from the job's end, not from our question"
    assert [event.event for event in await history(asking.ledger)] == ["submitted", "found"]
    assert await asking.round() == Summary()


async def test_what_it_keeps_of_an_answer_holds_none_of_our_headers(
    asking: Asking, place: LedgerLocation
) -> None:
    await asking.expect("job-1")
    asking.desk.put("job-1", "DONE", NOW)
    asking.clock.forward(OVERDUE + 1)
    await asking.round()
    with tables_of(place) as db:
        (body,) = db.execute("SELECT body FROM bodies").fetchone()
    assert b"secret" not in body
    assert b"_upscaled_image_url" in body


@pytest.mark.parametrize("status", ["FAILED", "API_LIMIT_EXCEEDED", "NOT_SUPPORTED"])
async def test_a_final_failure_ends_the_job(asking: Asking, status: str) -> None:
    await asking.expect("job-1")
    asking.desk.put("job-1", status, NOW)
    asking.clock.forward(OVERDUE + 1)
    assert await asking.round() == Summary(asked=1, found=1, failed=1)
    job = await the_job(asking.ledger)
    assert (job.state, job.problem and job.problem.reason) == (State.FAILED, "provider.job_failed")


@pytest.mark.parametrize("status", ["CREATED", "PROCESSING", "RETRY", "A_WORD_OF_TOMORROW"])
async def test_a_job_that_has_not_ended_is_asked_about_again_and_no_more_than_each_minute(
    asking: Asking, status: str
) -> None:
    await asking.expect("job-1")
    asking.desk.put("job-1", status, NOW)
    asking.clock.forward(OVERDUE + 1)
    assert await asking.round() == Summary(asked=1, running=1)
    assert [(e.event, e.detail) for e in await history(asking.ledger)][1:] == [
        ("asked", f"The provider says {status}.")
    ]
    asking.clock.forward(MINUTE - 1)
    assert await asking.round() == Summary()
    asking.clock.forward(1)
    assert (await asking.round()).asked == 1
    assert len(await history(asking.ledger)) == 2, "the same answer is no news"


async def test_the_older_a_silent_job_is_the_more_rarely_it_is_asked_about(asking: Asking) -> None:
    await asking.expect("job-1")
    asking.desk.put("job-1", "PROCESSING", NOW)
    rounds = 0
    while asking.clock() < NOW + 24 * HOUR:
        asking.clock.forward(MINUTE)
        rounds += (await asking.round()).asked
    assert 40 < rounds < 100


async def test_a_job_that_the_provider_does_not_know_is_given_up_when_no_image_could_live(
    asking: Asking,
) -> None:
    await asking.expect("job-1")
    asking.clock.forward(OVERDUE + 1)
    assert (await asking.round()).unanswered == 1
    job = await the_job(asking.ledger)
    assert (job.state, job.problem and job.problem.reason) == (State.SUBMITTED, "provider.unknown_job")
    asking.clock.forward(24 * HOUR)
    assert (await asking.round()).failed == 1
    job = await the_job(asking.ledger)
    assert (job.state, job.problem and job.problem.reason) == (State.FAILED, "provider.unknown_job")
    await asking.ledger.record(delivery())
    assert (await the_job(asking.ledger)).state is State.RECEIVED, "a completion still counts"


async def test_a_webhook_that_comes_while_it_is_asked_is_no_missed_one(asking: Asking) -> None:
    await asking.expect("job-1")
    asking.desk.put("job-1", "DONE", NOW)
    asking.clock.forward(OVERDUE + 1)
    due = await asking.ledger.pending(NAME, submitted_before=asking.clock(), ask_by=asking.clock(), limit=9)
    await asking.ledger.record(delivery())
    assert len(due) == 1
    assert await asking.round() == Summary()
    assert (await asking.ledger.stats(overdue_before=NOW)).counters == {}


async def test_late_deliveries_of_found_jobs_are_duplicates(asking: Asking) -> None:
    await asking.expect("job-1")
    asking.desk.put("job-1", "DONE", NOW)
    asking.clock.forward(OVERDUE + 1)
    await asking.round()
    assert (await asking.ledger.record(delivery(url="https://host/job-1.png"))).duplicate
    counters = (await asking.ledger.stats(overdue_before=NOW)).counters
    assert counters == {"found": {"": 1}, "late": {"": 1}}


# The list.


async def test_many_silent_jobs_are_looked_for_in_the_list_and_only_ended_ones_asked_about(
    asking: Asking,
) -> None:
    ids = [f"job-{number}" for number in range(8)]
    await asking.expect(*ids)
    for number, job_id in enumerate(ids):
        asking.desk.put(job_id, "DONE" if number in (2, 5) else "PROCESSING", NOW + number)
    asking.clock.forward(OVERDUE + 1)
    assert await asking.round() == Summary(asked=2, found=2, running=6)
    assert asking.desk.calls() == ["list", "list", "list", "job-2", "job-5"]
    assert await asking.round() == Summary(), "the others were seen running, and wait"


async def test_a_silent_job_that_the_list_has_lost_is_asked_about_all_the_same(asking: Asking) -> None:
    await asking.expect("a", "b", "c", "d")
    for job_id in ("a", "b", "c"):
        asking.desk.put(job_id, "PROCESSING", NOW)
    asking.clock.forward(OVERDUE + 1)
    summary = await asking.round()
    assert (summary.asked, summary.running, summary.unanswered) == (1, 3, 1)


async def test_a_list_that_cannot_be_read_does_not_keep_jobs_from_being_asked_about(asking: Asking) -> None:
    ids = [f"job-{number}" for number in range(5)]
    await asking.expect(*ids)
    for job_id in ids:
        asking.desk.put(job_id, "DONE", NOW)
    asking.desk.broken = {"list"}
    asking.clock.forward(OVERDUE + 1)
    assert (await asking.round()).found == 5


async def test_without_adopting_a_long_list_is_not_read_further_than_single_questions_would_go(
    asking: Asking,
) -> None:
    asking.desk.newest_first = False
    for number in range(100):
        asking.desk.put(f"old-{number}", "DONE", NOW - 48 * HOUR + number * MINUTE)
    ids = [f"job-{number}" for number in range(5)]
    await asking.expect(*ids)
    for job_id in ids:
        asking.desk.put(job_id, "DONE", NOW)
    asking.clock.forward(OVERDUE + 1)
    assert (await asking.round()).found == 5
    assert asking.desk.calls().count("list") == 5


@pytest.mark.parametrize("status", [500, 403, 400])
async def test_many_jobs_that_never_give_an_answer_keep_no_others_waiting(
    asking: Asking, status: int
) -> None:
    bad = [f"bad-{number}" for number in range(12)]
    await asking.expect(*bad)
    asking.clock.forward(SECOND)
    await asking.expect("good")
    asking.desk.put("good", "DONE", NOW + SECOND)
    asking.desk.broken, asking.desk.breaks_with = set(bad), status
    asking.clock.forward(OVERDUE + 1)
    assert await asking.minutes_until_received("good") < 10


async def test_submissions_that_cannot_be_looked_for_keep_no_job_from_being_asked_about(
    asking: Asking,
) -> None:
    async def settle() -> int:
        raise UnavailableError("One of the jobs gives no answer.")

    asking.settled = settle  # type: ignore[method-assign]
    await asking.expect("job-1")
    asking.desk.put("job-1", "DONE", NOW)
    asking.clock.forward(OVERDUE + 1)
    summary = await asking.round()
    assert (summary.found, summary.left) == (1, 0)
    assert summary.error is not None


async def test_a_round_that_is_cut_short_says_how_many_it_did_not_ask_about(asking: Asking) -> None:
    ids = ["a", "b", "c", "d", "e", "f"]
    await asking.expect(*ids)
    asking.desk.broken = {"list", "b", "c", "d"}
    for job_id in ids:
        asking.desk.put(job_id, "DONE", NOW)
    asking.clock.forward(OVERDUE + 1)
    summary = await asking.round()
    assert (summary.asked, summary.found, summary.unanswered, summary.left) == (4, 1, 3, 2)


async def test_one_job_that_the_provider_cannot_answer_for_does_not_stop_the_others(asking: Asking) -> None:
    await asking.expect("a", "b", "c")
    for job_id in ("a", "b", "c"):
        asking.desk.put(job_id, "DONE", NOW)
    asking.desk.broken = {"a"}
    asking.clock.forward(OVERDUE + 1)
    assert await asking.round() == Summary(asked=3, found=2, unanswered=1)
    job = await the_job(asking.ledger, "a")
    assert (job.state, job.problem and job.problem.reason) == (State.SUBMITTED, "provider.unavailable")


async def test_jobs_that_too_little_is_known_of_do_not_keep_others_waiting(
    ledger: Ledger, clock: Clock
) -> None:
    asked_for: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        asked_for.append(request.url.path)
        return httpx.Response(200, json={"status": "IN_PROGRESS"})

    given = {"FAL_JWKS": jwks(KEY), "FAL_KEY": "token", "FAL_API_URL": "https://queue.invalid"}
    provider = build(Setup(load(given), given, clock))
    assert provider is not None
    client = provider.open_client(Calls(transport=httpx.MockTransport(answer)))
    assert client is not None
    for number in range(5):
        await ledger.expect(Submission(f"fal:silent-{number}"))  # without the model, which fal wants
    await ledger.expect(Submission("fal:known", endpoint="fal-ai/esrgan"))
    clock.forward(OVERDUE + 1)

    async def settle() -> int:
        return 0

    reconciler = Reconciler(ledger=ledger, asked=Asked(provider, client), plan=PLAN, settle=settle, now=clock)
    summary = await reconciler.round(submitted_before=clock() - OVERDUE, ask_by=clock(), pages=1)
    await client.aclose()
    assert (summary.asked, summary.unanswered, summary.running, summary.error) == (6, 5, 1, None)
    assert asked_for == ["/fal-ai/esrgan/requests/known/status"]


# Adopting.


async def test_without_adopting_unannounced_jobs_are_not_even_looked_for(asking: Asking) -> None:
    asking.desk.put("elsewhere", "DONE", NOW)
    asking.clock.forward(OVERDUE + 1)
    await asking.round()
    assert asking.desk.calls() == []


@pytest.mark.parametrize("newest_first", [True, False])
async def test_adopting_takes_in_what_has_ended_unheard_and_lives_and_is_an_upscaling(
    asking: Asking, *, newest_first: bool
) -> None:
    asking.plan = ADOPTING
    asking.desk.newest_first = newest_first
    then = NOW - 24 * HOUR
    asking.desk.put("dead", "DONE", then - 2 * HOUR)
    asking.desk.put("old", "DONE", then)
    asking.desk.put("running", "PROCESSING", NOW - HOUR)
    asking.desk.put("other", "DONE", NOW - HOUR, type="tagging")
    asking.desk.put("failed", "FAILED", NOW - HOUR)
    asking.desk.put("heard", "DONE", NOW - HOUR)
    asking.desk.put("young", "DONE", NOW - OVERDUE + 1)
    await asking.ledger.record(delivery("heard"))
    summary = await asking.round()
    assert (summary.adopted, summary.found) == (2, 0)
    assert [event.event for event in await history(asking.ledger, "old")] == ["adopted"]
    assert (await the_job(asking.ledger, "failed")).state is State.FAILED
    for job_id in ("dead", "running", "other", "young"):
        assert await asking.ledger.job(job_id) is None, job_id


async def test_adopting_reads_back_only_as_far_as_it_has_not_read_before(asking: Asking) -> None:
    asking.plan = ADOPTING
    for number in range(30):
        asking.desk.put(f"old-{number}", "DONE", NOW - 20 * HOUR + number * MINUTE)
    assert (await asking.round()).adopted == 30
    assert asking.desk.calls().count("list") == 10
    asking.desk.put("new", "DONE", NOW)
    asking.clock.forward(OVERDUE + 1)
    assert (await asking.round()).adopted == 1
    assert asking.desk.calls() == ["list", "new"]


async def test_a_list_that_is_not_newest_first_is_read_a_part_in_each_round_and_then_anew(
    asking: Asking,
) -> None:
    asking.plan = ADOPTING
    asking.desk.newest_first = False
    for number in range(30):
        asking.desk.put(f"old-{number}", "DONE", NOW - 20 * HOUR + number * MINUTE)
    adopted = []
    for _ in range(3):
        adopted.append((await asking.round(pages=4)).adopted)
        assert asking.desk.calls().count("list") <= 4
        asking.clock.forward(MINUTE)
    assert adopted == [12, 12, 6]

    # What has come to its end while it was read, and a silent job on a page that is not read this time.
    asking.desk.put("new", "DONE", NOW)
    await asking.expect("old-silent")
    asking.desk.put("old-silent", "DONE", NOW)
    asking.clock.forward(OVERDUE + 1)
    first = await asking.round(pages=4)
    assert (first.found, first.adopted) == (1, 0)
    assert asking.desk.calls() == ["list"] * 4 + ["old-silent"]
    assert [(await asking.round(pages=4)).adopted for _ in range(2)] == [0, 1]


async def test_a_list_that_breaks_off_in_a_later_part_is_begun_anew(asking: Asking) -> None:
    asking.plan = ADOPTING
    for number in range(12):
        asking.desk.put(f"old-{number}", "DONE", NOW - 20 * HOUR + number * MINUTE)
    assert (await asking.round(pages=2)).adopted == 6
    asking.desk.broken = {"list"}
    assert (await asking.round(pages=2)).error is not None
    asking.desk.broken = set()
    asking.desk.calls()
    assert [(await asking.round(pages=2)).adopted for _ in range(3)] == [0, 6, 0]
    asking.desk.put("new", "DONE", NOW)
    asking.clock.forward(OVERDUE + 1)
    asking.desk.calls()
    assert (await asking.round(pages=2)).adopted == 1
    assert asking.desk.calls() == ["list", "new"], "it was read to its end, and only news are looked for"
    await asking.reconciler.stop()


async def test_what_was_still_running_when_the_list_was_read_is_adopted_when_it_has_ended(
    asking: Asking,
) -> None:
    asking.plan = ADOPTING
    asking.desk.put("slow", "PROCESSING", NOW - 5 * HOUR)
    asking.desk.put("young", "DONE", NOW)
    assert (await asking.round()).adopted == 0
    asking.clock.forward(HOUR)
    assert (await asking.round()).adopted == 1
    asking.desk.put("slow", "DONE", NOW - 5 * HOUR, modified=NOW + HOUR)
    assert (await asking.round()).adopted == 1


async def test_what_was_to_be_adopted_and_gave_no_answer_is_looked_for_again(asking: Asking) -> None:
    asking.plan = ADOPTING
    for number in range(9):
        asking.desk.put(f"job-{number}", "DONE", NOW - 10 * HOUR + number * HOUR)
    asking.desk.broken = {"job-1"}
    assert (await asking.round()).adopted == 8
    asking.desk.broken = set()
    asking.desk.calls()
    assert (await asking.round()).asked == 0, "it waits, as a silent job would"
    asking.clock.forward(HOUR)
    assert (await asking.round()).adopted == 1
    assert asking.desk.calls() == ["list", "list", "job-1"], "and the list is not read back to it again"


async def test_jobs_to_be_adopted_that_never_give_an_answer_keep_no_others_waiting(asking: Asking) -> None:
    asking.plan = ADOPTING
    bad = [f"bad-{number}" for number in range(7)]
    for job_id in bad:
        asking.desk.put(job_id, "DONE", NOW - 5 * HOUR)
    asking.desk.put("good", "DONE", NOW - HOUR)
    asking.desk.broken = set(bad)
    assert await asking.minutes_until_received("good") < 5


async def test_a_crowd_to_be_adopted_leaves_room_for_silent_jobs_and_the_list_is_read_once(
    asking: Asking,
) -> None:
    asking.plan = ADOPTING
    for number in range(12):
        asking.desk.put(f"job-{number}", "DONE", NOW - 10 * HOUR + number * MINUTE)

    async def few() -> Summary:
        now = asking.clock()
        return await asking.reconciler.round(submitted_before=now - OVERDUE, ask_by=now, limit=5)

    summary = await few()
    assert (summary.adopted, summary.left) == (5, 7)
    assert asking.desk.calls().count("list") == 4
    await asking.ledger.record(delivery("job-7"))
    summary = await few()
    assert (summary.adopted, summary.left) == (4, 2), "one was heard of meanwhile"
    assert asking.desk.calls().count("list") == 1
    assert (await few()).adopted == 2
    assert (await few()).asked == 0


async def test_a_list_that_breaks_off_does_not_keep_what_it_showed_from_being_adopted(
    asking: Asking,
) -> None:
    asking.plan = ADOPTING
    for number in range(9):
        asking.desk.put(f"job-{number}", "DONE", NOW - 10 * HOUR + number * MINUTE)
    answer = asking.desk._page
    asking.desk._page = lambda number: answer(number) if number < 3 else {}  # type: ignore[method-assign]
    summary = await asking.round()
    assert (summary.adopted, summary.error and summary.error.reason) == (6, "provider.unavailable")
    asking.desk._page = answer  # type: ignore[method-assign]
    assert (await asking.round()).adopted == 3


async def test_an_adopted_job_that_carries_a_mark_settles_its_submission(asking: Asking) -> None:
    asking.plan = ADOPTING
    await asking.ledger.record_intent(Intent("key", "mark", "order 7"))
    asking.desk.put("lost", "DONE", NOW)
    asking.desk.jobs["lost"]["request"]["webhook"]["headers"] = {"x-receiver-submission": "mark"}
    asking.clock.forward(OVERDUE + 1)
    await asking.round()
    assert (await the_job(asking.ledger, "lost")).ref == "order 7"
    assert await asking.ledger.open_intents(before=NOW + HOUR) == ()


async def test_a_job_that_moves_between_two_pages_while_the_list_is_read_is_adopted_once(
    asking: Asking,
) -> None:
    asking.plan = ADOPTING
    for number in range(9):
        asking.desk.put(f"job-{number}", "DONE", NOW - 10 * HOUR + number * MINUTE)
    answer = asking.desk._page

    def growing(number: int) -> object:
        page = answer(number)
        asking.desk.put(f"new-{number}", "CREATED", NOW + number)
        return page

    asking.desk._page = growing  # type: ignore[method-assign, assignment]
    assert (await asking.round()).adopted == 9
    assert len(set(asking.desk.asked) - {"list"}) == 9


# The provider's moods.


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "provider.token_refused"), (402, "provider.no_credits"), (429, "provider.rate_limited")],
)
async def test_a_refusal_ends_the_round_at_once_and_loses_nothing(
    asking: Asking, status: int, reason: str
) -> None:
    await asking.expect("a", "b")
    for job_id in ("a", "b"):
        asking.desk.put(job_id, "DONE", NOW)
    asking.desk.refuses = status
    asking.clock.forward(OVERDUE + 1)
    summary = await asking.round()
    assert (summary.asked, summary.left, summary.error and summary.error.reason) == (1, 1, reason)
    assert asking.reconciler.error is summary.error
    asking.desk.refuses = None
    asking.clock.forward(2 * MINUTE)
    assert (await asking.round()).found == 2
    assert asking.reconciler.error is None


async def test_a_token_that_is_wrong_for_an_hour_costs_few_questions_and_no_job(
    ledger: Ledger, clock: Clock
) -> None:
    asking = Asking(ledger, clock)
    ids = [f"job-{number}" for number in range(20)]
    await asking.expect(*ids)
    for job_id in ids:
        asking.desk.put(job_id, "DONE", NOW)
    asking.desk.refuses = 401
    clock.forward(OVERDUE + 1)
    mended = clock() + HOUR
    asked_while_wrong = 0

    class Found(Exception):  # noqa: N818 - no error
        pass

    async def sleep(seconds: float) -> None:
        nonlocal asked_while_wrong
        asking.waits.append(seconds)
        clock.forward(int(seconds * 1000))
        if clock() >= mended and asking.desk.refuses is not None:
            asking.desk.refuses = None
            asked_while_wrong = len(asking.desk.calls())
        if (await ledger.stats(overdue_before=NOW)).jobs[State.RECEIVED] == len(ids):
            raise Found

    reconciler = Reconciler(
        ledger=ledger, asked=asked(asking.provider), plan=PLAN, settle=asking.settled, now=clock, sleep=sleep
    )
    with pytest.raises(Found):
        await reconciler._run()
    assert asked_while_wrong < 25
    assert max(asking.waits) <= LONGEST_PAUSE
    assert asking.waits[0] == max(FIRST_PAUSE, 60.0)
    await asking.provider.aclose()


async def test_a_round_without_a_question_is_no_sign_that_the_provider_answers_again(asking: Asking) -> None:
    await asking.expect("job-1")
    asking.desk.refuses = 401
    asking.clock.forward(2 * HOUR)
    assert (await asking.round()).error is not None
    asking.clock.forward(MINUTE)
    assert (await asking.round()).asked == 0
    assert asking.reconciler.error is not None


async def test_retry_after_is_honoured(ledger: Ledger, clock: Clock) -> None:
    asking = Asking(ledger, clock)
    await asking.expect("job-1")
    asking.desk.refuses, asking.desk.headers = 429, {"Retry-After": "400"}
    clock.forward(OVERDUE + 1)

    async def sleep(seconds: float) -> None:
        asking.waits.append(seconds)
        raise EOFError

    reconciler = Reconciler(
        ledger=ledger, asked=asked(asking.provider), plan=PLAN, settle=asking.settled, now=clock, sleep=sleep
    )
    with pytest.raises(EOFError):
        await reconciler._run()
    assert asking.waits == [400.0]
    await asking.provider.aclose()


async def test_questions_keep_to_their_pace(ledger: Ledger, clock: Clock) -> None:
    seconds = 0.0

    async def sleep(span: float) -> None:
        nonlocal seconds
        seconds += span

    asking = Asking(ledger, clock)
    await asking.expect("a", "b", "c")
    for job_id in ("a", "b", "c"):
        asking.desk.put(job_id, "PROCESSING", NOW)
    clock.forward(OVERDUE + 1)
    asking.provider = asking.desk.client(RateLimiter(2.0, sleep=sleep, clock=lambda: seconds))
    async with asking.provider:
        assert (await asking.round()).asked == 3
    assert seconds == 1.0
