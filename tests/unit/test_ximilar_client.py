"""The client's pure parts, and answers that the sandbox never gives."""

import base64
import json
import pickle
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from receiver.core import retry_after
from receiver.core.errors import (
    InvalidRequestError,
    NoCreditsError,
    ProviderError,
    RateLimitedError,
    TokenRefusedError,
    UnavailableError,
    UnknownJobError,
)
from receiver.providers.api import ATTEMPTS, MAX_ANSWER_BYTES, MAX_REPEATED_PAGES, MAX_VALUES
from receiver.providers.api_errors import MAX_EXPLANATION, api_error, explanation
from receiver.providers.base import Calls, Listed, Report
from receiver.providers.ximilar import completions
from receiver.providers.ximilar.authentication import SUBMISSION_HEADER
from receiver.providers.ximilar.client import Ximilar
from receiver.providers.ximilar.request import Options, Upscale, Webhook
from tests.support.providers import provider

URL = "https://api.example/account/v2"
TOKEN = "canary-of-the-token"
SECRET = "canary of the header's value"
NOW = 1_750_000_000.0

HEADERS = {
    "X-Secret": SECRET,
    "X-Number": 5,
    "x-receiver-ref": "order 7",
    "X-Receiver-Submission": "the mark",
}

DONE: dict[str, Any] = {
    "id": "job-1",
    "created": "2025-04-12T11:55:23.619492Z",
    "modified": "2025-04-12T11:55:32.717459Z",
    "request": {
        "endpoint": "upscale_4x",
        "records": [{"_url": "https://example.com/a.png"}],
        "webhook": {"endpoint": "https://us.example/hook", "headers": HEADERS},
    },
    "response": {
        "records": [{"_status": {"code": 200}, "_upscaled_image_url": "https://results.example/b.png"}]
    },
    "type": "upscaler",
    "status": "DONE",
    "workspace": "w",
}

Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler, *, waits: list[float] | None = None) -> Ximilar:
    waited = [] if waits is None else waits

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    return Ximilar(
        URL,
        TOKEN,
        Calls(transport=httpx.MockTransport(handler)),
        jitter=lambda: 0.5,
        sleep=sleep,
        clock=lambda: NOW,
    )


