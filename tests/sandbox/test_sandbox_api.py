import base64
import json
import threading
from contextlib import suppress
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.sandbox.options import Options
from receiver.sandbox.pictures import SAMPLES, draw
from receiver.sandbox.submits import InvalidRequestError
from receiver.sandbox.ximilar import parse
from tests.sandbox.harness import TOKEN, Neighbour, Sandbox, opened, sandbox
from tests.support.processes import TRUST

PICTURE = draw(1, (40, 30), "jpg")
AS_BASE64 = {"_base64": base64.b64encode(PICTURE).decode()}


def valid(**changes: Any) -> dict[str, Any]:
    body = {"type": "upscaler", "endpoint": "upscale_2x", "records": [dict(AS_BASE64)]} | changes
    return {key: value for key, value in body.items() if value is not ...}


@pytest.mark.parametrize(
    ("header", "detail"),
    [
        (None, "Authentication credentials were not provided."),
        (f"Bearer {TOKEN}", "Authentication credentials were not provided."),
        ("Token", "Authentication credentials were not provided."),
        ("Token wrong", "Invalid token."),
        (f"Token {TOKEN}\u00e9", "Invalid token."),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/request"), ("GET", "/request/"), ("GET", "/request/x"), ("GET", "/request/x/status")],
)
def test_nothing_is_answered_without_the_token(
    any_box: Sandbox, method: str, path: str, header: str | None, detail: str
) -> None:
    headers = {} if header is None else {b"Authorization": header.encode()}
    with httpx.Client(base_url=any_box.base_url, verify=TRUST, trust_env=False) as stranger:
        answer = stranger.request(method, path, headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"detail": detail})


def test_without_a_token_of_its_own_the_sandbox_takes_any() -> None:
    with sandbox(Options(delay=0)) as box:
        assert box.get("/request").status_code == 200
        assert httpx.get(f"{box.base_url}request", verify=TRUST, trust_env=False).status_code == 401


@pytest.mark.parametrize("slash", ["", "/"])
def test_every_route_works_with_and_without_a_slash_and_never_redirects(box: Sandbox, slash: str) -> None:
    created = box.post(f"/request{slash}", json=valid())
    assert created.status_code == 201
    job_id = created.json()["id"]
    for path in ("", f"/{job_id}", f"/{job_id}/status"):
        assert box.get(f"/request{path}{slash}").status_code == 200


@pytest.mark.parametrize("path", ["/request/no-such-job", "/request/no-such-job/status", "/elsewhere"])
def test_what_does_not_exist_is_not_found(any_box: Sandbox, path: str) -> None:
    answer = any_box.get(path)
    assert answer.status_code == 404
    assert answer.json()["detail"].lower().startswith("not found")


