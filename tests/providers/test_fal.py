"""fal.ai: which keys prove a delivery, which files a payload holds, and how the queue is asked."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from receiver.config import load
from receiver.core.completion import MAX_URL
from receiver.core.errors import AuthError, BodyError, ConfigError, InvalidRequestError, UnknownJobError
from receiver.core.headers import RawHeaders
from receiver.providers import key_set
from receiver.providers.base import Calls, Client, Ending, Proof, Provider, Setup
from receiver.providers.fal.provider import OWN_JWKS_URL, FalProvider, build
from receiver.providers.fal.results import app_of, of_links
from receiver.providers.key_set import KeySet
from tests.providers.samples.fal import KEY, STRANGER, TOKEN, jwk, jwks, result, signed
from tests.support.clock import HOUR, NOW, SECOND, Clock

URL = "https://v3.fal.media/files/a/b.png"
AT = NOW // 1000
MINUTE = 60 * SECOND

VECTORS = [
    row
    for row in json.loads(Path(__file__).with_name("vectors.json").read_text(encoding="utf-8"))
    if row["provider"] == "fal"
]


def provider(at: int = NOW, /, **settings: str) -> Provider:
    given = {"FAL_JWKS": jwks(KEY), **settings}
    found = build(Setup(load(given), given, Clock(at)))
    assert found is not None
    return found


async def judged(subject: Provider, headers: Mapping[str, str], body: bytes = b"{}") -> str:
    """``proved``, or the reason of the refusal."""
    try:
        subject.proof.admit(raw(headers))
        proof = subject.proof.check(raw(headers), body)
        assert (proof if isinstance(proof, Proof) else await proof) == Proof()
    except AuthError as error:
        return error.reason
    return "proved"


def raw(headers: Mapping[str, str]) -> RawHeaders:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def read(**fields: object) -> Ending:
    reading = provider().read(result("r1", **fields))
    assert isinstance(reading, Ending)
    return reading


# The proof.


@pytest.mark.parametrize("row", VECTORS, ids=lambda row: row["case"])
async def test_a_delivery_is_judged_as_independent_packages_judge_it(row: dict[str, Any]) -> None:
    settings = {"FAL_JWKS": json.dumps(row["jwks"])}
    if not row["jwks"]["keys"]:
        with pytest.raises(ConfigError):
            provider(**settings)
        return
    outcome = await judged(
        provider(row["now"] * 1000, **settings), row["headers"], base64.b64decode(row["body_b64"])
    )
    assert outcome == ("proved" if row["expect"] == "accept" else "auth.refused")


@pytest.mark.parametrize(("late", "proved"), [(0, 1), (300, 1), (-300, 1), (301, 0), (-301, 0), (7200, 0)])
async def test_five_minutes_late_or_early_are_the_most(late: int, proved: int) -> None:
    outcome = await judged(provider(), signed(KEY, b"{}", AT - late))

    assert outcome == ("proved" if proved else "auth.refused")


@pytest.mark.parametrize("change", [str.upper, str.lower, lambda text: f" {text} "])
async def test_hex_is_read_in_either_case(change: Callable[[str], str]) -> None:
    headers = signed(KEY, b"{}", AT)
    headers["X-Fal-Webhook-Signature"] = change(headers["X-Fal-Webhook-Signature"])

    assert await judged(provider(), headers) == "proved"


@pytest.mark.parametrize(
    "signature", ["", "0", "zz", "00" * 64, "00" * 63, "00" * 10_000, "é", "v1,AAAA", "0x"]
)
async def test_a_malformed_signature_is_a_refusal_like_any_other(signature: str) -> None:
    headers = {**signed(KEY, b"{}", AT), "X-Fal-Webhook-Signature": signature}

    assert await judged(provider(), headers) == "auth.refused"


@pytest.mark.parametrize("name", ["Request-Id", "User-Id", "Timestamp"])
async def test_each_line_is_signed(name: str) -> None:
    headers = signed(KEY, b"{}", AT)
    headers[f"X-Fal-Webhook-{name}"] = str(AT - 1) if name == "Timestamp" else "another"

    assert await judged(provider(), headers) == "auth.refused"


# The keys.


def test_a_key_set_may_hold_what_is_no_key_of_this_kind() -> None:
    rows: list[object] = [
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        {"kty": "OKP", "crv": "X25519", "x": jwk(KEY)["x"]},
        {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"},
        {"kty": "OKP", "crv": "Ed25519", "x": "!" * 43},
        {"kty": "OKP", "crv": "Ed25519", "x": None},
        {"kty": "OKP", "crv": "Ed25519"},
        7,
        None,
        jwk(KEY) | {"kid": "unknown", "use": "sig"},
    ]

    assert len(key_set.parse(json.dumps({"keys": rows}))) == 1


@pytest.mark.parametrize(
    "text",
    [
        '{"keys": []}',
        '{"keys": {}}',
        "{}",
        '{"keys": [{"kty": "RSA"}]}',
        "{",
        "/no/such/file",
        ".",
        "x" * 5000,
    ],
)
def test_a_pinned_set_without_a_key_stops_the_start(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^FAL_JWKS: "):
        provider(FAL_JWKS=text)


async def test_the_pinned_keys_can_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(jwks(STRANGER, KEY))

    assert await judged(provider(FAL_JWKS=str(file)), signed(KEY, b"{}", AT)) == "proved"


@pytest.mark.parametrize(
    "url",
    [
        *("http://keys.invalid/jwks.json", "file:///etc/passwd", "https://", "x", "https://["),
        "https://user:k3y@keys.invalid/jwks.json",
    ],
)
def test_the_address_of_the_keys_cannot_be_altered_on_the_way(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^FAL_JWKS_URL: ") as error:
        provider(FAL_JWKS_URL=url)
    assert "k3y" not in str(error.value)


def test_the_address_is_fals_own_by_one_word() -> None:
    subject = provider(FAL_JWKS_URL="default")
    assert isinstance(subject, FalProvider)
    assert (subject.proof.keys.url, len(subject.proof.keys.pinned)) == (OWN_JWKS_URL, 1)
    assert build(Setup(load({}), {})) is None


class Address:
    """Where keys are read: what it answers with, and how often it was asked."""

    def __init__(self, *keys: Any) -> None:
        self.text = jwks(*keys)
        self.status = 200
        self.asked = 0
        self.clock = Clock()

    def provider(self, *pinned: Any) -> FalProvider:
        subject = provider(FAL_JWKS_URL="https://keys.invalid/jwks.json")
        assert isinstance(subject, FalProvider)
        keys = KeySet(
            key_set.parse(jwks(*pinned)) if pinned else (),
            "https://keys.invalid/jwks.json",
            now=self.clock,
            transport=httpx.MockTransport(self._answer),
        )
        subject.proof = replace(subject.proof, now=self.clock, keys=keys)
        return subject

    def signed(self, key: Any) -> dict[str, str]:
        return signed(key, b"{}", self.clock.now // 1000)

    async def _answer(self, _request: httpx.Request) -> httpx.Response:
        self.asked += 1
        await asyncio.sleep(0)  # others come meanwhile

        async def body() -> AsyncIterator[bytes]:
            yield self.text.encode()

        return httpx.Response(self.status, content=body())


async def test_keys_are_read_once_for_a_crowd_and_kept_for_a_day() -> None:
    at = Address(KEY)
    subject = at.provider()

    outcomes = await asyncio.gather(*(judged(subject, at.signed(KEY)) for _ in range(50)))
    assert (set(outcomes), at.asked) == ({"proved"}, 1)
    at.clock.forward(24 * HOUR - SECOND)
    assert (await judged(subject, at.signed(KEY)), at.asked) == ("proved", 1)
    at.clock.forward(SECOND)
    assert (await judged(subject, at.signed(KEY)), at.asked) == ("proved", 2)


async def test_the_last_good_keys_serve_while_none_can_be_read() -> None:
    at = Address(KEY)
    subject = at.provider()
    await judged(subject, at.signed(KEY))

    for at.status, at.text in (
        (500, ""),
        (200, "<html>"),
        (200, '{"keys": []}'),
        (302, ""),
        (200, "x" * 10**6),
    ):
        at.clock.forward(25 * HOUR)
        before = at.asked
        assert [await judged(subject, at.signed(KEY)) for _ in range(3)] == ["proved"] * 3
        assert at.asked == before + 1


async def test_the_keys_are_counted_once_each_and_what_keeps_them_away_is_named() -> None:
    at = Address(KEY, STRANGER)
    assert await at.provider(KEY).proof.count_keys() == 2
    assert await provider(FAL_JWKS=jwks(KEY)).proof.count_keys() == 1
    for at.status, at.text, why in (
        (500, "", "is answered with 500"),
        (200, "<html>", "is no JWKS"),
        (200, '{"keys": []}', "holds no Ed25519 key"),
        (200, "x" * 10**6, "is too large"),
    ):
        with pytest.raises(AuthError, match=why) as raised:
            await at.provider(KEY).proof.count_keys()
        assert raised.value.reason == "auth.keys_unavailable"


async def test_keys_that_were_never_had_are_no_refusal() -> None:
    at = Address(KEY)
    at.status = 503
    subject = at.provider()

    assert await judged(subject, at.signed(KEY)) == "auth.keys_unavailable"
    assert await judged(subject, at.signed(STRANGER)) == "auth.keys_unavailable"
    assert at.asked == 1
    assert await judged(subject, {**at.signed(KEY), "X-Fal-Webhook-Signature": "x"}) == "auth.refused"
    at.status = 200
    at.clock.forward(SECOND)
    assert await judged(subject, at.signed(KEY)) == "proved"
    assert await judged(subject, at.signed(STRANGER)) == "auth.refused"


async def test_pinned_keys_serve_while_the_others_cannot_be_read() -> None:
    at = Address(STRANGER)
    at.status = 503
    subject = at.provider(KEY)

    assert await judged(subject, at.signed(KEY)) == "proved"
    at.status = 200
    at.clock.forward(MINUTE)
    assert [await judged(subject, at.signed(key)) for key in (KEY, STRANGER)] == ["proved"] * 2


async def test_a_new_key_is_read_at_once_and_strangers_cause_one_question_a_minute() -> None:
    at = Address(KEY)
    subject = at.provider()
    assert await judged(subject, at.signed(KEY)) == "proved"

    at.text = jwks(KEY, STRANGER)
    assert (await judged(subject, at.signed(STRANGER)), at.asked) == ("proved", 2)
    at.text = jwks(STRANGER)
    for _ in range(100):
        headers = {**at.signed(KEY), "X-Fal-Webhook-Signature": "00" * 64}
        assert await judged(subject, headers) == "auth.refused"
    assert at.asked == 2
    at.clock.forward(MINUTE)
    assert (await judged(subject, headers), at.asked) == ("auth.refused", 3)
    assert await judged(subject, at.signed(KEY)) == "auth.refused"  # it is in the set no more


async def test_an_unknown_signature_while_the_keys_cannot_be_read_may_be_of_a_new_key() -> None:
    at = Address(KEY)
    subject = at.provider()
    await judged(subject, at.signed(KEY))
    at.status = 500

    assert await judged(subject, at.signed(STRANGER)) == "auth.keys_unavailable"
    assert await judged(subject, at.signed(KEY)) == "proved"


# The body.


def test_files_of_any_model_are_found_in_their_order_with_what_is_promised() -> None:
    payload = {
        "seed": 7,
        "images": [
            {"url": URL, "content_type": "image/png", "file_size": 9, "width": 3, "height": 4},
            {"url": URL + "?2", "content_type": None, "file_size": None, "width": None, "height": "x"},
        ],
        "debug": {"deep": [[{"mask": {"url": URL + "?3", "content_type": "image/webp; q=1"}}]]},
        "video": {"url": URL + "?4", "content_type": "video/mp4"},
        "prompt": "https://elsewhere.invalid/a",
        "nothing": {"url": None},
    }
    found = [(it.url, it.content_type, it.bytes, it.width, it.height) for it in read(payload=payload).outputs]

    assert found == [
        (URL, "image/png", 9, 3, 4),
        (URL + "?2", None, None, None, None),
        (URL + "?3", "image/webp", None, None, None),
        (URL + "?4", "video/mp4", None, None, None),
    ]


@pytest.mark.parametrize(
    ("payload", "outputs"),
    [
        ({"image": URL}, [(URL, None)]),
        ({"images": [URL, URL + "?2"]}, [(URL, None), (URL + "?2", None)]),
        ({"text": "a poem"}, [(None, "text/plain")]),
        ({"image": {"url": "data:image/png;base64," + "A" * MAX_URL}}, [("data:image/png;base64", None)]),
        ({"images": [{"url": 7}, {"url": URL}]}, [(None, None), (URL, None)]),
    ],
)
def test_other_payloads_are_read_as_far_as_they_go(payload: object, outputs: list[object]) -> None:
    assert [(it.url, it.content_type) for it in read(payload=payload).outputs] == outputs


def test_a_payload_that_is_deep_is_walked_without_a_stack() -> None:
    payload: object = {"url": URL}
    for _ in range(300):
        payload = [payload]
    assert [it.url for it in read(payload=payload).outputs] == [URL]


@pytest.mark.parametrize(
    "fields", [{"payload": None}, {"payload": None, "payload_error": "no"}, {"payload_error": "x"}]
)
def test_a_payload_that_is_missing_is_asked_for(fields: dict[str, object]) -> None:
    links = {"response_url": "https://queue.fal.run/fal-ai/esrgan/requests/r1"}
    ending = read(**fields, **links)

    assert (ending.outputs, ending.failure, ending.endpoint) == ((), None, "fal-ai/esrgan")


def test_a_failure_has_the_models_own_words() -> None:
    detail = [{"loc": ["body", "image_url"], "msg": "The image is too large.", "type": "value_error"}]
    failure = read(status="ERROR", error="Invalid status code: 422", payload={"detail": detail}).failure
    assert failure is not None
    assert failure.reason == "provider.job_failed"
    assert failure.detail.startswith("Invalid status code: 422: ")
    assert "The image is too large." in failure.detail
    nothing = read(payload={}).failure
    assert nothing is not None
    assert nothing.reason == "provider.no_output"


@pytest.mark.parametrize("status", [None, 7, "", "ok", "COMPLETED", "DONE"])
def test_an_unknown_status_is_kept_for_an_operator(status: object) -> None:
    with pytest.raises(BodyError):
        provider().read(result("r1", status=status, payload={"image": {"url": URL}}))


# Asking.


@pytest.mark.parametrize(
    ("endpoint", "app"),
    [
        ("fal-ai/esrgan", "fal-ai/esrgan"),
        ("fal-ai/topaz/upscale/image", "fal-ai/topaz"),
        ("/fal-ai/esrgan/", "fal-ai/esrgan"),
        ("workflows/me/mine/x", "workflows/me/mine"),
        ("110602490-lora", None),
        ("a/../b", None),
        ("../x", None),
        ("a/b?c", None),
        ("a//b", None),
        ("a/" + "b" * 300, None),
        ("", None),
        (None, None),
    ],
)
def test_the_queue_is_asked_below_the_models_owner_and_name(endpoint: str | None, app: str | None) -> None:
    assert app_of(endpoint) == app
    assert of_links({"status_url": f"https://any.invalid/{endpoint}/requests/r1/status"}) in (app, None)


def asked(answers: Mapping[str, tuple[int, object]], paths: list[str]) -> Client:
    async def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == f"Key {TOKEN}"
        paths.append(request.url.path)
        status, document = answers.get(request.url.path, (404, {"detail": "Request not found"}))

        async def body() -> AsyncIterator[bytes]:
            yield json.dumps(document).encode()

        return httpx.Response(status, content=body())

    settings = {"FAL_KEY": TOKEN, "FAL_API_URL": "https://queue.invalid"}
    client = provider(**settings).open_client(Calls(transport=httpx.MockTransport(answer)))
    assert client is not None
    return client


RESULT = "/fal-ai/esrgan/requests/r1"


@pytest.mark.parametrize(
    ("answers", "status", "outcome"),
    [
        ({f"{RESULT}/status": (202, {"status": "IN_PROGRESS"})}, "IN_PROGRESS", None),
        ({f"{RESULT}/status": (200, {"status": "A_NEW_WORD"})}, "A_NEW_WORD", None),
        (
            {f"{RESULT}/status": (200, {"status": "COMPLETED"}), RESULT: (200, {"image": {"url": URL}})},
            "COMPLETED",
            URL,
        ),
        (
            {f"{RESULT}/status": (200, {"status": "COMPLETED", "error": "no luck"})},
            "COMPLETED",
            "provider.job_failed",
        ),
        (
            {f"{RESULT}/status": (200, {"status": "COMPLETED"}), RESULT: (422, {"detail": "too large"})},
            "COMPLETED",
            "provider.job_failed",
        ),
    ],
)
async def test_a_question_gives_what_the_queue_knows(
    answers: Mapping[str, tuple[int, object]], status: str, outcome: str | None
) -> None:
    report = await asked(answers, []).get("r1", "fal-ai/esrgan/deeper")

    assert report.status == status
    ending = report.ending
    if ending is None:
        assert outcome is None
    else:
        assert outcome == (ending.failure.reason if ending.failure else ending.outputs[0].url)


async def test_a_question_without_the_models_path_is_not_sent() -> None:
    paths: list[str] = []
    client = asked({}, paths)
    for job_id, endpoint in (("r1", None), ("r1", "../x"), ("r1", "a/b?c=d"), ("../r1", "a/b")):
        with pytest.raises((InvalidRequestError, UnknownJobError)):
            await client.get(job_id, endpoint)
    assert paths == []
    with pytest.raises(UnknownJobError):
        await client.get("r1", "fal-ai/esrgan")
    await client.probe()