def answering(*answers: httpx.Response | Exception, seen: list[httpx.Request] | None = None) -> Handler:
    """Gives one answer after the other; the last one stands for all that follow."""
    left = list(answers)

    def handle(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handle


def ok(document: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=document)


# What is asked for


def test_an_option_that_is_not_given_is_not_sent() -> None:
    assert Upscale("https://example.com/a.png").body() == {
        "type": "upscaler",
        "endpoint": "upscale_2x",
        "records": [{"_url": "https://example.com/a.png"}],
    }


def test_every_option_stands_where_the_page_has_it() -> None:
    webhook = Webhook("https://us.example/hook", {"X-Secret": SECRET})
    options = Options(8, "gan", "ironed_out", "webp", image_quality=1, tune_colors=False)
    upscale = Upscale(b"\xff\xd8picture", options, webhook)
    assert upscale.body() == {
        "type": "upscaler",
        "endpoint": "upscale_8x",
        "mode": "ironed_out",
        "model_type": "gan",
        "image_format": "webp",
        "image_quality": 1,
        "tune_colors": False,
        "records": [{"_base64": base64.b64encode(b"\xff\xd8picture").decode()}],
        "webhook": {"endpoint": "https://us.example/hook", "headers": {"X-Secret": SECRET}},
    }


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        *[("image", {"image": v}) for v in ("", b"", "a.png", "ftp://a/b", "https:///b", "http://[", None)],
        *[("image", {"image": f"https://a/{v}"}) for v in ("b c", "b\n", "\0", "x" * 9000)],
        *[("factor", {"factor": v}) for v in (0, 1, 3, 16, 2.0, "2", True, None)],
        *[("mode", {"mode": v}) for v in ("", "gan", "IRONED_OUT", 1, ["ironed_out"])],
        *[("model_type", {"model_type": v}) for v in ("", "GAN", "ironed_out")],
        *[("image_format", {"image_format": v}) for v in ("jpeg", "auto", "PNG", "")],
        *[("image_quality", {"image_format": "jpg", "image_quality": v}) for v in (0, 101, 85.0, "85", True)],
        ("image_quality", {"image_quality": 85}),
        *[("tune_colors", {"tune_colors": v}) for v in (0, 1, "true")],
        ("webhook", {"webhook": {"endpoint": "https://a/b"}}),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(field: str, wrong: dict[str, Any]) -> None:
    given = {"image": "https://example.com/a.png", **wrong}
    own = {name: given.pop(name) for name in ("image", "webhook") if name in given}
    with pytest.raises(InvalidRequestError, match=rf"^provider.invalid_request: {field} ") as refused:
        Upscale(**own, options=Options(**given))
    assert not refused.value.maybe_sent


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("webhook.endpoint", ("/hook", {})),
        ("webhook.headers", ("https://a/b", {"": "a"})),
        ("webhook.headers", ("https://a/b", {"X-A\r\nX-B": "a"})),
        ("webhook.headers", ("https://a/b", {"X-A": ""})),
        ("webhook.headers", ("https://a/b", {"X-A": f"{SECRET}\r\nX-B: c"})),
        ("webhook.headers", ("https://a/b", {"X-A": f" {SECRET}"})),
        ("webhook.headers", ("https://a/b", {"X-A": f"{SECRET}é"})),
        ("webhook.headers", ("https://a/b", {"X-A": 5})),
        ("webhook.headers", ("https://a/b", [])),
    ],
)
def test_a_wrong_webhook_is_refused_without_its_value(field: str, wrong: tuple[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match=field) as refused:
        Webhook(*wrong)
    assert "canary" not in str(refused.value)


def test_neither_headers_nor_images_nor_bodies_show_in_a_repr() -> None:
    upscale = Upscale(b"canary", webhook=Webhook("https://a/b", {"X-Secret": SECRET}))
    report = Report("a", "CREATED", body=b"canary")
    assert "canary" not in repr((upscale, report))


# What is answered


async def test_a_report_holds_what_the_page_has_and_its_body_nothing_of_ours() -> None:
    async with client(answering(ok(DONE | {"webhook": DONE["request"]["webhook"]}))) as subject:
        report = await subject.get("job-1")
    assert (report.id, report.status) == ("job-1", "DONE")
    assert report.ending is not None
    assert report.ending.endpoint == "upscale_4x"
    assert [output.url for output in report.ending.outputs] == ["https://results.example/b.png"]
    assert report.ending.ended_at == ms(datetime(2025, 4, 12, 11, 55, 32, 717459, UTC))
    assert (report.ref, report.mark) == ("order 7", "the mark")
    assert json.loads(report.body) == {name: value for name, value in DONE.items() if name != "request"}


@pytest.mark.parametrize("status", ["FAILED", "API_LIMIT_EXCEEDED", "NOT_SUPPORTED"])
async def test_a_job_that_failed_has_ended(status: str) -> None:
    async with client(answering(ok({"id": "a", "status": status}))) as subject:
        report = await subject.get("a")
    assert report.ending is not None
    assert report.ending.failure is not None
    assert report.ending.failure.reason == "provider.job_failed"


@pytest.mark.parametrize("status", ["CREATED", "PROCESSING", "RETRY", "ERROR", "done", "Something New"])
async def test_a_status_that_is_no_known_end_is_kept_and_is_none(status: str) -> None:
    async with client(answering(ok({"id": "a", "status": status}))) as subject:
        report = await subject.get("a")
    assert (report.status, report.ending) == (status, None)


@pytest.mark.parametrize(
    "document",
    [
        DONE | {"id": "job-2"},
        {name: value for name, value in DONE.items() if name != "id"},
        DONE | {"status": None},
        DONE | {"status": {"code": 200}},
        DONE | {"status": "x" * 65},
        DONE | {"status": "a\nb"},
        DONE | {"response": None},
        DONE | {"response": {"records": []}},
        DONE | {"response": {"records": [{"_status": {"code": 200}}]}},
        DONE | {"type": "tagging"},
        [],
        "DONE",
        None,
    ],
)
async def test_an_answer_on_a_job_that_is_not_as_the_page_has_it_is_unavailable(document: Any) -> None:
    async with client(answering(ok(document))) as subject:
        with pytest.raises(UnavailableError) as refused:
            await subject.get("job-1")
    assert refused.value.detail.isprintable()
    assert not refused.value.maybe_sent


@pytest.mark.parametrize(
    "more", [{"more": "x" * 300_000}, {f"more-{number}": "x" * 60 for number in range(9000)}]
)
async def test_a_completion_is_not_lost_for_what_else_its_answer_holds(more: Any) -> None:
    async with client(answering(ok(DONE | more))) as subject:
        report = await subject.get("job-1")
    assert report.ending is not None
    assert report.ending.outputs == completions.read(DONE).outputs
    assert len(report.body) < 1000


async def test_of_our_headers_nothing_is_kept_wherever_an_answer_repeats_them() -> None:
    secret = 'a "secret" that nobody guesses'
    answer = DONE | {
        "status": "FAILED",
        "request": {"webhook": {"headers": {"X-Secret": secret, "X": "D"}}},
        "callback": {"sent": [f"X-Secret: {secret}"]},
        "response": {"records": [{"_status": {"code": 500, "text": f"refused with {secret}"}}]},
    }
    async with client(answering(ok(answer))) as subject:
        report = await subject.get("job-1")
    assert b"nobody guesses" not in report.body
    assert b"X-Secret: **********" in report.body
    assert report.ending is not None
    assert report.ending.failure is not None
    assert report.ending.failure.detail == "FAILED: 500 refused with …"


@pytest.mark.parametrize(
    "request_part",
    [
        None,
        [],
        {"webhook": None, "records": None, "endpoint": 5},
        {"webhook": [], "records": [], "endpoint": ""},
        {"webhook": {"headers": None}, "records": [5], "endpoint": "x" * 65},
        {"webhook": {"headers": [["X-Secret", "a"]]}, "records": [{"_url": "a\0b"}]},
        {"webhook": {"headers": {"X": {}}}, "records": {"_url": "a"}},
    ],
)
async def test_what_a_request_lacks_does_not_cost_the_report(request_part: Any) -> None:
    async with client(answering(ok(DONE | {"request": request_part}))) as subject:
        report = await subject.get("job-1")
    assert report.ending is not None
    assert (report.ref, report.mark, report.ending.endpoint) == (None, None, None)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        5,
        "yesterday",
        "",
        "9" * 400,
        ["2025-04-12"],
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
    ],
)
async def test_a_time_that_cannot_be_read_or_is_far_off_counts_as_now(wrong: Any) -> None:
    async with client(answering(ok(DONE | {"modified": wrong}))) as subject:
        report = await subject.get("job-1")
    assert report.ending is not None
    ((_, deadline),) = provider(lifetime=timedelta(hours=24)).completions(report.ending, 10**12)
    assert deadline.at == 10**12 + 24 * 3600 * 1000


