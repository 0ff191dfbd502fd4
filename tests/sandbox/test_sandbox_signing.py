"""The sandbox signs what others have signed to the same signature."""

import base64

from receiver.sandbox.options import Options, ProviderName
from receiver.sandbox.signing import FalKeys, StandardWebhooks, new_secret

TIME = 1_780_000_000


def test_replicates_signature_is_the_one_that_nine_packages_accept() -> None:
    key = base64.b64decode("+/+/ZHVtbXktdmVjdG9yLWtleS0wMDAwMQ==")
    body = b'{"id":"p1","status":"succeeded","output":["https://example.test/y.png"]}'
    headers = StandardWebhooks([key], ["v1"]).headers("msg_1", body, TIME, wrong=False)
    assert headers == {
        "webhook-id": "msg_1",
        "webhook-timestamp": "1780000000",
        "webhook-signature": "v1,JpTpxfnHxjWI8FbKn9JSUTC20H4rfsL69+7P5JlJ688=",
    }


def test_freepiks_key_is_the_secret_also_where_it_looks_like_base64() -> None:
    body = b'{"task_id":"t1","status":"COMPLETED","generated":["https://example.test/y.png"]}'
    signer = StandardWebhooks([b"ZHVtbXktc2VjcmV0LWZvci10ZXN0cw=="], ["v1"])
    signature = signer.headers("msg_1", body, TIME, wrong=False)["webhook-signature"]
    assert signature == "v1,tTf3XrY5pbJvGEPTfYZ03ALPb/vTj+VQUNtWmaQghk0="


def test_fresh_secrets_and_keys_differ_and_do_not_show() -> None:
    assert new_secret() != new_secret()
    assert FalKeys(1).jwks() != FalKeys(1).jwks()
    assert "hidden" not in repr(Options(provider=ProviderName.FREEPIK, secrets=("hidden",)))
