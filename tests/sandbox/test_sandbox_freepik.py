"""Freepik's stand-in, against the facts of its documentation, and an independent verifier."""

import base64
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from receiver.sandbox.options import ProviderName
from receiver.sandbox.pictures import draw
from tests.sandbox.harness import TOKEN, Clock, Delivery, Neighbour, faults, opened, stand_in

PICTURE = base64.b64encode(draw(1, (40, 30), "jpg")).decode()
SECRET = "dummy_freepik-secret.1"
PATH = "/v1/ai/image-upscaler"


@pytest.fixture
def box() -> Iterator[httpx.Client]:
    with stand_in(ProviderName.FREEPIK, time.time, secrets=(SECRET,)) as it:
        yield it


def submit(box: httpx.Client, near: Neighbour, *names: str, **fields: Any) -> str:
    body = {"image": PICTURE, "webhook_url": near.webhook} | fields
    answer = box.post(PATH, json=body, headers=faults(*names) if names else {})
    task = answer.raise_for_status().json()["data"]
    assert task == {"task_id": task["task_id"], "status": "CREATED", "generated": []}
    task_id: str = task["task_id"]
    return task_id


def ended(box: httpx.Client, near: Neighbour, *names: str, **fields: Any) -> Delivery:
    submit(box, near, *names, **fields)
    assert near.take().body["status"] == "IN_PROGRESS"
    return near.take()


def verify(secret: str, delivery: Delivery) -> Any:
    """By the package's own verifier, with the key that is the secret's bytes."""
    return Webhook(base64.b64encode(secret.encode()).decode()).verify(delivery.raw, delivery.headers)


def test_each_status_is_posted_as_it_is_answered_but_without_data(box: httpx.Client, near: Neighbour) -> None:
    task_id = submit(box, near, scale_factor="4x")
    assert near.take().body == {"task_id": task_id, "status": "IN_PROGRESS", "generated": []}
    body = near.take().body
    assert body == box.get(f"{PATH}/{task_id}").json()["data"]
    assert body == {"task_id": task_id, "status": "COMPLETED", "generated": body["generated"]}
    (url,) = body["generated"]
    assert opened(box.get(url).content).size == (160, 120)
    assert near.waiting == 0


def test_several_results_and_a_video_are_generated(box: httpx.Client, near: Neighbour) -> None:
    assert len(ended(box, near, "several").body["generated"]) == 3
    types = [box.get(url).headers["content-type"] for url in ended(box, near, "video").body["generated"]]
    assert types == ["image/jpeg", "video/mp4"]


def test_a_failed_task_is_posted(box: httpx.Client, near: Neighbour) -> None:
    assert ended(box, near, "failed").body["status"] == "FAILED"
    assert ended(box, near, image=base64.b64encode(b"no picture").decode()).body["status"] == "FAILED"


def test_the_list_has_all_tasks_newest_first(box: httpx.Client, near: Neighbour) -> None:
    ids = [submit(box, near, "early") for _ in range(3)]
    listed = box.get(PATH).json()["data"]
    assert [task["task_id"] for task in listed] == ids[::-1]
    assert {task["status"] for task in listed} == {"COMPLETED"}


def test_the_package_accepts_the_secrets_bytes_as_the_key_and_not_the_secret_itself(
    box: httpx.Client, near: Neighbour
) -> None:
    delivery = ended(box, near)
    assert verify(SECRET, delivery) == delivery.body
    with pytest.raises(WebhookVerificationError):
        Webhook("ZHVtbXk=").verify(delivery.raw, delivery.headers)


@pytest.mark.parametrize("fault", ["altered", "wrong_signature", "old_timestamp"])
def test_the_package_refuses_what_is_signed_wrongly(box: httpx.Client, near: Neighbour, fault: str) -> None:
    with pytest.raises(WebhookVerificationError):
        verify(SECRET, ended(box, near, fault))


def test_with_two_secrets_each_has_a_version_of_its_own(near: Neighbour) -> None:
    with stand_in(ProviderName.FREEPIK, time.time, secrets=("old", "new")) as box:
        delivery = ended(box, near)
    labels = [part.partition(",")[0] for part in delivery.headers["webhook-signature"].split(" ")]
    assert labels == ["v1", "v2"]
    assert verify("old", delivery) == delivery.body
    second = delivery.headers["webhook-signature"].split(" ")[1].replace("v2,", "v1,")
    assert verify("new", Delivery(delivery.headers | {"webhook-signature": second}, delivery.raw))


def test_a_url_ends_when_its_token_says_and_only_that_token_opens_it(near: Neighbour) -> None:
    clock = Clock()
    with stand_in(ProviderName.FREEPIK, clock) as box:
        (url,) = ended(box, near).body["generated"]
        match = re.search(r"\?token=exp=(\d+)~hmac=[0-9a-f]{64}$", url)
        assert match is not None
        assert int(match[1]) == clock.now + 12 * 3600
        assert box.get(url).status_code == 200
        later = url.replace(match[1], str(int(match[1]) + 60))
        assert [box.get(it).status_code for it in (later, url.partition("?")[0])] == [403, 403]
        clock.now += 12 * 3600
        assert box.get(url).status_code == 403


def test_asking_can_give_a_fresh_url(near: Neighbour) -> None:
    clock = Clock()
    with stand_in(ProviderName.FREEPIK, clock, renew_urls=True) as box:
        body = ended(box, near).body
        clock.now += 12 * 3600
        fresh = box.get(f"{PATH}/{body['task_id']}").json()["data"]["generated"]
        assert fresh != body["generated"]
        assert box.get(fresh[0]).status_code == 200


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"image": None}, "image"),
        ({"scale_factor": "3"}, "scale_factor"),
        ({"webhook_url": "https://example.com/"}, "webhook_url"),
    ],
)
def test_an_invalid_submit_is_refused_by_name(box: httpx.Client, fields: dict[str, Any], named: str) -> None:
    answer = box.post(PATH, json={"image": PICTURE} | fields)
    assert answer.status_code == 400
    assert answer.json()["invalid_params"][0]["field"] == named


def test_either_header_carries_the_key(box: httpx.Client) -> None:
    refused = box.get(PATH, headers={"x-freepik-api-key": "wrong"})
    assert (refused.status_code, list(refused.json())) == (401, ["message"])
    newer = {"x-freepik-api-key": "", "x-magnific-api-key": TOKEN}
    assert box.get(PATH, headers=newer).status_code == 200
