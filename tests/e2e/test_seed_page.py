"""The bodies of the provider's page, word for word, from the submit to the archived object."""

import hashlib
import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from receiver.sandbox.pictures import draw
from tests.sandbox.harness import Neighbour
from tests.support.processes import WEBHOOK_SECRET, Receiver, Sandbox

SUBMIT = """{
    "type": "upscaler",
    "endpoint": "upscale_2x",
    "model_type": "gan",
    "records": [
        { "_url": "__PATH_TO_IMAGE_URL__" }
    ],
    "webhook": {
        "endpoint": "__YOUR_POST_URL__",
        "headers": {"optional_field": "optional_value"}
    }
}"""

WEBHOOK_BODY = """{
  "status": "DONE",
  "id": "__ASYNC_REQUEST_ID__",
  "type": "upscaler",
  "response": {
    "records": [
      {
        "_id": "__RECORD_ID__",
        "_url": "__ORIGINAL_URL_PATH__",
        "_width": WIDTH,
        "_height": HEIGHT,
        "_status": {
          "code": 200,
          "text": "OK",
          "request_id": "__REQUEST_ID__"
        },
        "_upscaled_width": UPSCALED_WIDTH,
        "_upscaled_height": UPSCALED_HEIGHT,
        "_upscaled_image_url": "__UPSCALED_URL_PATH__"
      }
    ]
  }
}"""


def filled(text: str, *values: tuple[str, str]) -> bytes:
    """The text with its placeholders filled in; the order matters, since WIDTH is within UPSCALED_WIDTH."""
    for placeholder, value in values:
        assert placeholder in text
        text = text.replace(placeholder, value)
    return text.encode()


def test_the_pages_own_submit_ends_as_the_sandboxs_bytes_in_the_archive(
    receiver: Receiver, box: Sandbox, near: Neighbour
) -> None:
    source = near.serve(draw(1, (212, 174), "jpg"), "seed.jpg")
    body = filled(
        SUBMIT,
        ("__PATH_TO_IMAGE_URL__", source),
        ("__YOUR_POST_URL__", receiver.webhook),
        (
            '"optional_field": "optional_value"',
            f'"X-Webhook-Secret": "{WEBHOOK_SECRET}", "X-Receiver-Ref": "order 66"',
        ),
    )
    # The completion can come only after the answer to the submit was on its way; the job may be new to us.
    submitted = box.post("/request", content=body, headers={"Content-Type": "application/json"})
    job_id = submitted.raise_for_status().json()["id"]
    box.program.until(lambda: f"job {job_id}: completion answered with 200" in box.program.log)

    job = receiver.ended(job_id)

    record = box.record(job_id)
    offered = httpx.get(record["_upscaled_image_url"], trust_env=False).raise_for_status().content
    kept = receiver.get(f"/jobs/{job_id}/image").raise_for_status()
    assert kept.content == offered
    assert kept.headers["content-type"] == "image/jpeg"
    assert Path(unquote(urlsplit(job["archive"]["uri"]).path)).read_bytes() == offered
    assert job["image"] == {
        "format": "jpeg",
        "width": 424,
        "height": 348,
        "bytes": len(offered),
        "sha256": hashlib.sha256(offered).hexdigest(),
    }
    assert job["ref"] == "order 66"
    assert job["promised"] == {"width": 424, "height": 348}
    assert (job["source_url"], job["image_url"]) == (source, record["_upscaled_image_url"])
    assert [(line["from"], line["to"]) for line in job["history"]] == [
        (None, "received"),
        ("received", "fetched"),
        ("fetched", "archived"),
    ]
    times = [job["received_at"], job["fetched_at"], job["archived_at"]]
    assert times == sorted(times)


def test_the_pages_own_webhook_body_is_archived(receiver: Receiver, hosted: str, picture: bytes) -> None:
    body = filled(
        WEBHOOK_BODY,
        ("__ASYNC_REQUEST_ID__", "d13389bf-6762-4439-87c6-eb4d02a08bc1"),
        ("__RECORD_ID__", "5ab6d8a5"),
        ("__ORIGINAL_URL_PATH__", "https://example.com/source.jpg"),
        ("__REQUEST_ID__", "d15389bf-6762-4439-87c6-eb4d02a08bc1"),
        ("__UPSCALED_URL_PATH__", hosted),
        ("UPSCALED_WIDTH", "64"),
        ("UPSCALED_HEIGHT", "48"),
        ("WIDTH", "32"),
        ("HEIGHT", "24"),
    )
    json.loads(body)

    answer = receiver.deliver(body)

    assert answer.status_code == 200
    assert answer.json() == {
        "id": "d13389bf-6762-4439-87c6-eb4d02a08bc1",
        "state": "received",
        "duplicate": False,
    }
    assert receiver.ended("d13389bf-6762-4439-87c6-eb4d02a08bc1")["state"] == "archived"
    kept = receiver.get("/jobs/d13389bf-6762-4439-87c6-eb4d02a08bc1/image").raise_for_status()
    assert kept.content == picture