def test_another_method_is_not_allowed(any_box: Sandbox) -> None:
    for answer in (any_box.put("/request", json=valid()), any_box.delete("/request/x")):
        assert (answer.status_code, list(answer.json())) == (405, ["detail"])


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b'"text"', b'{"a": NaN}', b"[" * 100_000])
def test_a_body_that_cannot_be_read_is_refused_with_a_detail(any_box: Sandbox, body: bytes) -> None:
    answer = any_box.post("/request", content=body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["detail"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"type": ...}, "type"),
        ({"type": "tagging"}, "type"),
        ({"endpoint": ...}, "endpoint"),
        ({"endpoint": "upscale_3x"}, "endpoint"),
        ({"endpoint": ["upscale_2x"]}, "endpoint"),
        ({"mode": "sharp"}, "mode"),
        ({"model_type": "diffusion"}, "model_type"),
        ({"image_format": "gif"}, "image_format"),
        ({"image_quality": 90}, "image_quality"),
        ({"image_format": "jpg", "image_quality": 0}, "image_quality"),
        ({"image_format": "jpg", "image_quality": 101}, "image_quality"),
        ({"image_format": "jpg", "image_quality": True}, "image_quality"),
        ({"image_format": "jpg", "image_quality": "90"}, "image_quality"),
        ({"tune_colors": "yes"}, "tune_colors"),
        ({"workspace": 7}, "workspace"),
        ({"workspace": "\ud800"}, "workspace"),
        ({"records": ...}, "records"),
        ({"records": []}, "records"),
        ({"records": AS_BASE64}, "records"),
        ({"records": [AS_BASE64, AS_BASE64]}, "records"),
        ({"records": [{}]}, "records"),
        ({"records": [AS_BASE64 | {"_url": "http://127.0.0.1/a"}]}, "records"),
        ({"records": [{"_base64": "no base64!"}]}, "_base64"),
        ({"records": [{"_url": 7}]}, "_url"),
        ({"records": [{"_url": "/tmp/picture.jpg"}]}, "_url"),
        ({"records": [{"_url": "file:///tmp/picture.jpg"}]}, "_url"),
        ({"records": [{"_url": "https://example.com/picture.jpg"}]}, "loopback only"),
        ({"records": [{"_url": "http://10.0.0.1/picture.jpg"}]}, "loopback only"),
        ({"records": [{"_url": "http://127.0.0.1@example.com/picture.jpg"}]}, "loopback only"),
        ({"records": [AS_BASE64 | {"_sandbox": {"fault": "unheard-of"}}]}, "_sandbox"),
        ({"records": [AS_BASE64 | {"_sandbox": {"fault": ["cut", "empty"]}}]}, "_sandbox"),
        ({"records": [AS_BASE64 | {"_sandbox": "cut"}]}, "_sandbox"),
        ({"webhook": "http://127.0.0.1/hook"}, "webhook"),
        ({"webhook": {}}, "webhook"),
        ({"webhook": {"endpoint": "https://example.com/hook"}}, "loopback only"),
        ({"webhook": {"endpoint": "http://127.0.0.1/", "headers": ["a"]}}, "webhook.headers"),
        ({"webhook": {"endpoint": "http://127.0.0.1/", "headers": {"a b": "c"}}}, "webhook.headers"),
        ({"webhook": {"endpoint": "http://127.0.0.1/", "headers": {"a": "b\r\nc: d"}}}, "webhook.headers"),
        ({"webhook": {"endpoint": "http://127.0.0.1/", "headers": {"a": 1}}}, "webhook.headers"),
        ({"webhook": {"endpoint": "http://127.0.0.1/", "headers": {"Host": "x"}}}, "webhook.headers"),
    ],
)
def test_an_invalid_field_is_refused_by_name_and_creates_no_job(
    any_box: Sandbox, changes: dict[str, Any], named: str
) -> None:
    before = any_box.get("/request").json()["count"]
    # Not through httpx's own JSON, which cannot write half a surrogate pair; other clients can.
    answer = any_box.post("/request", content=json.dumps(valid(**changes)))
    assert answer.status_code == 400
    status = answer.json()["status"]
    assert set(status) == {"code", "text", "request_id"}
    assert status["code"] == 400
    assert named in status["text"]
    assert any_box.get("/request").json()["count"] == before


TEXT = st.text(st.characters(codec=None))  # surrogates as well: JSON can carry halves of pairs
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    "type",
    "endpoint",
    "mode",
    "model_type",
    "image_format",
    "image_quality",
    "tune_colors",
    "workspace",
)


@given(
    fields=st.dictionaries(st.sampled_from(FIELDS), JSON),
    record=st.dictionaries(st.sampled_from(["_url", "_base64", "_id", "_sandbox"]), JSON),
    webhook=st.none() | JSON | st.fixed_dictionaries({"endpoint": TEXT, "headers": JSON}),
    host=st.text(max_size=12),
)
def test_no_body_whatever_brings_down_the_validation(
    fields: dict[str, Any], record: dict[str, Any], webhook: Any, host: str
) -> None:
    for url in ({}, {"_url": f"http://{host}/"}):
        body = valid(webhook=webhook, records=[record | url]) | fields
        with suppress(InvalidRequestError):
            parse(json.dumps(body).encode(), 1000, "workspace")


