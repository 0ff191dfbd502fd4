"""The oldest provider behind the seam, for tests of what is around it."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from receiver.providers.base import Asked
from receiver.providers.ximilar.authentication import Authenticator
from receiver.providers.ximilar.client import Ximilar
from receiver.providers.ximilar.provider import XimilarClient, XimilarProvider

NAME = XimilarProvider.name
SECRET_HEADERS: Mapping[str, Sequence[str]] = {"X-Webhook-Secret": ("secret",)}
API = "https://api.ximilar.com/account/v2"


def provider(
    headers: Mapping[str, Sequence[str]] = SECRET_HEADERS,
    *,
    lifetime: timedelta = timedelta(hours=24),
    api_url: str = API,
) -> XimilarProvider:
    return XimilarProvider(Authenticator(headers), api_url, None, lifetime)


def asked(client: Ximilar, *, lifetime: timedelta = timedelta(hours=24)) -> Asked:
    """The provider, to be asked by this client."""
    return Asked(provider(lifetime=lifetime), XimilarClient(client))