def ms(when: datetime) -> int:
    return int(when.timestamp() * 1000)


async def test_the_deadline_counts_from_the_completion_and_the_urls_own_word_wins() -> None:
    now = ms(datetime(2025, 4, 12, 20, tzinfo=UTC))
    signed = "https://r.example/b?X-Amz-Date=20250412T120000Z&X-Amz-Expires=30000"
    own = DONE | {
        "response": {"records": [{"_status": {"code": 200}, "_upscaled_image_url": signed}]},
    }
    documents = [
        DONE,
        DONE | {"modified": None},
        DONE | {"modified": "2025-04-13T11:00:00Z"},
        own,
        {"id": "job-1", "status": "FAILED", "modified": DONE["modified"]},
    ]
    completed = ms(datetime(2025, 4, 12, 11, 55, 32, 717459, UTC))
    found = []
    for document in documents:
        async with client(answering(ok(document))) as subject:
            ending = (await subject.get("job-1")).ending
        assert ending is not None
        ((_, deadline),) = provider(lifetime=timedelta(hours=24)).completions(ending, now)
        found.append(deadline.at)
    lifetime = 24 * 3600 * 1000
    assert found == [
        completed + lifetime,
        now + lifetime,
        now + lifetime,  # it cannot have been completed later than now
        ms(datetime(2025, 4, 12, 20, 20, tzinfo=UTC)),
        completed + lifetime,
    ]


