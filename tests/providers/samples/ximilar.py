"""Ximilar: custom headers, one output."""

# ruff: noqa: ARG002 - its proof does not depend on the body
import json
from collections.abc import Mapping, Sequence
from typing import ClassVar

from tests.providers.sample import Sample

SECRET = "fixture-of-the-webhook-header"


class XimilarSample(Sample):
    name = "ximilar"
    settings: ClassVar[Mapping[str, str]] = {
        "RECEIVER_WEBHOOK_HEADERS": json.dumps({"X-Webhook-Secret": SECRET})
    }
    secrets = (SECRET,)
    several = False
    signs_body = False

    def sign(self, body: bytes, *, at: int) -> dict[str, str]:
        return {"X-Webhook-Secret": SECRET}

    def sign_as_stranger(self, body: bytes, *, at: int) -> dict[str, str]:
        return {"X-Webhook-Secret": SECRET[::-1]}

    def succeeded(self, own_id: object, urls: Sequence[str]) -> bytes:
        record = {"_status": {"code": 200}, "_upscaled_image_url": urls[0]}
        return self._body(own_id, "DONE", record)

    def failed(self, own_id: object) -> bytes:
        return self._body(own_id, "FAILED", {"_status": {"code": 500, "text": "no luck"}})

    def running(self, own_id: object) -> bytes | None:
        return None

    @staticmethod
    def _body(own_id: object, status: str, record: object) -> bytes:
        response = {"records": [record]}
        return json.dumps({"id": own_id, "type": "upscaler", "status": status, "response": response}).encode()
