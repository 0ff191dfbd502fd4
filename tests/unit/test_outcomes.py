"""What a failure means: a row for each reason that can reach a stage."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from receiver.core.errors import REASONS, FetchError, ProviderError, ReceiverError
from receiver.core.jobs import Job, State
from receiver.pipeline import outcomes
from receiver.pipeline.outcomes import (
    ASK_ON_MS,
    Action,
    Decision,
    after_fetch,
    after_last_question,
    after_upload,
    at_deadline,
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


def half() -> float:
    return 0.5


def reasons_of(*families: str) -> set[str]:
    return {reason for reason in REASONS if reason.partition(".")[0] in families}


def test_no_reason_that_can_reach_a_stage_is_without_a_row() -> None:
    assert set(FETCH) == reasons_of("url", "fetch", "image", "spool", "provider") - {"fetch.expired"}
    assert set(LAST_QUESTION) == reasons_of("provider")
    assert set(UPLOAD) == reasons_of("archive", "spool")


@pytest.mark.parametrize("table", ["FETCH", "SAME_BYTES", "LAST_QUESTION", "UPLOAD", "PAUSES"])
def test_the_rules_name_only_reasons_and_families_that_exist(table: str) -> None:
    families = {reason.partition(".")[0] for reason in REASONS}
    assert set(getattr(outcomes, table)) <= families | set(REASONS)


# A confirmation, a download or a verification failed.

FETCH: Mapping[str, tuple[Action, int]] = {
    "url.malformed": (REJECT, 1),
    "url.scheme": (REJECT, 1),
    "url.userinfo": (REJECT, 1),
    "url.port": (REJECT, 1),
    "url.source": (REJECT, 1),
    "url.address": (REJECT, 1),
    "url.redirects": (REJECT, 1),
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
    "fetch.too_large": (REJECT, 1),
    "fetch.encoded": (RETRY, NEVER),
    "fetch.unexpected": (RETRY, NEVER),
    "image.unknown_format": (RETRY, 2),
    "image.truncated": (RETRY, 2),
    "image.corrupt": (RETRY, 2),
    "image.trailing_data": (REJECT, 1),
    "image.polyglot": (REJECT, 1),
    "image.animated": (REJECT, 1),
    "image.wrong_size": (REJECT, 1),
    "image.too_many_pixels": (REJECT, 1),
    "image.undecodable": (RETRY, 10),
    "spool.full": (RETRY, NEVER),
    "spool.disk": (RETRY, NEVER),
    "spool.lost": (RETRY, NEVER),
    "spool.no_decoder": (RETRY, NEVER),
    "provider.job_failed": (REJECT, 1),
    "provider.record_failed": (REJECT, 1),
    "provider.unknown_job": (REJECT, 1),
    "provider.token_refused": (RETRY, NEVER),
    "provider.no_credits": (RETRY, NEVER),
    "provider.rate_limited": (RETRY, NEVER),
    "provider.invalid_request": (RETRY, NEVER),
    "provider.unavailable": (RETRY, NEVER),
}
"""What follows at first, and from which attempt on the same bytes are rejected."""


def fetch(
    reason: str, job: Job = JOB, sha256: str | None = None, *, can_ask: bool = True, now: int = NOW
) -> Decision:
    return after_fetch(ReceiverError(reason), job, now, half, sha256=sha256, can_ask=can_ask)


@pytest.mark.parametrize(("reason", "action"), [(reason, action) for reason, (action, _) in FETCH.items()])
def test_a_failed_fetch(reason: str, action: Action) -> None:
    assert fetch(reason).action is action
    assert fetch(reason, replace(JOB, attempts=1000)).action is action
    assert fetch(reason, now=NOW + 48 * HOUR).action is action


@pytest.mark.parametrize(
    ("reason", "attempts"),
    [(reason, attempts) for reason, (_, attempts) in FETCH.items() if reason.startswith("image.")],
)
def test_bytes_that_come_again_are_rejected_after_so_many_attempts(reason: str, attempts: int) -> None:
    at_last = replace(JOB, suspect="same", attempts=attempts)
    assert fetch(reason, at_last, "same").action is REJECT
    before = replace(at_last, attempts=attempts - 1)
    assert fetch(reason, before, "same").action is FETCH[reason][0]
    assert fetch(reason, at_last, "other").action is FETCH[reason][0]


def test_without_a_provider_a_url_that_is_gone_is_tried_again() -> None:
    assert fetch("fetch.gone", can_ask=False).action is RETRY


def test_a_fetch_is_tried_again_after_a_wait_that_doubles_and_not_before_the_host_allows_it() -> None:
    assert fetch("fetch.timeout") == Decision(RETRY, NOW + 2 * SECOND)
    assert fetch("fetch.timeout", replace(JOB, attempts=3)).at == NOW + 8 * SECOND
    for error in (
        FetchError("fetch.status", retry_after=60),
        ProviderError("provider.unavailable", retry_after=60),
    ):
        assert after_fetch(error, JOB, NOW, half, can_ask=True).at == NOW + 60 * SECOND


# A job's time is over.

LAST_QUESTION: Mapping[str, Action] = {
    "provider.job_failed": EXPIRE,
    "provider.record_failed": EXPIRE,
    "provider.unknown_job": EXPIRE,
    "provider.token_refused": ASK_AGAIN,
    "provider.no_credits": EXPIRE,
    "provider.rate_limited": ASK_AGAIN,
    "provider.invalid_request": EXPIRE,
    "provider.unavailable": ASK_AGAIN,
}


def last_question(refusal: ProviderError | None, late: int) -> Decision:
    return after_last_question(refusal, replace(JOB, deadline=NOW - late), NOW, half)


@pytest.mark.parametrize(("can_ask", "action"), [(True, ASK), (False, EXPIRE)])
def test_the_provider_is_asked_before_a_job_expires(can_ask: bool, action: Action) -> None:  # noqa: FBT001 - a row
    assert at_deadline(can_ask=can_ask) is action


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
    at = fresh_url_at(replace(JOB, refreshes=refreshes), NOW + lifetime, NOW, half)
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

SAFE = replace(JOB, state=State.FETCHED, spool="file")


@pytest.mark.parametrize(("reason", "action", "pause"), [(name, *row) for name, row in UPLOAD.items()])
def test_a_failed_upload(reason: str, action: Action, pause: bool) -> None:  # noqa: FBT001 - a row
    decision = after_upload(ReceiverError(reason), SAFE, NOW, half)
    assert (decision.action, decision.pause) == (action, pause)
    assert after_upload(ReceiverError(reason), replace(SAFE, attempts=10**6), NOW, half).action is action


def test_an_object_that_is_not_the_jobs_is_tried_again_after_longer_waits_than_others() -> None:
    waits = [
        after_upload(ReceiverError(reason), replace(SAFE, attempts=99), NOW, half, examined=True)
        for reason in ("archive.occupied", "archive.unavailable")
    ]
    assert [decision.action for decision in waits] == [RETRY, RETRY]
    assert [decision.at - NOW for decision in waits] == [HOUR // 2, 90 * SECOND]
