"""The bodies of the provider's page, word for word, with only its placeholders filled in."""

import json
import re
import uuid

from receiver.sandbox.pictures import draw
from tests.sandbox.harness import Neighbour, Sandbox, opened

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

SUBMIT_FROM_THE_WEBHOOK_SECTION = """{
  "type": "upscaler",
  "endpoint": "upscale_2x",
  "records": [
    {
      "_url": "__URL_PATH__"
    }
  ],
  "webhook": {
    "endpoint": "__YOUR_POST_URL__",
    "headers": { "optional_field": "optional_value" }
  }
}"""

SUBMITTED = """{
  "id": "d13389bf-6762-4439-87c6-eb4d02a08bc1",
  "request": {
    "type": "upscaler",
    "model_type": "gan",
    "endpoint": "upscale_2x",
    "records": [
      {
        "_url": "__PATH_TO_IMAGE_URL__"
      }
    ],
    "webhook": {
      "endpoint": "__YOUR_POST_URL__",
      "headers": { "optional_field": "optional_value" }
    }
  },
  "type": "upscaler",
  "status": "CREATED",
  "created": "2025-04-12T11:55:23.619492Z",
  "workspace": "__WORKSPACE_ID__"
}"""

WHOLE = """{
  "id": "d13389bf-6762-4439-87c6-eb4d02a08bc1",
  "created": "2025-04-12T11:55:23.619492Z",
  "modified": "2025-04-12T11:55:32.717459Z",
  "request": {
    "type": "upscaler",
    "records": [
      {
        "_url": "__PATH_TO_IMAGE_URL__"
      }
    ],
    "webhook": {
      "endpoint": "__YOUR_POST_URL__",
      "headers": { "optional_field": "optional_value" }
    },
    "endpoint": "upscale_2x",
    "model_type": "gan"
  },
  "response": {
    "records": [
      {
        "_url": "__PATH_TO_IMAGE_URL__",
        "_width": 212,
        "_height": 174,
        "_status": {
          "code": 200,
          "text": "OK",
          "request_id": "d15389bf-6762-4439-87c6-eb4d02a08bc1"
        },
        "_upscaled_width": 424,
        "_upscaled_height": 348,
        "_upscaled_image_url": "__URL_PATH_UPSCALED__"
      }
    ]
  },
  "type": "upscaler",
  "status": "DONE",
  "workspace": "__WORKSPACE_ID__"
}"""

COMPLETION = """{
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

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def filled(template: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        assert name in template, name
        template = template.replace(name, value)
    return template


def test_the_pages_request_brings_the_pages_answers_and_the_pages_webhook_body(
    box: Sandbox, near: Neighbour
) -> None:
    source = near.serve(draw(1, (212, 174), "jpg"))
    places = {"__PATH_TO_IMAGE_URL__": source, "__YOUR_POST_URL__": near.webhook}

    answer = box.post(
        "/request", content=filled(SUBMIT, places), headers={"Content-Type": "application/json"}
    )
    assert answer.is_success
    submitted = answer.json()
    uuid.UUID(submitted["id"])
    assert TIMESTAMP.fullmatch(submitted["created"])
    assert submitted == json.loads(
        filled(
            SUBMITTED,
            {
                **places,
                "d13389bf-6762-4439-87c6-eb4d02a08bc1": submitted["id"],
                "2025-04-12T11:55:23.619492Z": submitted["created"],
                "__WORKSPACE_ID__": submitted["workspace"],
            },
        )
    )
    assert list(submitted) == list(json.loads(SUBMITTED))

    delivery = near.take()
    record = delivery.body["response"]["records"][0]
    assert delivery.headers["optional_field"] == "optional_value"
    assert delivery.headers["content-type"] == "application/json"
    assert len({submitted["id"], record["_id"], record["_status"]["request_id"]}) == 3
    # Compared as text, and so field by field in the page's order.
    assert json.dumps(delivery.body) == json.dumps(
        json.loads(
            filled(
                COMPLETION,
                {
                    "__ASYNC_REQUEST_ID__": submitted["id"],
                    "__RECORD_ID__": record["_id"],
                    "__ORIGINAL_URL_PATH__": source,
                    "__REQUEST_ID__": record["_status"]["request_id"],
                    "UPSCALED_WIDTH": "424",
                    "UPSCALED_HEIGHT": "348",
                    "WIDTH": "212",
                    "HEIGHT": "174",
                    "__UPSCALED_URL_PATH__": record["_upscaled_image_url"],
                },
            )
        )
    )

    whole = box.job(submitted["id"])
    assert TIMESTAMP.fullmatch(whole["modified"])
    assert whole["created"] < whole["modified"]
    assert whole == json.loads(
        filled(
            WHOLE,
            {
                **places,
                "d13389bf-6762-4439-87c6-eb4d02a08bc1": submitted["id"],
                "2025-04-12T11:55:23.619492Z": submitted["created"],
                "2025-04-12T11:55:32.717459Z": whole["modified"],
                "d15389bf-6762-4439-87c6-eb4d02a08bc1": record["_status"]["request_id"],
                "__URL_PATH_UPSCALED__": record["_upscaled_image_url"],
                "__WORKSPACE_ID__": submitted["workspace"],
            },
        )
    )
    assert list(whole) == list(json.loads(WHOLE))

    status = box.get(f"/request/{submitted['id']}/status").json()
    assert status == {"id": submitted["id"], "status": "DONE"}
    listed = box.get("/request").json()["results"]
    assert listed == [
        {key: whole[key] for key in ("id", "status", "type", "created", "workspace")},
    ]

    upscaled = opened(box.get(record["_upscaled_image_url"]).content)
    assert (upscaled.size, upscaled.format) == ((424, 348), "JPEG")


def test_the_webhook_sections_own_request_works_as_well(box: Sandbox, near: Neighbour) -> None:
    body = filled(
        SUBMIT_FROM_THE_WEBHOOK_SECTION,
        {"__URL_PATH__": near.serve(draw(2, (40, 30), "png")), "__YOUR_POST_URL__": near.webhook},
    )
    assert box.post("/request", content=body).json()["status"] == "CREATED"
    assert near.take().body["response"]["records"][0]["_upscaled_width"] == 80
