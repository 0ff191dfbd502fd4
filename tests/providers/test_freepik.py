"""Freepik by its description: its proof, both forms of its bodies, its URLs' ends, and asking it."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from receiver.config import load
from receiver.core.errors import AuthError, BodyError, UnavailableError, UnknownJobError
from receiver.providers.base import Calls, Ending, Provider, Running, Setup
from receiver.providers.registry import open_providers
from tests.providers.samples.freepik import OLD, SECRET, headers, task

NOW = 1_780_000_000
VECTORS = [
    vector
    for vector in json.loads(Path(__file__).with_name("vectors.json").read_text("utf-8"))
    if vector["provider"] == "freepik"
]
BODY = task("t1", "COMPLETED", ["https://example.test/y.png"])


def freepik(secret: str = f"{SECRET},{OLD}", *, now: float = NOW, **more: str) -> Provider:
    environ = {"FREEPIK_WEBHOOK_SECRET": secret, **more}
    return open_providers(Setup(load(environ), environ, lambda: int(now * 1000)))["freepik"]


def is_proved(provider: Provider, sent: dict[str, str], body: bytes) -> bool:
    raw = [(name.lower().encode(), value.encode()) for name, value in sent.items()]
    try:
        provider.proof.admit(raw)
        provider.proof.check(raw, body)
    except AuthError:
        return False
    return True


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["case"])
def test_others_judge_a_signature_alike(vector: dict[str, Any]) -> None:
    provider = freepik(vector["secret"], now=vector["now"])
    proved = is_proved(provider, vector["headers"], base64.b64decode(vector["body_b64"]))
    assert proved == (vector["expect"] == "accept")


def test_a_package_of_others_signs_alike() -> None:
    signature = Webhook(SECRET.encode()).sign("msg_1", datetime.fromtimestamp(NOW, UTC), BODY.decode())
    assert headers(BODY, NOW, SECRET.encode())["webhook-signature"] == signature


@pytest.mark.parametrize("key", [SECRET, OLD])
@pytest.mark.parametrize("label", ["v1", "v2", "v17"])
def test_any_secret_proves_with_any_version(key: str, label: str) -> None:
    assert is_proved(freepik(), headers(BODY, NOW, key.encode(), label=label), BODY)


def test_the_secret_may_also_be_given_as_standard_webhooks_writes_it() -> None:
    written = "whsec_" + base64.b64encode(SECRET.encode()).decode()
    assert is_proved(freepik(written), headers(BODY, NOW, SECRET.encode()), BODY)


def test_a_good_signature_counts_behind_a_wrong_one() -> None:
    sent = headers(BODY, NOW, SECRET.encode(), label="v2")
    sent["webhook-signature"] = f"v1,{base64.b64encode(b'x' * 32).decode()} {sent['webhook-signature']}"
    assert is_proved(freepik(), sent, BODY)


@pytest.mark.parametrize(("late", "proved"), [(300, True), (-300, True), (301, False), (-301, False)])
def test_five_minutes_are_tolerated_and_no_second_more(late: int, proved: bool) -> None:  # noqa: FBT001
    assert is_proved(freepik(now=NOW + late), headers(BODY, NOW, SECRET.encode()), BODY) is proved


@pytest.mark.parametrize("field", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_no_header_may_miss_or_be_changed(field: str) -> None:
    sent = headers(BODY, NOW, SECRET.encode())
    assert not is_proved(freepik(), {**sent, field: ""}, BODY)
    assert not is_proved(freepik(), {**sent, field: sent[field] + "1"}, BODY)


@pytest.mark.parametrize("wrapped", [False, True])
def test_both_forms_of_a_body_are_read(wrapped: bool) -> None:  # noqa: FBT001
    def form(body: bytes) -> bytes:
        return b'{"data": ' + body + b"}" if wrapped else body

    urls = ["https://cdn.example.test/1.png", "https://cdn.example.test/2.png"]
    provider = freepik()
    ended = provider.read(form(task("t-1", "COMPLETED", urls)))
    assert isinstance(ended, Ending)
    assert [output.url for output in ended.outputs] == urls
    failed = provider.read(form(task("t-1", "FAILED", ())))
    assert isinstance(failed, Ending)
    assert failed.failure is not None
    assert (failed.failure.reason, failed.failure.detail) == ("provider.job_failed", "FAILED")
    for status in ("CREATED", "IN_PROGRESS", "completed", "SOMETHING_NEW"):
        assert provider.read(form(task("t-1", status, ()))) == Running("t-1", status)


def test_the_end_of_a_url_is_that_of_its_token() -> None:
    url = f"https://cdn.example.test/1.png?token=exp={NOW + 3600}~hmac=abcd"
    provider = freepik()
    reading = provider.read(task("t", "COMPLETED", [url, "https://cdn.example.test/2.png"]))
    assert isinstance(reading, Ending)
    first, second = provider.completions(reading, NOW * 1000)
    assert (first[0].id, first[1].at) == ("freepik:t", (NOW + 3600) * 1000)
    assert (second[0].id, second[1].at) == ("freepik:t~2", (NOW + 12 * 3600) * 1000)


def test_an_end_without_a_file_is_a_failure_where_nobody_can_be_asked() -> None:
    reading = freepik().read(task("t", "COMPLETED", ()))
    assert isinstance(reading, Ending)
    assert reading.failure is not None
    assert reading.failure.reason == "provider.no_output"
    asked = freepik(FREEPIK_API_KEY="key").read(task("t", "COMPLETED", ()))
    assert asked == Ending("t")


@pytest.mark.parametrize("own_id", [7, None, "", ".", "..", "a/b", "x" * 129, "a b", ["t"], {"a": 1}, True])
def test_an_id_that_is_none_is_refused(own_id: object) -> None:
    with pytest.raises(BodyError, match="no job's id"):
        freepik().read(task(own_id, "COMPLETED", ["https://example.test/y.png"]))


class Api:
    """Freepik's API, which remembers what it was asked."""

    def __init__(self, status: int, answer: object) -> None:
        self.requests: list[httpx.Request] = []
        self._answer = httpx.Response(status, json=answer)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._answer


