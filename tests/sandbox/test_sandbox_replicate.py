"""Replicate's stand-in, against the facts of its documentation, and an independent verifier."""

import base64
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from receiver.sandbox.faults import Faults
from receiver.sandbox.options import Options, ProviderName
from receiver.sandbox.pictures import draw
from tests.sandbox.harness import TOKEN, Clock, Delivery, Neighbour, faults, opened, stand_in

PICTURE = draw(1, (40, 30), "jpg")
DATA_URI = "data:image/jpeg;base64," + base64.b64encode(PICTURE).decode()
VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"

UNFINISHED = {
    "id": "ufawqhfynnddngldkgtslldrkq",
    "version": VERSION,
    "created_at": "2022-04-26T22:13:06.224088Z",
    "started_at": None,
    "completed_at": None,
    "status": "starting",
    "input": {"text": "Alice"},
    "output": None,
    "error": None,
    "logs": None,
    "metrics": {},
}
"""The example of the page on webhooks."""


@pytest.fixture
def box() -> Iterator[httpx.Client]:
    with stand_in(ProviderName.REPLICATE) as it:
        yield it


def predict(
    box: httpx.Client, near: Neighbour, *names: str, events: list[str] | None = None, **fields: Any
) -> dict[str, Any]:
    body = {"version": VERSION, "input": {"image": DATA_URI, **fields}, "webhook": near.webhook}
    if events is not None:
        body["webhook_events_filter"] = events
    headers = faults(*names) if names else {}
    answer: dict[str, Any] = box.post("/v1/predictions", json=body, headers=headers).raise_for_status().json()
    return answer


def ended(box: httpx.Client, near: Neighbour, *names: str, **fields: Any) -> Delivery:
    predict(box, near, *names, events=["completed"], **fields)
    return near.take()


def secret(box: httpx.Client) -> str:
    key: str = box.get("/v1/webhooks/default/secret").raise_for_status().json()["key"]
    return key


