"""A delivery that the receiver makes itself proves itself, and is read as the output that it was made of."""

import asyncio
import base64
import inspect
from pathlib import Path

import pytest

from receiver.core.errors import AuthError
from receiver.providers.base import Ending, Output, Proof, Provider
from receiver.providers.described.description import Description
from receiver.providers.tables import parse
from tests.providers.test_any_body import PROVIDERS
from tests.providers.test_described import described
from tests.providers.test_described_examples import EXAMPLES, FIRST

URL = "https://receiver.test/webhooks/x?expires=1&signature=a"
OUTPUT = Output(URL, 640, 426)

JOB = """
[job]
id = ["data.id", "id"]
numeric_id = true
state = "data.state"
done = ["ok"]
[outputs]
each = "data.files[][]"
"""
PROOFS = {
    "a header": 'kind = "header"\nheader = "X-Secret"\nsecret = "ACME_SECRET"',
    "a bearer": 'kind = "bearer"\nsecret = "ACME_SECRET"',
    "Standard Webhooks of another name": """kind = "standard-webhooks"
secret = "ACME_SECRET"
key = ["text"]
headers = "x-acme" """,
    "an HMAC in base64": """kind = "hmac-sha256"
secret = "ACME_SECRET"
header = "x-signature"
encoding = "base64"
prefix = "sha256="
signed = "{x-request}:{sha256}" """,
}


async def checked(provider: Provider, headers: list[tuple[bytes, bytes]], body: bytes) -> Proof:
    proving = provider.proof.check(headers, body)
    return await proving if inspect.isawaitable(proving) else proving


async def proved(provider: Provider) -> None:
    delivery = provider.own_delivery("test-1", OUTPUT)
    assert delivery is not None
    headers = [(name.lower().encode(), value) for name, value in delivery.headers.items()]
    if provider.proof.admit(headers) is None:
        await checked(provider, headers, delivery.body)
        with pytest.raises(AuthError):
            await checked(provider, headers, delivery.body + b" ")
    ending = provider.read(delivery.body)
    assert isinstance(ending, Ending)
    assert (ending.id, ending.failure) == ("test-1", None)
    assert [output.url for output in ending.outputs] == [URL]
    for name, value in delivery.headers.items():
        assert value.decode() not in repr(delivery), name


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_a_provider_takes_what_was_made_for_it(name: str) -> None:
    provider = PROVIDERS[name]
    if provider.own_delivery("test-1", OUTPUT) is None:
        assert name in {"fal", *(it for it in PROVIDERS if "ed25519" in it)}
    else:
        asyncio.run(proved(provider))


@pytest.mark.parametrize("kind", PROOFS)
def test_a_description_of_any_proof_takes_what_was_made_for_it(tmp_path: Path, kind: str) -> None:
    text = f'name = "acme"\ntitle = "Acme"\nurl_lifetime = "1h"\n[proof]\n{PROOFS[kind]}\n{JOB}'
    asyncio.run(proved(described(tmp_path, text)))


@pytest.mark.parametrize("text", [FIRST, *(text for text, _ in EXAMPLES)])
def test_the_descriptions_of_the_documentation_do_too(tmp_path: Path, text: str) -> None:
    secret = "whsec_" + base64.b64encode(b"a secret of the test").decode()
    names = parse(text, Description).settings()
    asyncio.run(proved(described(tmp_path, text, secrets=dict.fromkeys(names, secret))))