async def asked(api: Api, endpoint: str | None = None) -> Any:
    provider = freepik(FREEPIK_API_KEY="fixture-key", FREEPIK_API_URL="https://api.example.test")
    client = provider.open_client(Calls(transport=httpx.MockTransport(api)))
    assert client is not None
    try:
        return await client.get("t1", endpoint)
    finally:
        await client.aclose()


async def test_asking_sends_the_key_in_both_headers_and_reads_the_wrapped_form() -> None:
    api = Api(200, {"data": json.loads(BODY)})
    report = await asked(api)
    assert (report.id, report.status) == ("t1", "COMPLETED")
    assert [output.url for output in report.ending.outputs] == ["https://example.test/y.png"]
    (request,) = api.requests
    assert str(request.url) == "https://api.example.test/v1/ai/image-upscaler/t1"
    assert {request.headers[f"x-{brand}-api-key"] for brand in ("freepik", "magnific")} == {"fixture-key"}


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        ("image-upscaler-precision", "/v1/ai/image-upscaler-precision/t1"),
        ("../../admin", "/v1/ai/image-upscaler/t1"),
        ("a?b=c", "/v1/ai/image-upscaler/t1"),
    ],
)
async def test_an_endpoint_of_the_announcement_is_asked_and_leaves_no_path(endpoint: str, path: str) -> None:
    api = Api(200, {"data": json.loads(task("t1", "IN_PROGRESS", ()))})
    report = await asked(api, endpoint)
    assert (report.status, report.ending) == ("IN_PROGRESS", None)
    assert api.requests[0].url.raw_path.decode() == path


async def test_answers_that_help_nothing_are_errors_of_the_provider() -> None:
    with pytest.raises(UnknownJobError):
        await asked(Api(404, {"message": "no such task"}))
    for answer in (b"{}", task("t2", "COMPLETED", ())):
        with pytest.raises(UnavailableError):
            await asked(Api(200, {"data": json.loads(answer)}))
    report = await asked(Api(200, json.loads(task("t1", "COMPLETED", ()))))
    assert report.ending.failure.reason == "provider.no_output"
