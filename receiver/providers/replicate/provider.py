"""Replicate as a provider."""

import json
from datetime import timedelta

from receiver.providers.base import Calls, Client, FileAccess, Output, OwnDelivery, Provider, Reading, Setup
from receiver.providers.bodies import decode_json, mask, without_members
from receiver.providers.replicate import predictions
from receiver.providers.replicate.client import ReplicateClient
from receiver.providers.signatures import StandardWebhooks, key_of

OWN_LIFETIME = timedelta(hours=1)
"""Of files and outputs, from the prediction's end on."""

FILE_HOSTS = ("replicate.delivery", "*.replicate.delivery")


def build(setup: Setup) -> Provider | None:
    return ReplicateProvider(setup) if setup.config.replicate_webhook_secret else None


class ReplicateProvider(Provider):
    """Replicate's predictions. After their hour asking gives no fresh URL: the output is gone."""

    name = "replicate"
    title = "Replicate"
    url_setting = "REPLICATE_API_URL"
    token_setting = "REPLICATE_API_TOKEN"  # noqa: S105 - a name

    proof: StandardWebhooks

    def __init__(self, setup: Setup) -> None:
        config, token = setup.config, setup.config.replicate_api_token
        secrets = [secret.get_secret_value() for secret in config.replicate_webhook_secret]
        super().__init__(
            StandardWebhooks([key_of(secret) for secret in secrets], setup.now),
            config.replicate_api_url,
            None if token is None else token.get_secret_value(),
            config.url_lifetime_of(self.name, OWN_LIFETIME),
        )
        self._secrets = secrets
        if self.token is not None:
            self._secrets.append(self.token)
            self.files = FileAccess(FILE_HOSTS, {"Authorization": f"Bearer {self.token}"})

    def read(self, body: bytes) -> Reading:
        return predictions.read(decode_json(body))

    def redact(self, body: bytes) -> bytes:
        return mask(without_members(body, predictions.ECHOED), self._secrets)

    def own_delivery(self, own_id: str, output: Output) -> OwnDelivery:
        body = json.dumps({"id": own_id, "status": "succeeded", "output": [output.url]}).encode()
        return OwnDelivery(self.proof.headers_for(body), body)

    def open_client(self, calls: Calls) -> Client | None:
        return None if self.token is None else ReplicateClient(self.api_url, self.token, calls)
