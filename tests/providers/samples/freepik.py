"""Freepik: the proof of Standard Webhooks, whose key is the secret's own text."""

import base64
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import ClassVar

from tests.providers.sample import Sample

SECRET = "fixture-of-freepik-secret"
OLD = "fixture-of-an-older-secret"


class FreepikSample(Sample):
    name = "freepik"
    settings: ClassVar[Mapping[str, str]] = {"FREEPIK_WEBHOOK_SECRET": f"{SECRET},{OLD}"}
    secrets = (SECRET, OLD)

    def sign(self, body: bytes, *, at: int) -> dict[str, str]:
        return headers(body, at, SECRET.encode())

    def sign_as_stranger(self, body: bytes, *, at: int) -> dict[str, str]:
        return headers(body, at, b"nobody")

    def succeeded(self, own_id: object, urls: Sequence[str]) -> bytes:
        return task(own_id, "COMPLETED", urls)

    def failed(self, own_id: object) -> bytes:
        return task(own_id, "FAILED", ())

    def running(self, own_id: object) -> bytes | None:
        return task(own_id, "IN_PROGRESS", ())


def task(own_id: object, status: str, urls: Sequence[str]) -> bytes:
    return json.dumps({"task_id": own_id, "status": status, "generated": list(urls)}).encode()


def headers(body: bytes, at: int, key: bytes, *, label: str = "v1") -> dict[str, str]:
    """The headers of a delivery. `test_freepik.py` has the signatures of other implementations."""
    digest = hmac.new(key, f"msg_1.{at}.".encode() + body, "sha256").digest()
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(at),
        "webhook-signature": f"{label},{base64.b64encode(digest).decode()}",
    }