@pytest.mark.parametrize(
    "job_id", ["", ".", "..", "a/b", "../status", "a?b", "a#b", "a b", "a%2fb", "é", "x" * 129]
)
async def test_what_can_be_no_id_never_becomes_part_of_a_url(job_id: str) -> None:
    seen: list[httpx.Request] = []
    async with client(answering(ok(DONE), seen=seen)) as subject:
        with pytest.raises(UnknownJobError):
            await subject.get(job_id)
    assert seen == []


async def test_each_call_goes_where_the_page_says_with_the_token() -> None:
    seen: list[httpx.Request] = []
    page: dict[str, Any] = {"results": [], "next": None, "count": 0}
    answers = answering(ok(DONE), ok(page), ok(page), ok(DONE, 201), seen=seen)
    async with client(answers) as subject:
        await subject.get("job-1")
        await subject.page()
        await subject.page("page=2&status=DONE%2C")
        await subject.submit(Upscale("https://example.com/a.png"))
    assert [(request.method, str(request.url).removeprefix(URL)) for request in seen] == [
        ("GET", "/request/job-1"),
        ("GET", "/request"),
        ("GET", "/request?page=2&status=DONE%2C"),
        ("POST", "/request"),
    ]
    assert {request.headers["authorization"] for request in seen} == {f"Token {TOKEN}"}
    assert {request.headers["accept-encoding"] for request in seen} == {"identity"}
    assert seen[-1].headers["content-type"] == "application/json"


# The list

NO_LINKS: list[Any] = [5, "", "https://a/b", "http://[?a", "?a b", "?é", "?" + "x" * 3000, {}]


@pytest.mark.parametrize(
    ("link", "query"),
    [
        (None, None),
        ("http://10.0.0.1:8000/elsewhere?page=2&status=DONE", "page=2&status=DONE"),
        ("?page=2", "page=2"),
        ("/v2/request?cursor=a%3D%3D#part", "cursor=a%3D%3D"),
    ],
)
async def test_of_a_link_the_query_string_alone_is_taken(link: str | None, query: str | None) -> None:
    async with client(answering(ok({"results": [], "next": link}))) as subject:
        assert (await subject.page()).next == query


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"results": None},
        {"results": {}},
        *[{"results": [], "next": link} for link in NO_LINKS],
    ],
)
async def test_a_list_that_is_not_as_the_page_has_it_is_unavailable(document: Any) -> None:
    async with client(answering(ok(document))) as subject:
        with pytest.raises(UnavailableError):
            await subject.page()


async def test_a_row_that_names_no_job_is_left_out_and_others_keep_what_they_say() -> None:
    rows = [5, {"id": "../a", "status": "DONE"}, {"status": "DONE"}, {"id": "a", "status": "NEW WORD"}]
    async with client(answering(ok({"results": rows, "next": None}))) as subject:
        (row,) = (await subject.page()).rows
    assert row == Listed("a", "NEW WORD", None, ended=False)


@pytest.mark.parametrize("status", [None, 5, "x" * 65])
async def test_a_row_that_does_not_say_its_status_costs_no_other(status: Any) -> None:
    rows = [{"id": "a", "status": status}, {"id": "b", "status": "DONE"}]
    async with client(answering(ok({"results": rows, "next": None}))) as subject:
        assert [(row.id, row.status) for row in (await subject.page()).rows] == [("a", ""), ("b", "DONE")]