def test_a_body_over_the_limit_is_refused_whether_or_not_it_declares_its_length() -> None:
    with sandbox(Options(token=TOKEN, max_source_bytes=1000)) as box:
        too_large = json.dumps(valid()).encode() + b" " * 2_000_000
        assert box.post("/request", content=too_large).status_code == 413
        assert box.post("/request", content=iter([too_large])).status_code == 413
        padded = {"_base64": base64.b64encode(bytes(1001)).decode()}
        assert "larger than 1000" in box.post("/request", json=valid(records=[padded])).text


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_pictures_are_really_resized_by_the_factor_and_alpha_decides_the_format(
    any_box: Sandbox, near: Neighbour, sample: Any
) -> None:
    record = any_box.outcome({"_url": near.serve(sample.draw())}, endpoint=f"upscale_{sample.factor}x")
    size = (sample.width * sample.factor, sample.height * sample.factor)
    assert (record["_width"], record["_height"]) == (sample.width, sample.height)
    assert (record["_upscaled_width"], record["_upscaled_height"]) == size
    picture = opened(httpx.get(record["_upscaled_image_url"], verify=TRUST, trust_env=False).content)
    assert picture.size == size
    assert picture.format == ("PNG" if "alpha" in sample.format else "JPEG")


@pytest.mark.parametrize("image_format", ["jpg", "png", "webp"])
@pytest.mark.parametrize("source", ["jpg", "png-alpha", "webp-alpha"])
def test_the_asked_for_format_is_given(any_box: Sandbox, source: Any, image_format: str) -> None:
    data = base64.b64encode(draw(3, (32, 24), source)).decode()
    record = any_box.outcome({"_base64": data}, image_format=image_format)
    url = record["_upscaled_image_url"]
    picture = opened(any_box.get(url).content)
    assert url.endswith(f".{image_format}")
    assert picture.format == {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[image_format]
    assert ("A" in picture.mode) == ("alpha" in source and image_format != "jpg")


def results(box: Sandbox, *variants: dict[str, Any]) -> list[bytes]:
    return [
        box.get(box.outcome(dict(AS_BASE64), **variant)["_upscaled_image_url"]).content
        for variant in variants
    ]


def test_quality_mode_and_model_change_the_bytes_and_tune_colors_does_not(box: Sandbox) -> None:
    poor, default, good = results(
        box,
        {"image_format": "jpg", "image_quality": 1},
        {"image_format": "jpg"},
        {"image_format": "jpg", "image_quality": 100},
    )
    assert len(poor) < len(default) < len(good)
    variants: list[dict[str, Any]] = [
        {},
        {"mode": "ironed_out"},
        {"mode": "high_fidelity"},
        {"model_type": "gan"},
    ]
    assert len(set(results(box, *variants))) == len(variants)
    assert len(set(results(box, {}, {"mode": "artifact_removal"}, {"tune_colors": False}))) == 1


def test_a_base64_record_has_no_url_in_its_response_and_is_echoed_whole_in_its_request(box: Sandbox) -> None:
    job = box.job(box.submit(dict(AS_BASE64), "early")["id"])
    assert job["request"]["records"][0]["_base64"] == AS_BASE64["_base64"]
    assert "_url" not in job["response"]["records"][0]


def test_the_submitters_own_record_id_and_workspace_come_back(box: Sandbox, near: Neighbour) -> None:
    submitted = box.submit(AS_BASE64 | {"_id": "mine"}, workspace="ours", webhook={"endpoint": near.webhook})
    assert near.take().body["response"]["records"][0]["_id"] == "mine"
    assert submitted["workspace"] == "ours"


def test_a_job_is_created_then_processing_then_done(box: Sandbox, near: Neighbour) -> None:
    near.gate = threading.Event()
    submitted = box.submit({"_url": near.serve(PICTURE)})
    assert submitted["status"] == "CREATED"
    assert near.asked.wait(30)
    processing = box.job(submitted["id"])
    assert processing["status"] == "PROCESSING"
    assert "response" not in processing
    near.gate.set()
    box.until(submitted["id"], "DONE")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (b"no picture", "no image"),
        (PICTURE[:200], "no image"),
        (b"x" * 30_000, "larger than"),
        (None, "answers with 404"),
        (draw(1, (400, 400), "png"), "more than 100000 pixels"),
    ],
)
def test_a_source_that_cannot_be_used_ends_in_a_bad_record_that_the_webhook_hears_of(
    near: Neighbour, source: bytes | None, text: str
) -> None:
    with sandbox(Options(token=TOKEN, delay=0, max_source_bytes=20_000, max_result_pixels=100_000)) as box:
        url = f"{near.url}/nothing" if source is None else near.serve(source)
        submitted = box.submit({"_url": url}, webhook={"endpoint": near.webhook})
        body = near.take().body
        record = body["response"]["records"][0]
        assert body["status"] == "DONE"
        assert record["_status"]["code"] == 400
        assert text in record["_status"]["text"]
        assert "_upscaled_image_url" not in record
        box.until(submitted["id"], "DONE")


