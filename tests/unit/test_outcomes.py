"""What a failure means: a row for each reason that can reach a stage."""

from collections.abc import Mapping

import pytest

from receiver.core.errors import REASONS, FetchError, ProviderError, ReceiverError, UrlError
from receiver.core.jobs import Job, State
from receiver.pipeline import outcomes
from receiver.pipeline.outcomes import (
    ASK_ON_MS,
    Action,
    Decision,
    after_fetch,
    after_last_question,
    after_upload,
    fresh_url_at,
)
from tests.support.clock import HOUR, NOW, SECOND

RETRY, ASK, ASK_AGAIN, REJECT, EXPIRE = (
    Action.RETRY,
    Action.ASK,
    Action.ASK_AGAIN,
    Action.REJECT,
    Action.EXPIRE,
)
JOB = Job("job-1", State.RECEIVED, attempts=1, deadline=NOW + 24 * HOUR)
NEVER = 10**9
"""More attempts than a job makes."""
REJECT_AFTER = 5 * 60 * SECOND


def half() -> float:
    return 0.5


def reasons_of(*families: str) -> set[str]:
    return {reason for reason in REASONS if reason.partition(".")[0] in families}


def test_no_reason_that_can_reach_a_stage_is_without_a_row() -> None:
    assert set(FETCH) == reasons_of("url", "fetch", "image", "spool", "provider") - {
        *("fetch.expired", "fetch.trial_ended"),  # the ledger's own
    }
    assert set(LAST_QUESTION) == reasons_of("provider")
    assert set(UPLOAD) == reasons_of("archive", "spool") - {"archive.crowded"}  # the page's own


@pytest.mark.parametrize("table", ["FETCH", "SAME_ANSWER", "LAST_QUESTION", "UPLOAD", "PAUSES"])
def test_the_rules_name_only_reasons_and_families_that_exist(table: str) -> None:
    families = {reason.partition(".")[0] for reason in REASONS}
    assert set(getattr(outcomes, table)) <= families | set(REASONS)


# A confirmation, a download or a verification failed.

FETCH: Mapping[str, tuple[Action, int]] = {
    "url.malformed": (RETRY, 3),
    "url.scheme": (RETRY, 3),
    "url.userinfo": (RETRY, 3),
    "url.port": (RETRY, 3),
    "url.source": (RETRY, 3),
    "url.address": (RETRY, 3),
    "url.redirects": (RETRY, 3),
    "fetch.resolve": (RETRY, NEVER),
    "fetch.connect": (RETRY, NEVER),
    "fetch.tls": (RETRY, NEVER),
    "fetch.protocol": (RETRY, NEVER),
    "fetch.timeout": (RETRY, NEVER),
    "fetch.too_slow": (RETRY, NEVER),
    "fetch.cut_short": (RETRY, NEVER),
    "fetch.empty": (RETRY, NEVER),
    "fetch.gone": (ASK, NEVER),
    "fetch.status": (RETRY, NEVER),
    "fetch.too_large": (RETRY, 3),
    "fetch.encoded": (RETRY, NEVER),
    "fetch.unexpected": (RETRY, NEVER),
    "image.unknown_format": (RETRY, 3),
    "image.truncated": (RETRY, 3),
    "image.corrupt": (RETRY, 3),
    "image.trailing_data": (RETRY, 3),
    "image.polyglot": (RETRY, 3),
    "image.animated": (RETRY, 3),
    "image.wrong_size": (RETRY, 3),
    "image.wrong_type": (RETRY, 3),
    "image.too_many_pixels": (RETRY, 3),
    "image.undecodable": (RETRY, 10),
    "spool.full": (RETRY, NEVER),
    "spool.disk": (RETRY, NEVER),
    "spool.lost": (RETRY, NEVER),
    "spool.no_decoder": (RETRY, NEVER),
    "provider.job_failed": (REJECT, 1),
    "provider.record_failed": (REJECT, 1),
    "provider.no_output": (REJECT, 1),
    "provider.unknown_job": (REJECT, 1),
    "provider.token_refused": (RETRY, NEVER),
    "provider.no_credits": (RETRY, NEVER),
    "provider.rate_limited": (RETRY, NEVER),
    "provider.invalid_request": (RETRY, NEVER),
    "provider.unavailable": (RETRY, NEVER),
}
"""What follows at first, and how often the same answer comes before it is rejected."""