def endless(next_of: Callable[[int], str], rows_of: Callable[[int], list[Any]]) -> Handler:
    asked = 0

    def handle(_: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return ok({"results": rows_of(asked), "next": next_of(asked)})

    return handle


@pytest.mark.parametrize(
    ("next_of", "rows_of"),
    [
        (lambda _: "?page=2", lambda n: [{"id": f"a{n}", "status": "DONE"}]),
        (lambda n: f"?page={n}", lambda _: [{"id": "a", "status": "DONE"}]),
        (lambda n: f"?page={n}", lambda _: []),
    ],
)
async def test_a_list_without_an_end_is_given_up(next_of: Any, rows_of: Any) -> None:
    async with client(endless(next_of, rows_of)) as subject:
        with pytest.raises(UnavailableError, match="no end"):
            assert len([row async for page in subject.pages() for row in page]) < MAX_REPEATED_PAGES


async def test_a_list_that_brings_new_rows_without_an_end_is_given_up() -> None:
    async with client(endless("?page={}".format, lambda n: [{"id": f"a{n}", "status": "DONE"}])) as subject:
        with pytest.raises(UnavailableError, match="no end"):
            assert [row async for page in subject.pages() for row in page]


def marked(job_id: str, mark: str, **more: Any) -> dict[str, Any]:
    return {
        "id": job_id,
        "status": "DONE",
        "request": {"webhook": {"headers": {SUBMISSION_HEADER.lower(): mark}}},
        **more,
    }


async def searched(**said: httpx.Response) -> str | None:
    """What is found of the mark "mine" by a provider whose jobs answer this."""

    def handle(request: httpx.Request) -> httpx.Response:
        job_id = request.url.path.rpartition("/")[2]
        rows = [{"id": name, "status": "DONE"} for name in said]
        return said[job_id] if job_id in said else ok({"results": rows, "next": None})

    async with client(handle) as subject:
        return await subject.find("mine", since=datetime.now(UTC))


BAD_GETS = [httpx.Response(500), httpx.Response(403), httpx.Response(200, content=b"[]")]


@pytest.mark.parametrize("bad", BAD_GETS)
async def test_a_job_that_gives_no_answer_hides_no_other(bad: httpx.Response) -> None:
    # That the completion of the one that is found cannot be read does not matter: its id is wanted.
    assert await searched(a=bad, b=ok(marked("b", "other")), c=ok(marked("c", "mine"))) == "c"
    with pytest.raises(UnavailableError):
        await searched(a=bad, b=ok(marked("b", "other")))


async def test_a_search_that_gets_no_answers_is_given_up() -> None:
    bad, found = httpx.Response(403), ok(marked("d", "mine"))
    with pytest.raises(TokenRefusedError):
        await searched(a=bad, b=bad, c=bad, d=found)
    with pytest.raises(RateLimitedError):
        await searched(a=httpx.Response(429), d=found)


async def test_a_page_that_is_no_more_ends_the_list_if_the_provider_itself_says_so() -> None:
    first = ok({"results": [{"id": "a", "status": "DONE"}], "next": "?page=2"})
    async with client(answering(first, ok({"detail": "Invalid page."}, 404))) as subject:
        assert [row.id async for page in subject.pages() for row in page] == ["a"]
    for gone in (httpx.Response(404, content=b"<html></html>"), ok({"detail": "Invalid page."}, 410)):
        async with client(answering(first, gone)) as subject:
            with pytest.raises(ProviderError):
                assert [row.id async for page in subject.pages() for row in page]
    async with client(answering(ok({"detail": "Invalid page."}, 404))) as subject:
        with pytest.raises(UnavailableError):
            assert [row.id async for page in subject.pages() for row in page]


# Refusals


def refused(status: int, body: bytes = b"", *, submitting: bool = True, **more: Any) -> ProviderError:
    given: dict[str, Any] = {"headers": {}, "secrets": (), "about_a_job": False, "now": NOW, **more}
    return api_error(status, body=body, submitting=submitting, **given)


@pytest.mark.parametrize(
    ("status", "kind", "maybe_sent"),
    [
        (400, InvalidRequestError, False),
        (401, TokenRefusedError, False),
        (402, NoCreditsError, False),
        (403, TokenRefusedError, False),
        (404, UnavailableError, False),
        (405, InvalidRequestError, False),
        (407, UnavailableError, False),
        (408, UnavailableError, False),
        (413, InvalidRequestError, False),
        (422, InvalidRequestError, False),
        (429, RateLimitedError, False),
        (301, UnavailableError, True),
        (500, UnavailableError, True),
        (502, UnavailableError, True),
        (503, UnavailableError, True),
        (599, UnavailableError, True),
    ],
)
def test_each_status_has_its_error_and_a_4xx_alone_proves_that_there_is_no_job(
    status: int,
    kind: type[ProviderError],
    maybe_sent: bool,  # noqa: FBT001 - a column of the table above
) -> None:
    error = refused(status)
    assert type(error) is kind
    assert error.maybe_sent == maybe_sent
    assert str(status) in error.detail
    assert refused(status, submitting=False).maybe_sent is False


def test_a_404_is_about_the_job_where_one_was_named_and_else_about_the_address() -> None:
    assert type(refused(404, about_a_job=True)) is UnknownJobError
    assert "XIMILAR_API_URL" in refused(404).detail


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"detail": "Invalid token."}', "Invalid token."),
        (b'{"status": {"code": 400, "text": "no credits", "request_id": "x"}}', "no credits."),
        (b'{"detail": [{"msg": "bad", "loc": ["a"]}]}', "msg: bad; loc: a."),
        (b'{"records": ["This field is required."]}', "records: This field is required."),
        (b'{"records": [{"_url": ["bad URL"]}], "mode": ["x"]}', "records: _url: bad URL; mode: x."),
        (b'{"non_field_errors": ["both given"]}', "both given."),
        (b'{"error": {"message": "deep"}}', "deep."),
        (b'["one", "two"]', "one; two."),
        (b'"alone"', "alone."),
        (b"<html><title>502 Bad &amp; Gateway</title></html>", "502 Bad & Gateway."),
        (b"<!DOCTYPE html>\n<TITLE lang='en'>\n Sorry\n</TITLE>", "Sorry."),
        (b"<html>nothing</html>", "it does not say why."),
        (b"upstream\n\tis   away\0", "upstream is away."),
        (b"", "it does not say why."),
        (b"{}", "it does not say why."),
        (b"null", "it does not say why."),
        (b'{"code": 5}', "it does not say why."),
        (b'{"detail": ', "it does not say why."),
        (b"[" * 100_000, "it does not say why."),
        (b"\xff\xfe", "��."),
    ],
)
def test_every_form_of_words_becomes_one_line(body: bytes, said: str) -> None:
    assert explanation(body) == said


