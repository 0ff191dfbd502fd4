"""The oldest provider behind the seam, for tests of what is around it."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from receiver.core.completion import Completion
from receiver.providers.base import Asked, Ending
from receiver.providers.bodies import decode_json
from receiver.providers.ximilar.authentication import Authenticator
from receiver.providers.ximilar.client import Ximilar
from receiver.providers.ximilar.completions import read
from receiver.providers.ximilar.provider import XimilarProvider

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
    return Asked(provider(lifetime=lifetime), client)


def completion_of(ending: Ending | bytes) -> Completion:
    """The one completion of an ending, or of the body of a delivery."""
    found = ending if isinstance(ending, Ending) else read(decode_json(ending))
    ((completion, _),) = provider().completions(found, now=0)
    return completion