def fetch(
    error: str | ReceiverError,
    job: Job = JOB,
    sha256: str | None = None,
    *,
    can_ask: bool = True,
    now: int = NOW,
) -> Decision:
    if isinstance(error, str):
        error = ReceiverError(error)
    return after_fetch(error, job, now, half, sha256=sha256, can_ask=can_ask, reject_after=REJECT_AFTER)


def suspected(answer: str, times: int, since: int, deadline: int = NOW + 24 * HOUR) -> Job:
    """A job whose URL has given an answer so many times since then."""
    return JOB._replace(
        attempts=times + 1, suspect=answer, suspects=times, suspect_since=since, deadline=deadline
    )


@pytest.mark.parametrize(("reason", "action"), [(reason, action) for reason, (action, _) in FETCH.items()])
def test_a_failed_fetch(reason: str, action: Action) -> None:
    assert fetch(reason).action is action
    assert fetch(reason, JOB._replace(attempts=1000)).action is action
    assert fetch(reason, now=NOW + 48 * HOUR).action is action


SAME = [(reason, times) for reason, (_, times) in FETCH.items() if 1 < times < NEVER]


@pytest.mark.parametrize(("reason", "times"), SAME)
def test_an_answer_is_rejected_when_it_came_so_often_over_some_minutes(reason: str, times: int) -> None:
    sha256 = "same" if reason.startswith("image.") else None
    answer = sha256 or f"{reason}: {REASONS[reason]}"
    assert fetch(reason, sha256=sha256).suspect == answer
    since = NOW - REJECT_AFTER
    assert fetch(reason, suspected(answer, times - 1, since), sha256).action is REJECT
    assert fetch(reason, suspected(answer, times - 2, since), sha256).action is RETRY
    assert fetch(reason, suspected(answer, 1000, since + 1), sha256).action is RETRY
    assert fetch(reason, suspected("other", 1000, since), sha256) == fetch(
        reason, JOB._replace(attempts=1001), sha256
    )


def test_near_the_deadline_half_of_the_time_left_at_the_first_answer_suffices() -> None:
    def after(seconds: int) -> Action:
        job = suspected("same", 2, NOW - seconds * SECOND, NOW + (60 - seconds) * SECOND)
        return fetch("image.wrong_size", job, "same").action

    assert [after(29), after(30), after(59)] == [RETRY, REJECT, REJECT]


def test_answers_that_a_ledger_of_an_earlier_version_does_not_date_are_not_rejected() -> None:
    job = suspected("same", 0, NOW)._replace(suspect_since=None, attempts=100)
    assert fetch("image.corrupt", job, "same").action is RETRY


def test_an_encoding_is_an_answer_too_and_never_rejected() -> None:
    answer = fetch("fetch.encoded").suspect
    assert answer is not None
    assert fetch("fetch.encoded", suspected(answer, 1000, 0)).action is RETRY


@pytest.mark.parametrize("reason", sorted(reasons_of("url")))
def test_a_url_that_can_never_be_allowed_is_rejected_at_once(reason: str) -> None:
    assert fetch(UrlError(reason, final=True)) == Decision(REJECT)


@pytest.mark.parametrize("reason", ["fetch.timeout", "fetch.status", "spool.full", "provider.unavailable"])
def test_a_failure_without_an_answer_is_no_evidence(reason: str) -> None:
    assert fetch(reason).suspect is None