def test_long_words_are_cut() -> None:
    assert len(explanation(b"x" * 10_000)) == MAX_EXPLANATION
    assert explanation(b"x" * 10_000).endswith("…")


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"detail": f"header {SECRET} is bad"}),
        json.dumps({"detail": SECRET[:10] + " … " + SECRET[9:]}),
        json.dumps({"webhook": {"headers": {"X-Secret": [f"'{SECRET}'"]}}}),
        f"<title>{SECRET}</title>",
        "y" * (MAX_EXPLANATION - 12) + SECRET,
        json.dumps({"detail": f"Token {TOKEN}"}),
    ],
)
def test_what_was_sent_does_not_come_back_in_a_detail(body: str) -> None:
    detail = refused(400, body.encode(), secrets=(TOKEN, SECRET, "")).detail
    assert "…" in detail
    for own in (TOKEN, SECRET):
        assert not [i for i in range(len(own) - 7) if own[i : i + 8] in detail]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("17", 17.0),
        ("999999999999", 86400.0),
        ("Sun, 15 Jun 2025 15:07:40 GMT", 60.0),
        ("Sun, 15 Jun 2025 15:06:00 GMT", 0.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("²", None),
    ],
)
def test_retry_after_is_read_in_both_forms(text: str, seconds: float | None) -> None:
    assert retry_after.parse(text, NOW) == seconds
    assert refused(429, headers={"retry-after": text}).retry_after == seconds
    assert refused(503, headers={"retry-after": text}).retry_after == seconds