def test_the_list_has_pages_newest_first_with_absolute_links_that_keep_the_filters() -> None:
    with sandbox(Options(token=TOKEN, delay=0, page_size=2)) as box:
        done = [box.submit(dict(AS_BASE64), "early")["id"] for _ in range(5)]
        box.submit(dict(AS_BASE64), "early", "failed")
        seen: list[str] = []
        url: str | None = "/request/?page=1&type=upscaler&status=DONE"
        pages: list[Any] = []
        while url is not None:
            pages.append(box.get(url).json())
            seen += [row["id"] for row in pages[-1]["results"]]
            url = pages[-1]["next"]
            assert url is None or url.startswith(f"{box.own}/account/v2/request/?")
        assert seen == done[::-1]
        assert [page["count"] for page in pages] == [5, 5, 5]
        assert pages[0]["previous"] is None
        assert box.get(pages[2]["previous"]).json() == pages[1]
        assert set(pages[0]["results"][0]) == {"id", "status", "type", "created", "workspace"}

        assert box.get("/request?status=FAILED").json()["count"] == 1
        assert box.get("/request?type=tagging").json()["results"] == []
        assert box.get("/request").json()["count"] == 6
        for page in ("0", "4", "-1", "x"):
            answer = box.get(f"/request?page={page}")
            assert (answer.status_code, answer.json()) == (404, {"detail": "Invalid page."})


def test_the_oldest_jobs_are_forgotten_with_their_results() -> None:
    with sandbox(Options(token=TOKEN, delay=0, keep_jobs=2)) as box:
        ids = [box.submit(dict(AS_BASE64), "early")["id"] for _ in range(2)]
        url = box.job(ids[0])["response"]["records"][0]["_upscaled_image_url"]
        assert box.get(url).status_code == 200
        box.submit(dict(AS_BASE64), "early")
        assert box.get(f"/request/{ids[0]}").status_code == 404
        assert box.get(f"/request/{ids[1]}").status_code == 200
        assert box.get(url).status_code == 403
        assert box.get("/request").json()["count"] == 2


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_results_url_dies_with_its_lifetime_like_one_of_s3() -> None:
    clock = Clock()
    with sandbox(Options(token=TOKEN, delay=0, url_lifetime=24 * 3600), clock) as box:
        job_id = box.submit(dict(AS_BASE64), "early")["id"]
        url = box.job(job_id)["response"]["records"][0]["_upscaled_image_url"]
        clock.now += 24 * 3600 - 0.001
        alive = httpx.get(url, verify=TRUST, trust_env=False)
        assert (alive.status_code, alive.headers["content-type"]) == (200, "binary/octet-stream")
        clock.now += 0.001
        dead = httpx.get(url, verify=TRUST, trust_env=False)
        assert dead.status_code == 403
        assert "<Code>AccessDenied</Code>" in dead.text
        # The next result sweeps; the dead one stays dead, and the job still names its URL.
        box.submit(dict(AS_BASE64), "early")
        assert httpx.get(url, verify=TRUST, trust_env=False).status_code == 403
        assert box.job(job_id)["response"]["records"][0]["_upscaled_image_url"] == url


def test_with_renewal_a_dead_url_is_replaced_when_the_job_is_asked_for() -> None:
    clock = Clock()
    with sandbox(Options(token=TOKEN, delay=0, url_lifetime=60, renew_urls=True), clock) as box:
        job_id = box.submit(dict(AS_BASE64), "early")["id"]
        old = box.job(job_id)["response"]["records"][0]["_upscaled_image_url"]
        assert box.job(job_id)["response"]["records"][0]["_upscaled_image_url"] == old
        clock.now += 60
        box.submit(dict(AS_BASE64), "early")
        new = box.job(job_id)["response"]["records"][0]["_upscaled_image_url"]
        assert new != old
        assert box.get(old).status_code == 403
        assert box.get(new).status_code == 200
