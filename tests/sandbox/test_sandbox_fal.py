"""fal.ai's stand-in, against the facts of its documentation, and two independent verifiers."""

import base64
import hashlib
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from receiver.sandbox.options import ProviderName
from receiver.sandbox.pictures import draw
from tests.sandbox.harness import TOKEN, Clock, Delivery, Neighbour, faults, opened, stand_in

PICTURE = draw(1, (40, 30), "png-alpha")
DATA_URI = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
MODEL = "fal-ai/esrgan"


@pytest.fixture
def box() -> Iterator[httpx.Client]:
    with stand_in(ProviderName.FAL) as it:
        yield it


def submit(
    box: httpx.Client, near: Neighbour, *names: str, model: str = MODEL, **fields: Any
) -> dict[str, Any]:
    answer = box.post(
        f"/{model}",
        params={"fal_webhook": near.webhook},
        json={"image_url": DATA_URI, **fields},
        headers=faults(*names) if names else {},
    )
    content: dict[str, Any] = answer.raise_for_status().json()
    return content


def ended(box: httpx.Client, near: Neighbour, *names: str, **fields: Any) -> Delivery:
    submit(box, near, *names, **fields)
    return near.take()


def proved(delivery: Delivery, jwks: Mapping[str, Any]) -> bool:
    """As fal.ai's page describes it."""
    head = [delivery.headers[f"x-fal-webhook-{name}"] for name in ("request-id", "user-id", "timestamp")]
    message = "\n".join([*head, hashlib.sha256(delivery.raw).hexdigest()]).encode()
    signature = bytes.fromhex(delivery.headers["x-fal-webhook-signature"])
    for key in jwks["keys"]:
        assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")
        try:
            Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "=")).verify(
                signature, message
            )
        except InvalidSignature:
            continue
        return True
    return False


def keys(box: httpx.Client) -> dict[str, Any]:
    answer: dict[str, Any] = (
        box.get("/.well-known/jwks.json", headers={"Authorization": ""}).raise_for_status().json()
    )
    return answer


def test_a_submit_is_queued_and_ends_in_one_delivery_with_a_promised_file(
    box: httpx.Client, near: Neighbour
) -> None:
    queued = submit(box, near, upscale_factor=4)
    uuid.UUID(queued["request_id"])
    response = f"{str(box.base_url).rstrip('/')}/{MODEL}/requests/{queued['request_id']}"
    assert queued == {
        "status": "IN_QUEUE",
        "request_id": queued["request_id"],
        "gateway_request_id": queued["request_id"],
        "response_url": response,
        "status_url": f"{response}/status",
        "cancel_url": f"{response}/cancel",
        "queue_position": 0,
    }
    body = near.take().body
    image = body["payload"]["image"]
    content = box.get(image["url"]).content
    assert body == {
        "request_id": queued["request_id"],
        "gateway_request_id": queued["request_id"],
        "status": "OK",
        "error": None,
        "payload": {
            "image": {
                "url": image["url"],
                "content_type": "image/png",
                "file_name": "output.png",
                "file_size": len(content),
                "width": 160,
                "height": 120,
            }
        },
    }
    assert opened(content).size == (160, 120)
    assert box.get(queued["response_url"]).json() == body["payload"]
    status = box.get(queued["status_url"]).json()
    assert (status["status"], "inference_time" in status["metrics"]) == ("COMPLETED", True)
    assert near.waiting == 0


def test_the_queue_answers_only_at_the_models_first_two_parts(box: httpx.Client, near: Neighbour) -> None:
    queued = submit(box, near, "early", model="fal-ai/topaz/upscale/image")
    assert f"/fal-ai/topaz/requests/{queued['request_id']}" in queued["response_url"]
    assert box.get(queued["response_url"]).status_code == 200
    deeper = f"/fal-ai/topaz/upscale/image/requests/{queued['request_id']}"
    assert box.get(deeper).status_code == 405
    assert box.get(f"/fal-ai/other/requests/{queued['request_id']}").status_code == 404


def test_the_queue_says_how_far_a_request_is(near: Neighbour) -> None:
    with stand_in(ProviderName.FAL, delay=3600) as box:
        queued = submit(box, near)
        status = box.get(queued["status_url"])
        assert (status.status_code, status.json()["status"]) == (202, "IN_QUEUE")
        early = box.get(queued["response_url"])
        assert (early.status_code, early.json()) == (400, {"detail": "Request is still in progress"})
        assert box.put(queued["cancel_url"]).json() == {"status": "CANCELLATION_REQUESTED"}
        assert near.take().body["status"] == "ERROR"
        assert box.put(queued["cancel_url"]).status_code == 400
    with stand_in(ProviderName.FAL) as box:
        queued = submit(box, near, "stuck", "early")
        assert box.get(queued["status_url"]).json()["status"] == "IN_PROGRESS"
    assert near.waiting == 0


