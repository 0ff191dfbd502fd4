"""Replicate's own client for Python works with its stand-in, and judges what it signs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from replicate.client import Client
from replicate.webhook import Webhooks, WebhookSigningSecret, WebhookValidationError

from receiver.sandbox.options import ProviderName
from tests.sandbox.harness import TOKEN, Delivery, Neighbour, opened, stand_in
from tests.sandbox.test_sandbox_replicate import DATA_URI, VERSION, ended, secret
from tests.support.processes import TRUST


def validate(delivery: Delivery, key: str) -> None:
    Webhooks.validate(
        headers=delivery.headers,
        body=delivery.raw.decode(),
        secret=WebhookSigningSecret(key=key),
        tolerance=300,
    )


@contextmanager
def own_client(box: httpx.Client) -> Iterator[Client]:
    with httpx.HTTPTransport(verify=TRUST) as transport:
        client = Client(api_token=TOKEN, base_url=str(box.base_url), transport=transport)
        client.poll_interval = 0.01
        yield client


def test_the_providers_client_submits_waits_lists_and_cancels(near: Neighbour) -> None:
    with stand_in(ProviderName.REPLICATE, page_size=1) as box, own_client(box) as client:
        prediction = client.predictions.create(
            version=VERSION, input={"image": DATA_URI}, webhook=near.webhook
        )
        prediction.wait()
        assert prediction.status == "succeeded"
        assert prediction == client.predictions.get(prediction.id)
        assert opened(box.get(str(prediction.output)).content).size == (80, 60)
        other = client.predictions.create(version=VERSION, input={"image": "data:;base64,QUJD"})
        other.wait()
        assert (other.status, "no image" in (other.error or "")) == ("failed", True)
        first = client.predictions.list()
        assert first.next is not None
        second = client.predictions.list(first.next)
        assert [page.results[0].id for page in (first, second)] == [other.id, prediction.id]
        assert second.next is None
        key = client.webhooks.default.secret()
        near.take()
        delivery = near.take()
        Webhooks.validate(headers=delivery.headers, body=delivery.raw.decode(), secret=key)
    with stand_in(ProviderName.REPLICATE, delay=3600) as box, own_client(box) as client:
        prediction = client.predictions.create(version=VERSION, input={"image": DATA_URI})
        prediction.cancel()
        assert prediction.status == "canceled"


@pytest.mark.parametrize("two_keys", [False, True])
def test_the_client_accepts_the_deliveries(near: Neighbour, two_keys: bool) -> None:  # noqa: FBT001
    with stand_in(ProviderName.REPLICATE, time.time, two_keys=two_keys) as box:
        validate(ended(box, near), secret(box))


@pytest.mark.parametrize("fault", ["altered", "wrong_signature", "old_timestamp"])
def test_the_client_refuses_what_is_signed_wrongly(near: Neighbour, fault: str) -> None:
    with stand_in(ProviderName.REPLICATE) as box:
        key, delivery = secret(box), ended(box, near, fault)
    with pytest.raises(WebhookValidationError):
        validate(delivery, key)
    assert delivery.body["status"] == "succeeded"