def test_a_wrong_answer_is_asked_for_ever_more_rarely() -> None:
    waits = [fetch("image.wrong_size", JOB._replace(attempts=n), "same").at - NOW for n in (1, 5, 9, 50)]
    assert waits == [2 * SECOND, 32 * SECOND, 512 * SECOND, HOUR // 2]
    assert fetch("fetch.timeout", JOB._replace(attempts=50)).at - NOW == 450 * SECOND


def test_without_a_provider_a_url_that_is_gone_is_tried_again() -> None:
    assert fetch("fetch.gone", can_ask=False).action is RETRY


def test_a_fetch_is_tried_again_after_a_wait_that_doubles_and_not_before_the_host_allows_it() -> None:
    assert fetch("fetch.timeout") == Decision(RETRY, NOW + 2 * SECOND)
    assert fetch("fetch.timeout", JOB._replace(attempts=3)).at == NOW + 8 * SECOND
    for error in (
        FetchError("fetch.status", retry_after=60),
        ProviderError("provider.unavailable", retry_after=60),
    ):
        assert fetch(error).at == NOW + 60 * SECOND


# A job's time is over.

LAST_QUESTION: Mapping[str, Action] = {
    "provider.job_failed": EXPIRE,
    "provider.record_failed": EXPIRE,
    "provider.no_output": EXPIRE,
    "provider.unknown_job": EXPIRE,
    "provider.token_refused": ASK_AGAIN,
    "provider.no_credits": EXPIRE,
    "provider.rate_limited": ASK_AGAIN,
    "provider.invalid_request": EXPIRE,
    "provider.unavailable": ASK_AGAIN,
}


def last_question(refusal: ProviderError | None, late: int) -> Decision:
    return after_last_question(refusal, JOB._replace(deadline=NOW - late), NOW, half)


@pytest.mark.parametrize(("reason", "action"), LAST_QUESTION.items())
def test_a_provider_that_gives_no_url_in_the_end(reason: str, action: Action) -> None:
    assert last_question(ProviderError(reason), late=0).action is action
    assert last_question(ProviderError(reason), late=ASK_ON_MS - 1).action is action
    assert last_question(ProviderError(reason), late=ASK_ON_MS).action is EXPIRE


def test_a_provider_that_answers_without_another_url_lets_the_job_expire() -> None:
    assert last_question(None, late=0) == Decision(EXPIRE)


def test_a_silent_provider_is_asked_again_after_a_wait_that_doubles() -> None:
    assert last_question(ProviderError("provider.unavailable"), late=0).at == NOW + SECOND


@pytest.mark.parametrize(
    ("refreshes", "lifetime", "seconds"), [(0, HOUR, 2), (1, HOUR, 4), (0, -HOUR, 1), (1, -HOUR, 2)]
)
def test_a_fresh_url_is_fetched_the_later_the_more_were_named(
    refreshes: int, lifetime: int, seconds: int
) -> None:
    at = fresh_url_at(JOB._replace(refreshes=refreshes), NOW + lifetime, NOW, half)
    assert at == NOW + seconds * SECOND


# An upload failed.

UPLOAD: Mapping[str, tuple[Action, bool]] = {
    "archive.unavailable": (RETRY, True),
    "archive.denied": (RETRY, True),
    "archive.no_bucket": (RETRY, True),
    "archive.misconfigured": (RETRY, True),
    "archive.refused": (RETRY, False),
    "archive.unreadable": (RETRY, False),
    "archive.clock_skew": (RETRY, True),
    "archive.full": (RETRY, True),
    "archive.too_large": (RETRY, False),
    "archive.occupied": (Action.EXAMINE, False),
    "archive.unproved": (RETRY, False),
    "archive.unexpected": (RETRY, False),
    "archive.missing": (RETRY, False),
    "archive.altered": (RETRY, True),
    "archive.mislabelled": (RETRY, True),
    "archive.duplicate": (RETRY, True),
    "archive.foreign": (RETRY, True),
    "spool.full": (RETRY, False),
    "spool.disk": (RETRY, False),
    "spool.lost": (Action.FETCH_AGAIN, False),
    "spool.no_decoder": (RETRY, False),
}
"""What follows, and whether uploads of other objects pause."""

SAFE = JOB._replace(state=State.FETCHED, spool="file")


@pytest.mark.parametrize(("reason", "action", "pause"), [(name, *row) for name, row in UPLOAD.items()])
def test_a_failed_upload(reason: str, action: Action, pause: bool) -> None:  # noqa: FBT001 - a row
    decision = after_upload(ReceiverError(reason), SAFE, NOW, half)
    assert (decision.action, decision.pause) == (action, pause)
    assert after_upload(ReceiverError(reason), SAFE._replace(attempts=10**6), NOW, half).action is action


def test_an_object_that_is_not_the_jobs_is_tried_again_after_longer_waits_than_others() -> None:
    waits = [
        after_upload(ReceiverError(reason), SAFE._replace(attempts=99), NOW, half, examined=True)
        for reason in ("archive.occupied", "archive.unavailable")
    ]
    assert [decision.action for decision in waits] == [RETRY, RETRY]
    assert [decision.at - NOW for decision in waits] == [HOUR // 2, 90 * SECOND]