def test_a_prediction_is_posted_when_it_has_output_and_when_it_has_ended(
    box: httpx.Client, near: Neighbour
) -> None:
    created = predict(box, near)
    assert created["status"] == "starting"
    assert UNFINISHED.keys() <= created.keys()
    output, end = near.take().body, near.take().body
    assert (output["status"], end["status"]) == ("processing", "succeeded")
    assert output["output"] == end["output"]
    assert end == box.get(f"/v1/predictions/{created['id']}").json()
    assert end["urls"] == {
        "get": f"{str(box.base_url).rstrip('/')}/v1/predictions/{created['id']}",
        "cancel": f"{str(box.base_url).rstrip('/')}/v1/predictions/{created['id']}/cancel",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", end["completed_at"])
    assert end["data_removed"] is False
    answer = box.get(end["output"])
    assert answer.headers["content-type"] == "image/jpeg"
    assert opened(answer.content).size == (80, 60)
    assert near.waiting == 0


def test_a_filter_chooses_the_events(box: httpx.Client, near: Neighbour) -> None:
    predict(box, near, events=["start", "completed"])
    assert [near.take().body["status"] for _ in range(2)] == ["processing", "succeeded"]
    predict(box, near, events=["completed"])
    assert near.take().body["status"] == "succeeded"
    assert near.waiting == 0


def test_the_factor_of_the_input_is_the_factor(box: httpx.Client, near: Neighbour) -> None:
    assert opened(box.get(ended(box, near, scale=4).body["output"]).content).size == (160, 120)


@pytest.mark.parametrize(("fault", "shape"), [("several", "list"), ("mapped", "dict"), ("video", "list")])
def test_output_has_each_shape_that_clients_know(
    box: httpx.Client, near: Neighbour, fault: str, shape: str
) -> None:
    output: Any = ended(box, near, fault).body["output"]
    assert type(output).__name__ == shape
    urls = [*output.values()] if isinstance(output, dict) else output
    types = [box.get(url).headers["content-type"] for url in urls]
    pictures = {"several": 3, "mapped": 2, "video": 1}[fault]
    assert types == ["image/jpeg"] * pictures + ["video/mp4"] * (len(urls) - pictures)
    assert len(urls) > 1
    contents = {box.get(url).content for url in urls}
    assert len(contents) == len(urls)


@pytest.mark.parametrize("fault", ["failed", "canceled", "aborted"])
def test_every_end_is_posted(box: httpx.Client, near: Neighbour, fault: str) -> None:
    end = ended(box, near, fault).body
    assert end["status"] == fault
    assert end["output"] is None
    assert (end["started_at"] is None) == (fault == "aborted")
    assert (end["error"] is not None) == (fault == "failed")


def test_a_source_that_is_no_picture_fails_the_prediction(box: httpx.Client, near: Neighbour) -> None:
    body = {
        "version": VERSION,
        "input": {"image": "data:;base64,QUJD"},
        "webhook": near.webhook,
        "webhook_events_filter": ["completed"],
    }
    box.post("/v1/predictions", json=body).raise_for_status()
    end = near.take().body
    assert end["status"] == "failed"
    assert "no image" in end["error"]


def test_a_running_prediction_can_be_canceled_and_an_ended_one_stays(near: Neighbour) -> None:
    with stand_in(ProviderName.REPLICATE, delay=3600) as box:
        created = predict(box, near, events=["completed"])
        assert box.post(f"/v1/predictions/{created['id']}/cancel").json()["status"] == "canceled"
        assert near.take().body["status"] == "canceled"
        assert box.post(f"/v1/predictions/{created['id']}/cancel").json()["status"] == "canceled"
        assert near.waiting == 0


def test_the_list_has_pages_of_a_hundred_newest_first_without_output(near: Neighbour) -> None:
    with stand_in(ProviderName.REPLICATE, page_size=2) as box:
        ids = [predict(box, near, "early")["id"] for _ in range(5)]
        seen: list[str] = []
        url: str | None = "/v1/predictions"
        while url is not None:
            page = box.get(url).raise_for_status().json()
            assert set(page) == {"next", "previous", "results"}
            assert all("output" not in row and "input" not in row for row in page["results"])
            seen += [row["id"] for row in page["results"]]
            url = page["next"]
        assert seen == ids[::-1]
        assert box.get("/v1/predictions?cursor=elsewhere").status_code == 404


def test_after_an_hour_files_and_output_are_gone_for_good(near: Neighbour) -> None:
    clock = Clock()
    with stand_in(ProviderName.REPLICATE, clock, renew_urls=True) as box:
        end = ended(box, near).body
        clock.now += 3599
        assert box.get(end["output"]).status_code == 200
        clock.now += 1
        assert box.get(end["output"]).status_code == 404
        asked = box.get(f"/v1/predictions/{end['id']}").json()
        assert (asked["output"], asked["data_removed"], asked["status"]) == (None, True, "succeeded")


def test_files_can_want_the_token(near: Neighbour) -> None:
    with stand_in(ProviderName.REPLICATE, files_want_token=True) as box:
        url = ended(box, near).body["output"]
        assert "/delivery/" in url
        assert box.get(url).status_code == 200
        assert box.get(url, headers={"Authorization": ""}).status_code == 401


@pytest.mark.parametrize("two_keys", [False, True])
def test_the_package_accepts_the_deliveries(near: Neighbour, two_keys: bool) -> None:  # noqa: FBT001
    with stand_in(ProviderName.REPLICATE, time.time, two_keys=two_keys) as box:
        key, delivery = secret(box), ended(box, near)
    assert Webhook(key).verify(delivery.raw, delivery.headers) == delivery.body
    assert len(delivery.headers["webhook-signature"].split()) == 1 + two_keys


@pytest.mark.parametrize("fault", ["altered", "wrong_signature", "old_timestamp"])
def test_the_package_refuses_what_is_signed_wrongly(near: Neighbour, fault: str) -> None:
    with stand_in(ProviderName.REPLICATE) as box:
        key, delivery = secret(box), ended(box, near, fault)
    with pytest.raises(WebhookVerificationError):
        Webhook(key).verify(delivery.raw, delivery.headers)
    assert delivery.body["status"] == "succeeded"


def test_a_replay_is_the_same_to_the_byte_and_a_second_delivery_is_signed_anew(near: Neighbour) -> None:
    clock = Clock()
    with stand_in(ProviderName.REPLICATE, clock) as box:
        first = ended(box, near, "replay")
        assert near.take() == first
        near.gate = threading.Event()
        first = ended(box, near, "twice")
        clock.now += 7
        near.gate.set()
        second = near.take()
    assert (first.raw, first.headers["webhook-id"]) == (second.raw, second.headers["webhook-id"])
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 7
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


@pytest.mark.parametrize("answer", [302, 404, 503])
def test_the_end_is_sent_again_with_the_same_id_and_other_events_are_not(
    near: Neighbour, answer: int
) -> None:
    near.answer = answer
    with stand_in(ProviderName.REPLICATE, retry_within=0.01) as box:
        predict(box, near, "early")
    taken = [near.take() for _ in range(near.waiting)]
    assert [it.body["status"] for it in taken] == ["processing"] + ["succeeded"] * 6
    assert len({it.headers["webhook-id"] for it in taken[1:]}) == 1
    assert taken[0].headers["webhook-id"] != taken[1].headers["webhook-id"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"version": None}, "version"),
        ({"input": None}, "input"),
        ({"input": {}}, "input.image"),
        ({"input": {"image": "https://example.com/a.png"}}, "loopback only"),
        ({"input": {"image": "no base64!"}}, "input.image"),
        ({"input": {"image": DATA_URI, "scale": 0}}, "scale"),
        ({"input": {"image": DATA_URI, "scale": True}}, "scale"),
        ({"webhook": "https://example.com/hook"}, "webhook"),
        ({"webhook_events_filter": ["end"]}, "webhook_events_filter"),
        ({"webhook_events_filter": [[]]}, "webhook_events_filter"),
    ],
)
def test_an_invalid_submit_is_refused_by_name(box: httpx.Client, changes: dict[str, Any], named: str) -> None:
    body = {"version": VERSION, "input": {"image": DATA_URI}} | changes
    answer = box.post("/v1/predictions", json=body)
    assert answer.status_code == 422
    assert named in answer.json()["detail"]
    assert box.get("/v1/predictions").json()["results"] == []


def test_errors_have_the_providers_form(box: httpx.Client) -> None:
    refused = box.get("/v1/predictions", headers={"Authorization": f"Key {TOKEN}"})
    assert (refused.status_code, refused.json()["title"]) == (401, "Unauthenticated")
    missing = box.get("/v1/predictions/none")
    assert (missing.status_code, missing.json()["status"]) == (404, 404)


def test_a_fault_of_another_provider_is_refused(box: httpx.Client, near: Neighbour) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        predict(box, near, "payload_error")
    with pytest.raises(ValueError, match="replicate has no fault payload_error"):
        Options(provider=ProviderName.REPLICATE, faults=Faults(payload_error=0.5))