@pytest.mark.parametrize(
    "kind",
    [
        TokenRefusedError,
        NoCreditsError,
        RateLimitedError,
        UnknownJobError,
        InvalidRequestError,
        UnavailableError,
    ],
)
def test_errors_survive_pickling(kind: type[RateLimitedError]) -> None:
    error = pickle.loads(pickle.dumps(kind("words", retry_after=2.0, maybe_sent=True)))
    assert type(error) is kind
    assert (error.detail, error.retry_after, error.maybe_sent) == ("words", 2.0, True)
    assert error.reason == kind.REASON


# What is tried again


async def test_an_answer_to_a_submission_is_waited_for_longer_than_gateways_do() -> None:
    seen: list[httpx.Request] = []
    async with client(answering(ok(DONE), seen=seen)) as subject:
        await subject.get("job-1")
        await subject.submit(Upscale("https://host/a.png"))
    question, submission = (request.extensions["timeout"]["read"] for request in seen)
    assert question < 100 < submission


def lost(kind: type[httpx.TransportError]) -> httpx.TransportError:
    return kind(f"Token {TOKEN} {SECRET}")


@pytest.mark.parametrize(
    ("kind", "attempts", "maybe_sent"),
    [
        (httpx.ConnectError, ATTEMPTS, False),
        (httpx.ConnectTimeout, ATTEMPTS, False),
        (httpx.PoolTimeout, ATTEMPTS, False),
        (httpx.ProxyError, ATTEMPTS, False),
        (httpx.WriteError, 1, True),
        (httpx.WriteTimeout, 1, True),
        (httpx.ReadError, 1, True),
        (httpx.ReadTimeout, 1, True),
        (httpx.RemoteProtocolError, 1, True),
        (httpx.LocalProtocolError, 1, True),
        (httpx.DecodingError, 1, True),
    ],
)
async def test_a_submission_is_sent_again_only_where_nothing_was_sent(
    kind: type[httpx.TransportError],
    attempts: int,
    maybe_sent: bool,  # noqa: FBT001 - a column of the table above
) -> None:
    seen: list[httpx.Request] = []
    async with client(answering(lost(kind), seen=seen)) as subject:
        with pytest.raises(UnavailableError) as failed:
            await subject.submit(Upscale("https://example.com/a.png"))
    assert len(seen) == attempts
    assert failed.value.maybe_sent == maybe_sent
    assert "canary" not in failed.value.detail
    assert failed.value.__suppress_context__


@pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404, 408, 429, 500, 502, 503, 504])
async def test_a_submission_that_was_answered_is_never_sent_again(status: int) -> None:
    seen: list[httpx.Request] = []
    async with client(answering(httpx.Response(status), seen=seen)) as subject:
        with pytest.raises(ProviderError) as failed:
            await subject.submit(Upscale("https://example.com/a.png"))
    assert len(seen) == 1
    assert failed.value.maybe_sent == (not 400 <= status < 500)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200),
        httpx.Response(204),
        httpx.Response(201, content=b"<html></html>"),
        httpx.Response(201, content=b"\xff"),
        httpx.Response(201, content=b'{"id": NaN'),
        ok([]),
        ok({"id": "../a"}),
        ok({"status": "CREATED"}),
        httpx.Response(201, headers={"Content-Encoding": "gzip"}, content=b""),
    ],
)
async def test_a_submission_whose_answer_cannot_be_read_may_have_made_a_job(answer: httpx.Response) -> None:
    async with client(answering(answer)) as subject:
        with pytest.raises(UnavailableError) as failed:
            await subject.submit(Upscale("https://example.com/a.png"))
    assert failed.value.maybe_sent


