"""Signs deliveries by implementations that are not the receiver's: `standardwebhooks` and `cryptography`."""

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from standardwebhooks import Webhook

from receiver.sandbox.options import Options

PREFIX = "whsec_"
_FAL_USER = "user_sandbox"


class Signer(Protocol):
    """Proves deliveries."""

    def headers(self, message_id: str, body: bytes, time: int, *, wrong: bool) -> Mapping[str, str]:
        """Return the headers of a delivery; with ``wrong``, signed by a key that nobody knows."""


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(24)).decode()


def secrets_of(options: Options, new: Callable[[], str]) -> tuple[str, ...]:
    """Return the secrets that sign: those of the options, or else new ones."""
    return options.secrets or tuple(new() for _ in range(2 if options.two_keys else 1))


class StandardWebhooks:
    """Signs with each of several keys, the bytes that are given, as while a secret is changed for another."""

    def __init__(self, keys: Sequence[bytes], labels: Sequence[str]) -> None:
        self._signers = [(label, Webhook(key)) for label, key in zip(labels, keys, strict=True)]

    def headers(self, message_id: str, body: bytes, time: int, *, wrong: bool) -> Mapping[str, str]:
        signers = [(label, Webhook(secrets.token_bytes(24)) if wrong else it) for label, it in self._signers]
        moment, text = datetime.fromtimestamp(time, UTC), body.decode()
        # The package writes the label v1 before each.
        signatures = [
            f"{label},{signer.sign(message_id, moment, text).partition(',')[2]}" for label, signer in signers
        ]
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(time),
            "webhook-signature": " ".join(signatures),
        }


class FalKeys:
    """fal.ai's Ed25519 keys: a set of one or two, of which the last one signs."""

    def __init__(self, count: int) -> None:
        self._keys = [Ed25519PrivateKey.generate() for _ in range(count)]

    def jwks(self) -> dict[str, Any]:
        return {"keys": [_jwk(key) for key in self._keys]}

    def headers(self, message_id: str, body: bytes, time: int, *, wrong: bool) -> Mapping[str, str]:
        key = Ed25519PrivateKey.generate() if wrong else self._keys[-1]
        lines = (message_id, _FAL_USER, str(time), hashlib.sha256(body).hexdigest())
        return {
            "X-Fal-Webhook-Request-Id": message_id,
            "X-Fal-Webhook-User-Id": _FAL_USER,
            "X-Fal-Webhook-Timestamp": str(time),
            "X-Fal-Webhook-Signature": key.sign("\n".join(lines).encode()).hex(),
        }


def _jwk(key: Ed25519PrivateKey) -> dict[str, str]:
    point = base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "x": point}
