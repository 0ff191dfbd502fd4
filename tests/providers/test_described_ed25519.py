"""Ed25519 by description, with others' judgements of signatures. test_fal.py has keys that are read."""

import base64
import json
import socket
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, cast

import pytest

from receiver.core.errors import AuthError, ConfigError
from receiver.providers.base import Proof
from tests.providers.samples.described import FOLDER
from tests.providers.test_described import described

VECTORS = [
    vector
    for vector in json.loads(Path(__file__).with_name("vectors.json").read_text("utf-8"))
    if vector["provider"] == "fal"
]
TEXT = (FOLDER / "ed25519.toml").read_text("utf-8")
KIND = TEXT[TEXT.index("[proof]") : TEXT.index("[job]")]
FAL = '''[proof]
kind = "ed25519"
jwks = "ACME_JWKS"
header = "X-Fal-Webhook-Signature"
time = "X-Fal-Webhook-Timestamp"
signed = """{X-Fal-Webhook-Request-Id}
{X-Fal-Webhook-User-Id}
{X-Fal-Webhook-Timestamp}
{sha256}"""

'''


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["case"])
async def test_others_judge_a_signature_alike(tmp_path: Path, vector: dict[str, Any]) -> None:
    raw = [(name.lower().encode(), value.encode()) for name, value in vector["headers"].items()]
    try:
        provider = described(
            tmp_path,
            TEXT.replace(KIND, FAL),
            secrets={"ACME_JWKS": json.dumps(vector["jwks"])},
            now=int(vector["now"] * 1000),
        )
        provider.proof.admit(raw)
        proving = provider.proof.check(raw, base64.b64decode(vector["body_b64"]))
        proved = (proving if isinstance(proving, Proof) else await proving) == Proof()
    except (AuthError, ConfigError):  # the latter for a set without a key
        proved = False
    assert proved == (vector["expect"] == "accept")


@pytest.mark.parametrize(
    ("line", "key"),
    [("", "needs jwks or jwks_url"), ('jwks_url = "http://acme.test/k"', "must be https")],
)
def test_a_set_of_keys_that_cannot_be_is_named(tmp_path: Path, line: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"line (?:5|7): proof.*{key}"):
        described(tmp_path, TEXT.replace('jwks = "ACME_JWKS"', line))
    with pytest.raises(ConfigError, match="ACME_JWKS: is no JWKS"):
        described(tmp_path, TEXT, secrets={"ACME_JWKS": "{}"})


async def test_keys_at_an_address_that_cannot_be_had_make_the_sender_come_again(tmp_path: Path) -> None:
    with socket.socket() as nobody:  # bound, but nothing listens there
        nobody.bind(("127.0.0.1", 0))
        line = f'jwks_url = "http://127.0.0.1:{nobody.getsockname()[1]}/keys.json"'
        provider = described(tmp_path, TEXT.replace('jwks = "ACME_JWKS"', line))
        headers = [(b"x-acme-id", b"n1"), (b"x-acme-time", b"1780000000"), (b"x-acme-signature", b"00" * 64)]
        assert provider.proof.admit(headers) is None
        with pytest.raises(AuthError) as raised:
            await cast("Awaitable[Proof]", provider.proof.check(headers, b"{}"))
    assert raised.value.reason == "auth.keys_unavailable"
