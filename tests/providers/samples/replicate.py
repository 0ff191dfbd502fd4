"""Replicate: Standard Webhooks."""

import base64
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import ClassVar

from tests.providers.sample import Sample

SECRET = "whsec_Zml4dHVyZS1vZi1yZXBsaWNhdGUtMDE="
STRANGER = "whsec_Zml4dHVyZS1vZi1hLXN0cmFuZ2VyLTA="
TOKEN = "fixture-of-the-replicate-token"


class ReplicateSample(Sample):
    name = "replicate"
    settings: ClassVar[Mapping[str, str]] = {
        "REPLICATE_WEBHOOK_SECRET": SECRET,
        "REPLICATE_API_TOKEN": TOKEN,
        "REPLICATE_API_URL": "http://127.0.0.1:9",  # nobody answers there
    }
    secrets = (SECRET, TOKEN)

    def sign(self, body: bytes, *, at: int) -> dict[str, str]:
        return signed(SECRET, body, at)

    def sign_as_stranger(self, body: bytes, *, at: int) -> dict[str, str]:
        return signed(STRANGER, body, at)

    def succeeded(self, own_id: object, urls: Sequence[str]) -> bytes:
        return prediction(own_id, output=urls[0] if len(urls) == 1 else list(urls))

    def failed(self, own_id: object) -> bytes:
        return prediction(own_id, status="failed", error="out of memory")

    def running(self, own_id: object) -> bytes | None:
        return prediction(own_id, status="processing", output="https://images.invalid/x.png")


def signed(secret: str, body: bytes, at: int) -> dict[str, str]:
    # As the page on Standard Webhooks writes it: its package signs texts alone, and some bodies are none.
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"msg_1.{at}.".encode() + body, "sha256").digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": "msg_1", "webhook-timestamp": str(at), "webhook-signature": signature}


def prediction(own_id: object, **fields: object) -> bytes:
    """The body of a delivery, with the members that Replicate documents."""
    body = {
        "id": own_id,
        "model": "owner/upscaler",
        "version": "5c7d5dc6",
        "input": {"image": "https://images.invalid/in.png?token=fixture-of-the-input", "scale": 2},
        "logs": "",
        "output": None,
        "data_removed": False,
        "error": None,
        "status": "succeeded",
        "created_at": None,
        "started_at": None,
        "completed_at": None,
        "metrics": {},
        "urls": {"get": f"https://api.replicate.com/v1/predictions/{own_id}"},
        "webhook": "https://receiver.invalid/webhooks/replicate?key=fixture-of-the-query",
    }
    return json.dumps(body | fields).encode()
