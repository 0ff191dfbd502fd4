"""Query strings, read strictly; and the JSON that a job becomes."""

import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from receiver.api import params
from receiver.core import serializers
from receiver.core.errors import REASONS, BodyError
from receiver.core.jobs import Event, Image, Job, Problem, State, StoredObject
from receiver.ledger import Filter
from receiver.web.problem import STATUS, problem
from tests.support.clock import NOW

SILENT = NOW - 600_000


def jobs(text: str) -> tuple[Filter, params.Window]:
    return params.jobs(QueryParams(text), overdue_before=SILENT)


def refusal(read: Callable[[], object]) -> str:
    with pytest.raises(BodyError) as caught:
        read()
    assert caught.value.reason == "body.invalid_query"
    return caught.value.detail


def test_an_empty_query_asks_for_the_first_hundred_of_all_jobs() -> None:
    assert jobs("") == (Filter(), params.Window(None, 100))


def test_every_parameter_is_read() -> None:
    cursor = params.cursor(41)
    wanted, window = jobs(
        "state=received&state=fetched&ref=order%207&reason=fetch.timeout&since=2026-11-23T09:30:00Z"
        f"&until=2026-11-24&overdue=true&limit=1000&cursor={cursor}"
    )
    assert wanted == Filter(
        states=(State.RECEIVED, State.FETCHED),
        ref="order 7",
        reason="fetch.timeout",
        since=int(datetime(2026, 11, 23, 9, 30, tzinfo=UTC).timestamp()) * 1000,
        until=int(datetime(2026, 11, 24, tzinfo=UTC).timestamp()) * 1000,
        overdue_before=SILENT,
    )
    assert window == params.Window(41, 1000)


def test_overdue_may_be_declined() -> None:
    assert jobs("overdue=false")[0].overdue_before is None


@pytest.mark.parametrize(
    "text",
    [
        "since=2026-11-23T09:30:00Z",
        "since=2026-11-23T09:30:00.000Z",
        "since=2026-11-23T10:30:00%2B01:00",
        "since=2026-11-23T10:30:00+01:00",
        "since=2026-11-23T09:30",
        "since=2026-11-23 09:30:00",
    ],
)
def test_a_time_may_be_written_in_several_ways(text: str) -> None:
    assert jobs(text)[0].since == int(datetime(2026, 11, 23, 9, 30, tzinfo=UTC).timestamp()) * 1000


@given(st.integers(-(10**12), 10**14))
def test_a_time_that_was_given_out_is_read_back_to_the_millisecond(at: int) -> None:
    assert jobs(f"since={serializers.time(at)}")[0].since == at


@given(st.integers(0, 10**17))
def test_a_cursor_that_was_given_out_is_read_back(position: int) -> None:
    assert jobs(f"cursor={params.cursor(position)}")[1].before == position


def test_blanks_around_a_searched_text_are_left_away() -> None:
    assert jobs("search=%20%20ok%20")[0] == Filter(search="ok")


def test_the_end_has_no_cursor() -> None:
    assert params.cursor(None) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("stat=received", "stat"),
        ("search=", "search"),
        ("search=a%00b", "search"),
        ("search=a\udcff", "search"),
        ("search=" + "a" * 254, "search"),
        ("state=", "state"),
        ("state=done", "state"),
        ("state=received&state=Archived", "state"),
        ("ref=a&ref=b", "ref"),
        ("reason=nonsense", "reason"),
        ("since=yesterday", "since"),
        ("since=", "since"),
        ("until=2026-13-01", "until"),
        ("until=1795000000", "until"),
        ("overdue=1", "overdue"),
        ("overdue=TRUE", "overdue"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=1e2", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("cursor=", "cursor"),
        ("cursor=41", "cursor"),
        ("cursor=%C3%A9", "cursor"),
        ("cursor=Mjo0MQ", "cursor"),
        ("cursor=MTotMQ", "cursor"),
        ("cursor=MTo5OTk5OTk5OTk5OTk5OTk5OTk5OQ", "cursor"),
        ("limit=5&limit=6", "limit"),
        ("offset=5", "offset"),
    ],
)
def test_an_unknown_parameter_or_value_is_refused_by_name(text: str, name: str) -> None:
    assert re.match(rf"'?{name}\b", refusal(lambda: jobs(text)))


@given(st.dictionaries(st.sampled_from(["state", "since", "until", "limit", "cursor", "ref"]), st.text()))
def test_no_value_raises_anything_but_a_refusal(given_: dict[str, str]) -> None:
    try:
        wanted, window = params.jobs(QueryParams(given_), overdue_before=SILENT)
    except BodyError:
        return
    assert 1 <= window.limit <= 1000
    assert wanted.ref == given_.get("ref")