def test_several_images_and_a_video_have_the_forms_of_such_models(box: httpx.Client, near: Neighbour) -> None:
    images = ended(box, near, "several").body["payload"]["images"]
    assert [opened(box.get(image["url"]).content).size for image in images] == [(80, 60)] * 3
    payload = ended(box, near, "video").body["payload"]
    assert payload["video"]["content_type"] == box.get(payload["video"]["url"]).headers["content-type"]
    assert payload["video"]["content_type"] == "video/mp4"
    assert "width" not in payload["video"]


def test_a_failed_request_is_an_error_for_the_webhook_and_completed_for_the_queue(
    box: httpx.Client, near: Neighbour
) -> None:
    queued = submit(box, near, "failed")
    body = near.take().body
    assert (body["status"], body["error"]) == ("ERROR", "Invalid status code: 422")
    assert body["payload"]["detail"][0]["msg"]
    status = box.get(queued["status_url"]).json()
    assert (status["status"], bool(status["error"])) == ("COMPLETED", True)
    assert box.get(queued["response_url"]).status_code == 422


def test_a_request_that_was_tried_again_inside_has_another_gateway_id(
    box: httpx.Client, near: Neighbour
) -> None:
    queued = submit(box, near, "retry")
    body = near.take().body
    assert body["request_id"] == queued["request_id"]
    assert body["gateway_request_id"] != queued["gateway_request_id"]


def test_a_payload_that_is_no_json_is_null_and_can_be_asked_for(box: httpx.Client, near: Neighbour) -> None:
    queued = submit(box, near, "payload_error")
    body = near.take().body
    assert (body["status"], body["payload"]) == ("OK", None)
    assert "not JSON serializable" in body["payload_error"]
    assert opened(box.get(box.get(queued["response_url"]).json()["image"]["url"]).content).size == (80, 60)


@pytest.mark.parametrize("two_keys", [False, True])
def test_deliveries_are_proved_by_the_key_set(near: Neighbour, two_keys: bool) -> None:  # noqa: FBT001
    with stand_in(ProviderName.FAL, two_keys=two_keys) as box:
        jwks, delivery = keys(box), ended(box, near)
        assert len(jwks["keys"]) == 1 + two_keys
        assert proved(delivery, jwks)
        # A verifier that looks at the first key alone fails while keys are changed.
        assert proved(delivery, {"keys": jwks["keys"][:1]}) != two_keys
        assert not proved(Delivery(delivery.headers, delivery.raw + b" "), jwks)


def test_wrong_signatures_are_wrong_in_the_way_that_was_asked_for(near: Neighbour) -> None:
    clock = Clock()
    with stand_in(ProviderName.FAL, clock) as box:
        jwks = keys(box)
        assert not proved(ended(box, near, "altered"), jwks)
        assert not proved(ended(box, near, "wrong_signature"), jwks)
        old = ended(box, near, "old_timestamp")
        assert proved(old, jwks)
        assert int(old.headers["x-fal-webhook-timestamp"]) == clock.now - 3600


def test_the_key_set_can_be_away_at_first(near: Neighbour) -> None:
    clock = Clock()
    with stand_in(ProviderName.FAL, clock, keys_late=60) as box:
        delivery = ended(box, near)
        assert box.get("/.well-known/jwks.json").status_code == 503
        clock.now += 60
        assert proved(delivery, keys(box))


def test_a_delivery_is_tried_eleven_times_in_all(near: Neighbour) -> None:
    near.answer = 503
    with stand_in(ProviderName.FAL, retry_within=0.02) as box:
        submit(box, near, "early")
        assert len({near.take().headers["x-fal-webhook-request-id"] for _ in range(11)}) == 1
        assert near.waiting == 0


def test_files_end_and_answers_stay(near: Neighbour) -> None:
    clock = Clock()
    with stand_in(ProviderName.FAL, clock) as box:
        queued = submit(box, near)
        url = near.take().body["payload"]["image"]["url"]
        clock.now += 7 * 24 * 3600 - 1
        assert box.get(url, headers={"Authorization": ""}).status_code == 200
        clock.now += 1
        assert box.get(url).status_code == 404
        assert box.get(queued["response_url"]).json()["image"]["url"] == url


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"image_url": None}, "image_url"),
        ({"image_url": "https://example.com/a.png"}, "image_url"),
        ({"upscale_factor": 1.5}, "upscale_factor"),
        ({"output_format": 7}, "output_format"),
    ],
)
def test_an_invalid_submit_is_refused_by_name(box: httpx.Client, fields: dict[str, Any], named: str) -> None:
    answer = box.post(f"/{MODEL}", json={"image_url": DATA_URI} | fields)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", named]


def test_the_key_is_asked_for(box: httpx.Client) -> None:
    for header in ("", f"Bearer {TOKEN}", "Key wrong"):
        answer = box.post(f"/{MODEL}", json={}, headers={"Authorization": header})
        assert (answer.status_code, list(answer.json())) == (401, ["detail"])
