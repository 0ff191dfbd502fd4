"""fal.ai as a provider."""

from datetime import timedelta
from urllib.parse import urlsplit

from receiver.core.errors import ConfigError
from receiver.providers import key_set
from receiver.providers.base import Calls, Client, Provider, Reading, Setup
from receiver.providers.bodies import decode_json, mask
from receiver.providers.fal import results
from receiver.providers.fal.client import FalClient
from receiver.providers.key_set import Ed25519, KeySet

OWN_LIFETIME = timedelta(days=7)
"""Of files, by default. An account, or a request's own header, can make it minutes."""

OWN_JWKS_URL = "https://rest.fal.ai/.well-known/jwks.json"


def build(setup: Setup) -> Provider | None:
    config = setup.config
    if not config.fal_jwks and not config.fal_jwks_url:
        return None
    keys = KeySet(
        key_set.pinned(config.fal_jwks, "FAL_JWKS") if config.fal_jwks else (),
        _address(config.fal_jwks_url) if config.fal_jwks_url else None,
        now=setup.now,
    )
    return FalProvider(
        Ed25519(
            header="x-fal-webhook-signature",
            signed="{x-fal-webhook-request-id}\n{x-fal-webhook-user-id}\n{x-fal-webhook-timestamp}\n{sha256}",
            time="x-fal-webhook-timestamp",
            now=setup.now,
            keys=keys,
        ),
        config.fal_api_url,
        None if config.fal_key is None else config.fal_key.get_secret_value(),
        config.url_lifetime_of(FalProvider.name, OWN_LIFETIME),
    )


def _address(text: str) -> str:
    """Return where the keys are read. By plain http anybody on the way could put in keys."""
    url = OWN_JWKS_URL if text == "default" else text
    try:
        parts = urlsplit(url)
        is_here = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
        is_secure = parts.scheme == "https" or is_here
        is_good = bool(parts.hostname) and is_secure and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        is_good = False
    if not is_good:
        raise ConfigError(
            "FAL_JWKS_URL: must be default, or a URL such as https://host/path, without a password"
        )
    return url


class FalProvider(Provider):
    """fal.ai's models. A file's URL stays the same however often it is asked for."""

    name = "fal"
    title = "fal.ai"
    url_setting = "FAL_API_URL"
    token_setting = "FAL_KEY"  # noqa: S105 - a name

    proof: Ed25519

    def read(self, body: bytes) -> Reading:
        return results.read(decode_json(body))

    def knows_endpoint(self, endpoint: str) -> bool:
        return results.app_of(endpoint) is not None

    def redact(self, body: bytes) -> bytes:
        return body if self.token is None else mask(body, [self.token])

    def open_client(self, calls: Calls) -> Client | None:
        return None if self.token is None else FalClient(self.api_url, self.token, calls)