def test_a_job_is_waited_for_at_most_a_minute() -> None:
    assert params.wait(QueryParams("")) == 0
    assert params.wait(QueryParams("wait=60")) == 60
    assert params.wait(QueryParams("wait=0.5")) == 0.5
    for text in ("wait=61", "wait=-1", "wait=nan", "wait=inf", "wait=", "wait=1&wait=2", "seconds=1"):
        refusal(lambda text=text: params.wait(QueryParams(text)))  # type: ignore[misc]
    for text in ("wait=\u0661", "wait=1_0", "wait= 1", "wait=\uff11", "wait=1e9"):
        refusal(lambda text=text: params.wait(QueryParams(text)))  # type: ignore[misc]


def test_deliveries_are_narrowed_by_their_outcome() -> None:
    assert params.deliveries(QueryParams("")) == (None, params.Window(None, 100))
    outcome, window = params.deliveries(QueryParams("outcome=body.not_json&limit=5"))
    assert (outcome, window.limit) == ("body.not_json", 5)
    assert "body.not_a_completion" in refusal(lambda: params.deliveries(QueryParams("outcome=recorded")))


def test_a_route_without_parameters_takes_none() -> None:
    params.nothing(QueryParams(""))
    assert "'a'" in refusal(lambda: params.nothing(QueryParams("a=1")))


def test_an_unknown_parameters_name_is_repeated_only_in_part() -> None:
    assert len(refusal(lambda: jobs("x" * 5000 + "=1"))) < 300


def test_a_job_has_every_field_of_the_contract() -> None:
    job = Job(
        id="replicate:1~2",
        state=State.ARCHIVED,
        provider="replicate",
        ref="order 7",
        endpoint="upscale_2x",
        attempts=2,
        next_attempt_at=NOW + 1,
        deadline=NOW + 2,
        image_url="https://host/out.png",
        source_url="https://host/in.png",
        promised_width=424,
        promised_height=348,
        image=Image("png", 424, 348, 1000, "0" * 64),
        stored=StoredObject("s3://bucket/key", "etag", "v1"),
        problem=Problem("fetch.timeout", "Too slow.", NOW),
        submitted_at=NOW - 5,
        received_at=NOW - 4,
        fetched_at=NOW - 3,
        archived_at=NOW - 2,
        updated_at=NOW - 1,
    )
    assert serializers.job(job) == {
        "id": "replicate:1~2",
        "state": "archived",
        "provider": "replicate",
        "provider_id": "1",
        "output": 2,
        "ref": "order 7",
        "attempts": 2,
        "next_attempt_at": "2026-11-18T11:06:40.001Z",
        "url_expires_at": "2026-11-18T11:06:40.002Z",
        "image_url": "https://host/out.png",
        "source_url": "https://host/in.png",
        "endpoint": "upscale_2x",
        "promised": {"width": 424, "height": 348},
        "image": {
            "format": "png",
            "width": 424,
            "height": 348,
            "bytes": 1000,
            "sha256": "0" * 64,
        },
        "archive": {"uri": "s3://bucket/key", "etag": "etag", "version": "v1"},
        "error": {"reason": "fetch.timeout", "detail": "Too slow.", "at": "2026-11-18T11:06:40.000Z"},
        "submitted_at": "2026-11-18T11:06:39.995Z",
        "received_at": "2026-11-18T11:06:39.996Z",
        "fetched_at": "2026-11-18T11:06:39.997Z",
        "archived_at": "2026-11-18T11:06:39.998Z",
        "updated_at": "2026-11-18T11:06:39.999Z",
    }


def test_a_job_without_an_image_says_null() -> None:
    shown = serializers.job(Job("job-1", State.SUBMITTED))
    assert (shown["image"], shown["archive"], shown["error"], shown["ref"]) == (None, None, None, None)
    assert shown["promised"] == {"width": None, "height": None}


def test_an_event_says_what_moved_where_and_why() -> None:
    assert serializers.event(
        Event(NOW, "expired", State.RECEIVED, State.EXPIRED, "fetch.expired", "Over.")
    ) == {
        "at": "2026-11-18T11:06:40.000Z",
        "event": "expired",
        "from": "received",
        "to": "expired",
        "reason": "fetch.expired",
        "detail": "Over.",
    }
    assert serializers.event(Event(NOW, "received", None, State.RECEIVED, None, None))["from"] is None


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_every_reason_has_an_answer_in_the_form_of_rfc_9457(reason: str) -> None:
    answer = problem(reason)
    assert answer.media_type == "application/problem+json"
    assert answer.status_code == STATUS.get(reason, 503)
    assert ("retry-after" in answer.headers) == (answer.status_code == 503)


def test_only_known_reasons_have_a_status() -> None:
    assert set(STATUS) <= set(REASONS)


def test_every_reason_that_lies_with_the_client_has_a_status() -> None:
    faults = {reason for reason in REASONS if reason.startswith(("auth.", "body."))}
    assert faults - {"auth.keys_unavailable"} <= set(STATUS)
