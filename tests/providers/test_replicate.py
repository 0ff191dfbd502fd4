"""Replicate: what proves a delivery, what a prediction says, and how its API is asked."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from receiver.config import load
from receiver.core.errors import AuthError, BodyError, UnavailableError, UnknownJobError
from receiver.core.headers import RawHeaders
from receiver.providers.base import Calls, Client, Ending, Provider, Running, Setup
from receiver.providers.replicate.provider import build
from tests.providers.samples import SAMPLES
from tests.providers.samples.replicate import SECRET, STRANGER, TOKEN, prediction, signed
from tests.providers.test_conformance import desk_of
from tests.support.clock import HOUR, NOW, Clock
from tests.support.desk import stamp

URL = "https://replicate.delivery/xezq/a.png"
AT = NOW // 1000


def provider(at: int = NOW, /, **settings: str) -> Provider:
    given = {"REPLICATE_WEBHOOK_SECRET": SECRET, **settings}
    found = build(Setup(load(given), given, Clock(at)))
    assert found is not None
    return found


def asked(answers: Callable[[httpx.Request], httpx.Response]) -> Client:
    async def answer(request: httpx.Request) -> httpx.Response:
        given = answers(request)

        async def body() -> AsyncIterator[bytes]:
            yield given.content

        return httpx.Response(given.status_code, content=body())

    settings = {"REPLICATE_API_TOKEN": TOKEN, "REPLICATE_API_URL": "https://provider/v1"}
    client = provider(**settings).open_client(Calls(transport=httpx.MockTransport(answer)))
    assert client is not None
    return client


def is_proved(subject: Provider, headers: RawHeaders, body: bytes) -> bool:
    try:
        subject.proof.admit(headers)
        subject.proof.check(headers, body)
    except AuthError as error:
        return str(error) != str(AuthError("auth.refused"))
    return True


def raw(headers: Mapping[str, str]) -> RawHeaders:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def read(**fields: object) -> Ending:
    reading = provider().read(prediction("p1", **fields))
    assert isinstance(reading, Ending)
    return reading


# The proof.


@pytest.mark.parametrize(("late", "proved"), [(0, 1), (300, 1), (-300, 1), (301, 0), (-301, 0), (3600, 0)])
def test_five_minutes_late_or_early_are_the_most(late: int, proved: int) -> None:
    assert is_proved(provider(), raw(signed(SECRET, b"{}", AT - late)), b"{}") == bool(proved)


def test_any_of_several_secrets_proves_a_delivery_and_any_of_several_signatures() -> None:
    both = provider(REPLICATE_WEBHOOK_SECRET=f"{STRANGER},{SECRET}")
    old, new = signed(SECRET, b"{}", AT), signed(STRANGER, b"{}", AT)
    joined = {**old, "webhook-signature": f"{new['webhook-signature']} {old['webhook-signature']}"}

    assert [is_proved(both, raw(it), b"{}") for it in (old, new, joined)] == [True, True, True]
    assert [is_proved(provider(), raw(it), b"{}") for it in (old, new, joined)] == [True, False, True]


@pytest.mark.parametrize(
    "spoilt",
    [
        "v2,!!! {}",
        "v2,AAAA {}",
        "v1a,AAAA\t{}",
        "  {}  ",
        "v1, {}",
        ",{} {}",
        "{},",
        "{} v1",
        "v1 , {}",
        "é,x {}",
    ],
)
def test_a_token_that_is_none_does_not_spoil_the_good_one_beside_it(spoilt: str) -> None:
    headers = signed(SECRET, b"{}", AT)
    headers["webhook-signature"] = spoilt.replace("{}", headers["webhook-signature"])
    is_whole = headers["webhook-signature"].split()[-1] != headers["webhook-signature"].strip()

    assert is_proved(provider(), raw(headers), b"{}") == (is_whole or spoilt == "  {}  ")


@pytest.mark.parametrize(
    "signature", ["", " ", ",", "v1", "v1,", "v1,!", "v1,é", "v1,AAAA,", "=", "\t", "v1 AAAA"]
)
def test_a_malformed_header_is_a_refusal_like_any_other(signature: str) -> None:
    assert not is_proved(
        provider(), raw({**signed(SECRET, b"{}", AT), "webhook-signature": signature}), b"{}"
    )


def test_a_good_signature_with_another_label_is_proved_as_replicates_own_clients_do() -> None:
    headers = signed(SECRET, b"{}", AT)
    headers["webhook-signature"] = headers["webhook-signature"].replace("v1,", "v2,")

    assert is_proved(provider(), raw(headers), b"{}")


def test_what_the_package_signs_is_proved_and_what_it_refuses_is_not() -> None:
    now = int(datetime.now(UTC).timestamp())
    body = prediction("p1", output=URL)
    good = Webhook(SECRET).sign("msg_7", datetime.fromtimestamp(now, UTC), body.decode())
    subject = provider(now * 1000)
    for signature in (good, good[:-4] + "AAA=", good.replace("v1,", "v1,A"), f"v1a,AAAA {good}"):
        headers = {"webhook-id": "msg_7", "webhook-timestamp": str(now), "webhook-signature": signature}
        try:
            Webhook(SECRET).verify(body, headers, json_parse=False)
        except (WebhookVerificationError, ValueError):
            accepted = False
        else:
            accepted = True
        assert is_proved(subject, raw(headers), body) == accepted, signature


# The body.


@pytest.mark.parametrize(
    ("output", "urls"),
    [
        (URL, [URL]),
        ([URL, URL + "?2"], [URL, URL + "?2"]),
        ({"image": URL, "preview": URL + "?2"}, [URL, URL + "?2"]),
        ({"z": [{"b": URL + "?1"}, URL + "?2"], "a": URL + "?3"}, [URL + f"?{n}" for n in (1, 2, 3)]),
        ({"image": URL, "caption": "a cat", "seed": 7}, [URL]),
        ({"caption": "data: a cat", "image": "data:image/png;base64,iVBO"}, ["data:image/png;base64"]),
        ("HTTP://replicate.delivery/a b.png", ["HTTP://replicate.delivery/a%20b.png"]),
        ([URL, None, {"text": "a", "image": URL + "?2"}], [URL, None, URL + "?2"]),
        ([URL, "ftp://a.test/x"], [URL, "ftp://a.test/x"]),
    ],
)
def test_outputs_of_any_form_are_read_in_their_order(output: object, urls: list[str]) -> None:
    ending = read(output=output)

    assert ([it.url for it in ending.outputs], ending.failure) == (urls, None)
    found = provider().completions(ending, NOW)
    assert [it.id for it, _ in found] == [
        "replicate:p1",
        *(f"replicate:p1~{n}" for n in range(2, len(urls) + 1)),
    ]


@pytest.mark.parametrize(
    "output", ["a poem", ["a", " poem"] * 4000, {"text": "x"}, 7, True, "file:///etc/passwd"]
)
def test_an_output_that_names_no_file_is_one_text_that_is_rejected(output: object) -> None:
    assert [(it.url, it.content_type) for it in read(output=output).outputs] == [(None, "text/plain")]


@pytest.mark.parametrize("status", ["failed", "canceled", "aborted"])
def test_a_bad_end_has_the_providers_words(status: str) -> None:
    failure = read(status=status, error="CUDA out\nof memory", output=[URL]).failure

    assert failure is not None
    assert (failure.reason, failure.detail) == ("provider.job_failed", f"{status}: CUDA out of memory")


@pytest.mark.parametrize("fields", [{"output": None}, {"output": []}, {"output": {}}, {"data_removed": True}])
def test_a_good_end_without_output_is_a_failure_that_says_why(fields: dict[str, object]) -> None:
    failure = read(**fields).failure

    assert failure is not None
    assert failure.reason == "provider.no_output"
    assert ("removed" in failure.detail) == ("data_removed" in fields)


@pytest.mark.parametrize("status", ["starting", "processing"])
def test_what_has_not_ended_is_no_end_whatever_output_it_has(status: str) -> None:
    assert provider().read(prediction("p1", status=status, output=[URL])) == Running("p1", status)


@pytest.mark.parametrize("status", [None, 7, "", "completed", "SUCCEEDED", "paused"])
def test_an_unknown_status_is_kept_for_an_operator(status: object) -> None:
    with pytest.raises(BodyError):
        provider().read(prediction("p1", status=status, output=URL))


def test_the_hour_runs_from_the_predictions_end_and_never_from_a_late_receipt() -> None:
    def ends(completed_at: object, **settings: str) -> int:
        ending = provider(**settings).read(prediction("p1", output=URL, completed_at=completed_at))
        assert isinstance(ending, Ending)
        ((_, deadline),) = provider(**settings).completions(ending, NOW)
        return deadline.at - NOW

    assert ends(stamp(NOW - HOUR // 2)) == HOUR // 2
    assert ends(stamp(NOW - 2 * HOUR)) == -HOUR
    assert ends(None) == ends("soon") == ends(stamp(NOW + HOUR)) == HOUR
    assert ends(stamp(NOW), RECEIVER_URL_LIFETIME="replicate=50m") == HOUR * 50 // 60
    assert ends(stamp(NOW), RECEIVER_URL_LIFETIME="24h") == HOUR


def test_what_the_body_echoes_is_kept_nowhere() -> None:
    subject = provider(REPLICATE_API_TOKEN=TOKEN)
    kept = subject.redact(prediction("p1", output=URL, logs=f"{TOKEN} and {SECRET}"))

    assert b"fixture-of-the-" not in kept
    assert SECRET.encode() not in kept
    assert json.loads(kept)["output"] == URL
    assert subject.redact(b"\xff no JSON " + TOKEN.encode()) == b"\xff no JSON **********"
    for echo in ({"data": {"input": {"key": "k3y"}}}, [{"input": "k3y", "at": float("nan")}]):
        assert b"k3y" not in subject.redact(json.dumps(echo).encode())
    assert read(output=URL).source_url == "https://images.invalid/in.png"


# Asking.


async def test_a_question_gives_the_end_without_what_it_echoes() -> None:
    body = prediction("p1", output=[URL, URL + "?2"], completed_at=stamp(NOW))
    report = await asked(lambda _: httpx.Response(200, content=body)).get("p1")

    assert (report.id, report.status, report.ending) == ("p1", "succeeded", provider().read(body))
    assert b"fixture-of-the-" not in report.body


@pytest.mark.parametrize("status", ["starting", "processing", "a new word"])
async def test_a_question_about_what_has_not_ended_has_no_ending(status: str) -> None:
    report = await asked(lambda _: httpx.Response(200, content=prediction("p1", status=status))).get("p1")

    assert (report.status, report.ending) == (status, None)


async def test_a_question_about_no_job_is_not_sent_and_one_about_another_not_believed() -> None:
    client = asked(lambda _: httpx.Response(200, content=prediction("p2")))
    with pytest.raises(UnknownJobError):
        await client.get("../account")
    with pytest.raises(UnavailableError):
        await client.get("p1")
    with pytest.raises(UnknownJobError):
        await asked(lambda _: httpx.Response(404, json={"detail": "no"})).get("p1")


async def test_the_list_is_read_page_by_page_from_the_apis_own_address() -> None:
    rows: list[dict[str, object]] = [
        {"id": f"p{n}", "status": "succeeded", "created_at": stamp(NOW)} for n in range(5)
    ]
    rows[1]["status"] = "processing"
    rows[4] |= {"data_removed": True}
    requests = []

    def page(request: httpx.Request) -> httpx.Response:
        requests.append(str(request.url))
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        first = int(request.url.params.get("cursor", "0"))
        link = f"https://elsewhere.invalid/v1/predictions?cursor={first + 2}" if first < 4 else None
        results: list[Any] = [*rows[first : first + 2], {"id": "a/b"}, 7]
        return httpx.Response(200, json={"next": link, "previous": None, "results": results})

    found = [row async for page in asked(page).pages() for row in page]

    assert [(it.id, it.ended, it.adoptable, it.created) for it in found] == [
        ("p0", True, True, NOW),
        ("p1", False, True, NOW),
        ("p2", True, True, NOW),
        ("p3", True, True, NOW),
        ("p4", True, False, NOW),
    ]
    assert requests == [f"https://provider/v1/predictions{query}" for query in ("", "?cursor=2", "?cursor=4")]


async def test_a_list_without_an_end_is_given_up() -> None:
    endless = {"next": "https://provider/v1/predictions?cursor=1", "results": []}
    with pytest.raises(UnavailableError):
        async for _ in asked(lambda _: httpx.Response(200, json=endless)).pages():
            pass


# The files.


@pytest.mark.parametrize(
    ("scheme", "host", "port", "sent"),
    [
        ("https", "replicate.delivery", 443, 1),
        ("https", "eu.x.replicate.delivery", 443, 1),
        ("http", "replicate.delivery", 80, 0),
        ("https", "replicate.delivery", 8443, 0),
        ("https", "replicate.delivery.evil.test", 443, 0),
        ("https", "xreplicate.delivery", 443, 0),
        ("https", "replicate.com", 443, 0),
        ("https", "127.0.0.1", 443, 0),
    ],
)
def test_the_token_goes_to_the_providers_own_file_hosts_alone(
    scheme: str, host: str, port: int, sent: int
) -> None:
    files = provider(REPLICATE_API_TOKEN=TOKEN).files
    assert files is not None

    expected = {"Authorization": f"Bearer {TOKEN}"} if sent else {}
    assert files.headers_for(scheme, host, port) == expected
    assert TOKEN not in repr(files)


def test_without_a_secret_it_is_off() -> None:
    assert build(Setup(load({}), {})) is None
    assert provider().open_client(Calls()) is None
    assert provider().url_lifetime == timedelta(hours=1)


async def test_a_refusal_repeats_no_secret(tmp_path: Path) -> None:
    async with desk_of(SAMPLES["replicate"], tmp_path) as desk:  # which looks into answers and log
        answer = await desk.deliver(prediction("run1", status=TOKEN))
        (kept,) = (await desk.get("/deliveries"))["deliveries"]

    assert answer.status_code == 422
    assert "status is **********" in kept["detail"]
