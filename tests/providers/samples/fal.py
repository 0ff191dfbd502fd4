"""fal.ai: Ed25519 over four lines, signed by `cryptography`."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.providers.sample import Sample

KEY = Ed25519PrivateKey.from_private_bytes(b"a key of these tests alone......")
STRANGER = Ed25519PrivateKey.from_private_bytes(b"a key that is in no key set.....")
TOKEN = "fixture-of-the-fal-key"


def jwk(key: Ed25519PrivateKey) -> dict[str, str]:
    point = base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "x": point}


def jwks(*keys: Ed25519PrivateKey) -> str:
    return json.dumps({"keys": [jwk(key) for key in keys]})


class FalSample(Sample):
    name = "fal"
    settings: ClassVar[Mapping[str, str]] = {
        "FAL_JWKS": jwks(KEY),
        "FAL_KEY": TOKEN,
        "FAL_API_URL": "http://127.0.0.1:9",  # nobody answers there
    }
    secrets = (TOKEN,)

    def sign(self, body: bytes, *, at: int) -> dict[str, str]:
        return signed(KEY, body, at)

    def sign_as_stranger(self, body: bytes, *, at: int) -> dict[str, str]:
        return signed(STRANGER, body, at)

    def succeeded(self, own_id: object, urls: Sequence[str]) -> bytes:
        files = [{"url": url} for url in urls]
        return result(own_id, payload={"image": files[0]} if len(files) == 1 else {"images": files})

    def failed(self, own_id: object) -> bytes:
        return result(own_id, status="ERROR", error="Invalid status code: 422", payload={"detail": "no luck"})

    def running(self, own_id: object) -> bytes | None:  # noqa: ARG002 - it posts ends alone
        return None


def signed(key: Ed25519PrivateKey, body: bytes, at: int) -> dict[str, str]:
    lines = ("request 1", "user_1", str(at), hashlib.sha256(body).hexdigest())
    names = ("Request-Id", "User-Id", "Timestamp", "Signature")
    values = (*lines[:3], key.sign("\n".join(lines).encode()).hex())
    return {f"X-Fal-Webhook-{name}": value for name, value in zip(names, values, strict=True)}


def result(own_id: object, **fields: Any) -> bytes:
    """The body of a delivery, with the members that fal documents."""
    body = {
        "request_id": own_id,
        "gateway_request_id": own_id,
        "status": "OK",
        "error": None,
        "payload": None,
    }
    return json.dumps(body | fields).encode()
