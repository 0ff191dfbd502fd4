"""The providers that there are. A new one is a package and a row here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from receiver.config import PROVIDERS, variable
from receiver.core.errors import ConfigError
from receiver.providers.base import Provider, Providers, Setup
from receiver.providers.described.description import Description
from receiver.providers.described.provider import DescribedProvider
from receiver.providers.fal import provider as fal
from receiver.providers.freepik import provider as freepik
from receiver.providers.proofs import Bearer
from receiver.providers.replicate import provider as replicate
from receiver.providers.tables import load
from receiver.providers.ximilar import provider as ximilar


@dataclass(frozen=True, slots=True)
class Entry:
    """One provider that can be switched on.

    Attributes:
        build: returns it, or ``None`` where its settings leave it off; a `ConfigError` names a wrong setting.
        settings: what `receiver init` prints, by name. ``{secret}`` stands for a fresh secret, and an empty
            value is the provider's to give.
        request: what names the webhook in a request to the provider. ``{url}`` stands for its address, and
            ``{headers}`` for the JSON of RECEIVER_WEBHOOK_HEADERS.
    """

    name: str
    title: str
    build: Callable[[Setup], Provider | None]
    settings: Mapping[str, str]
    request: str

    @property
    def token(self) -> str:
        """The setting with which it is asked."""
        return variable(PROVIDERS[self.name][1])


ENTRIES: Sequence[Entry] = (
    Entry(
        "ximilar",
        "Ximilar",
        ximilar.build,
        {"RECEIVER_WEBHOOK_HEADERS": '{"X-Webhook-Secret": "{secret}"}'},
        '"webhook": {"endpoint": "{url}", "headers": {headers}}',
    ),
    Entry(
        "replicate",
        "Replicate",
        replicate.build,
        {"REPLICATE_WEBHOOK_SECRET": "", "REPLICATE_API_TOKEN": ""},
        '"webhook": "{url}", "webhook_events_filter": ["completed"]',
    ),
    Entry(
        "fal",
        "fal.ai",
        fal.build,
        {"FAL_JWKS_URL": "default", "FAL_KEY": ""},
        "?fal_webhook={url}",
    ),
    Entry(
        "freepik",
        "Freepik",
        freepik.build,
        {"FREEPIK_WEBHOOK_SECRET": "", "FREEPIK_API_KEY": ""},
        '"webhook_url": "{url}"',
    ),
)


def open_providers(setup: Setup) -> Providers:
    """Return the providers that are on, by name: those of `ENTRIES` in their order, then the described.

    Raises:
        ConfigError: a setting of one is wrong, or one names a provider that there is not.
    """
    found = {entry.name: provider for entry in ENTRIES if (provider := entry.build(setup)) is not None}
    taken = {entry.name for entry in ENTRIES}
    for path in map(Path, setup.config.providers):
        description = load(path, Description, "RECEIVER_PROVIDERS")
        if description.name in taken:
            raise ConfigError(
                f"RECEIVER_PROVIDERS: {path}: {description.name} is the name of another provider"
            )
        taken.add(description.name)
        provider = DescribedProvider(description, setup)
        if setup.config.confirm and not provider.has_token:
            raise ConfigError(
                f"RECEIVER_CONFIRM: is on, and {provider.name} cannot be asked: {path} has no [ask]"
            )
        found[description.name] = provider
    known = {*(entry.name for entry in ENTRIES), *found, ""}
    if strangers := sorted(setup.config.url_lifetime.keys() - known):
        raise ConfigError(f"RECEIVER_URL_LIFETIME: names {strangers[0]}, which is no provider")
    return found


def reader_of(name: str, setup: Setup) -> Provider | None:
    """Return a provider to read bodies with. A described one needs none of its secrets for that.

    Raises:
        ConfigError: its description or a setting is wrong.
    """
    for path in map(Path, setup.config.providers):
        description = load(path, Description, "RECEIVER_PROVIDERS")
        if description.name == name:
            unproved = description.model_copy(update={"proof": Bearer(kind="bearer", secret="SAMPLE")})  # noqa: S106 - a name
            return DescribedProvider(unproved, setup, dict.fromkeys(unproved.settings(), ("sample",)))
    return open_providers(setup).get(name)