async def test_a_job_that_was_taken_is_not_lost_for_what_its_answer_lacks() -> None:
    async with client(answering(ok({"id": "a", "status": 5, "created": "?"}, 201))) as subject:
        assert await subject.submit(Upscale("https://example.com/a.png")) == "a"


@pytest.mark.parametrize(
    "bad",
    [
        *map(lost, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.RemoteProtocolError)),
        *map(httpx.Response, (502, 503, 504)),
    ],
    ids=str,
)
async def test_a_question_is_asked_again_with_growing_waits(bad: httpx.Response | Exception) -> None:
    waits: list[float] = []
    async with client(answering(bad, bad, ok(DONE)), waits=waits) as subject:
        assert (await subject.get("job-1")).status == "DONE"
    assert waits == [0.25, 0.5]

    seen: list[httpx.Request] = []
    async with client(answering(bad, seen=seen)) as subject:
        with pytest.raises(UnavailableError) as failed:
            await subject.get("job-1")
    assert len(seen) == ATTEMPTS
    assert not failed.value.maybe_sent
    assert "canary" not in str(failed.value)


@pytest.mark.parametrize(
    "bad", [lost(httpx.ReadTimeout), *map(httpx.Response, (302, 400, 401, 402, 404, 429, 500, 501))], ids=str
)
async def test_a_question_is_not_asked_again_where_that_does_not_help(
    bad: httpx.Response | Exception,
) -> None:
    seen: list[httpx.Request] = []
    async with client(answering(bad, seen=seen)) as subject:
        with pytest.raises(ProviderError):
            await subject.get("job-1")
    assert len(seen) == 1


async def test_a_wait_that_the_provider_asks_for_is_kept_if_short_and_else_left_to_the_caller() -> None:
    waits: list[float] = []
    soon = httpx.Response(503, headers={"Retry-After": "0"})
    later = httpx.Response(503, headers={"Retry-After": "5"})
    async with client(answering(soon, later), waits=waits) as subject:
        with pytest.raises(UnavailableError) as failed:
            await subject.get("job-1")
    assert waits == [0.25]
    assert failed.value.retry_after == 5


# What is too much


class Endless(httpx.AsyncByteStream):
    def __init__(self, piece: bytes) -> None:
        self.piece = piece
        self.given = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.given += len(self.piece)
            yield self.piece


@pytest.mark.parametrize("status", [200, 404])
async def test_an_endless_answer_is_read_to_a_size_and_no_further(status: int) -> None:
    body = Endless(b" " * 65536)
    async with client(answering(httpx.Response(status, stream=body))) as subject:
        with pytest.raises(ProviderError) as failed:
            await subject.page("page=2")
    assert isinstance(failed.value, UnavailableError)
    assert body.given <= MAX_ANSWER_BYTES + 65536


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"id":"job-1","status":' + b"[" * 90_000 + b"]" * 90_000 + b"}",
        b'{"a":[' + b"{}," * MAX_VALUES + b"{}]}",
        b'{"id": ' + b"9" * 5000 + b"}",
    ],
    ids=["deep", "deep within", "many", "a long number"],
)
async def test_json_that_would_cost_more_than_it_says_is_unavailable(body: bytes) -> None:
    async with client(answering(httpx.Response(200, content=body))) as subject:
        with pytest.raises(UnavailableError):
            await subject.get("job-1")


class Breaks(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'{"detail": "Invalid to'
        raise httpx.ReadError("gone")


async def test_a_refusal_that_breaks_off_is_one_all_the_same() -> None:
    async with client(answering(httpx.Response(401, stream=Breaks()))) as subject:
        with pytest.raises(TokenRefusedError) as failed:
            await subject.submit(Upscale("https://example.com/a.png"))
    assert not failed.value.maybe_sent


async def test_an_image_of_megabytes_is_sent_whole_and_its_echo_is_read() -> None:
    image = bytes(range(256)) * 8192

    def echo(request: httpx.Request) -> httpx.Response:
        return ok({"id": "a", "status": "CREATED", "request": json.loads(request.content)}, 201)

    async with client(echo) as subject:
        assert await subject.submit(Upscale(image)) == "a"
