"""Ximilar as a provider: custom headers prove a delivery, and jobs have bare ids."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from receiver.providers.base import Calls, Ending, Output, OwnDelivery, Provider, Setup
from receiver.providers.bodies import decode_json
from receiver.providers.ximilar import completions
from receiver.providers.ximilar.authentication import REF_HEADER, Authenticator
from receiver.providers.ximilar.client import Ximilar

OWN_LIFETIME = timedelta(hours=24)
"""Assumed: the documentation does not say how long an image's URL works."""


def build(setup: Setup) -> Provider | None:
    config = setup.config
    if not config.webhook_headers and not config.signing_keys:
        return None
    return XimilarProvider(
        Authenticator.from_config(config),
        config.ximilar_api_url,
        None if (token := config.ximilar_api_token) is None else token.get_secret_value(),
        config.url_lifetime_of(XimilarProvider.name, OWN_LIFETIME, documented=False),
    )


class XimilarProvider(Provider):
    name = "ximilar"
    title = "Ximilar"
    bare_ids = True
    fresh_urls = True
    ref_header = REF_HEADER
    url_setting = "XIMILAR_API_URL"
    token_setting = "XIMILAR_API_TOKEN"  # noqa: S105 - a name

    proof: Authenticator

    @property
    def body_schema(self) -> Mapping[str, Any]:
        return completions.schema()

    def read(self, body: bytes) -> Ending:
        return completions.read(decode_json(body))

    def redact(self, body: bytes) -> bytes:
        return self.proof.redact(body)

    def own_delivery(self, own_id: str, output: Output) -> OwnDelivery:
        body = completions.written(own_id, output)
        return OwnDelivery(self.proof.headers_for(body), body)

    def open_client(self, calls: Calls) -> Ximilar | None:
        return None if self.token is None else Ximilar(self.api_url, self.token, calls)
