"""A described provider with each kind of proof. None of their signers is the product's."""

# ruff: noqa: ARG002 - the proof by a header does not depend on the body
import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.providers.sample import Sample

FOLDER = Path(__file__).parents[1] / "described"
KEY = b"fixture-of-the-key-of-acme"


class DescribedSample(Sample):
    """What all have in common; the file's name is that of the kind."""

    kind: ClassVar[str]
    secret: ClassVar[str] = KEY.decode()

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.name = f"acme-{cls.kind}"
        cls.settings = {"RECEIVER_PROVIDERS": str(FOLDER / f"{cls.kind}.toml"), "ACME_SECRET": cls.secret}
        cls.secrets = (cls.secret,)

    def sign(self, body: bytes, *, at: int) -> dict[str, str]:
        return self.headers(body, at, KEY)

    def sign_as_stranger(self, body: bytes, *, at: int) -> dict[str, str]:
        return self.headers(body, at, KEY[::-1])

    def headers(self, body: bytes, at: int, key: bytes) -> dict[str, str]:
        raise NotImplementedError

    def succeeded(self, own_id: object, urls: Sequence[str]) -> bytes:
        return job(own_id, "ok", files=[{"href": url} for url in urls])

    def failed(self, own_id: object) -> bytes:
        return job(own_id, "broken", error="no luck")

    def running(self, own_id: object) -> bytes | None:
        return job(own_id, "busy")


class HeaderSample(DescribedSample):
    kind = "header"
    signs_body = False

    def headers(self, body: bytes, at: int, key: bytes) -> dict[str, str]:
        return {"X-Acme-Secret": key.decode()}


class BearerSample(DescribedSample):
    kind = "bearer"
    signs_body = False

    def headers(self, body: bytes, at: int, key: bytes) -> dict[str, str]:
        return {"Authorization": f"Bearer {key.decode()}"}


class StandardSample(DescribedSample):
    kind = "standard"
    secret = "whsec_" + base64.b64encode(KEY).decode()

    def headers(self, body: bytes, at: int, key: bytes) -> dict[str, str]:
        signature = base64.b64encode(digest(key, f"m1.{at}.".encode() + body)).decode()
        return {"svix-id": "m1", "svix-timestamp": str(at), "svix-signature": f"v1,{signature}"}


class HmacBodySample(DescribedSample):
    kind = "hmac-body"
    states_time = False

    def headers(self, body: bytes, at: int, key: bytes) -> dict[str, str]:
        return {"X-Acme-Signature": "sha256=" + digest(key, body).hex().upper()}


class HmacTemplateSample(DescribedSample):
    kind = "hmac-template"
    secret = "whsec_" + KEY.decode()

    def headers(self, body: bytes, at: int, key: bytes) -> dict[str, str]:
        signature = base64.b64encode(digest(key, f"n1.{at}.".encode() + body)).decode()
        return {"X-Acme-Id": "n1", "X-Acme-Time": str(at), "X-Acme-Signature": signature}


class Ed25519Sample(DescribedSample):
    kind = "ed25519"
    secret = "-"
    signer = Ed25519PrivateKey.from_private_bytes(b"fixture" * 4 + b"-key")

    def headers(self, body: bytes, at: int, key: bytes) -> dict[str, str]:
        signer = self.signer if key == KEY else Ed25519PrivateKey.generate()
        text = f"n1\n{at}\n{hashlib.sha256(body).hexdigest()}"
        signature = signer.sign(text.encode()).hex()
        return {"X-Acme-Id": "n1", "X-Acme-Time": str(at), "X-Acme-Signature": signature}


def jwks(*keys: Ed25519PrivateKey) -> str:
    points = [base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).rstrip(b"=") for key in keys]
    return json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": point.decode()} for point in points]})


Ed25519Sample.settings = {**Ed25519Sample.settings, "ACME_JWKS": jwks(Ed25519Sample.signer)}
Ed25519Sample.secrets = ()

DESCRIBED: Mapping[str, DescribedSample] = {
    sample.kind: sample
    for sample in (
        HeaderSample(),
        BearerSample(),
        StandardSample(),
        HmacBodySample(),
        HmacTemplateSample(),
        Ed25519Sample(),
    )
}


def job(own_id: object, state: object, **more: object) -> bytes:
    return json.dumps({"job": {"id": own_id, "state": state, **more}}).encode()


def digest(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, "sha256").digest()
