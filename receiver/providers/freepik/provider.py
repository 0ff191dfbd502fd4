"""Freepik as a provider: a description that is shipped, and the settings that switch it on."""

from importlib.resources import files

from receiver.providers.base import Provider, Setup
from receiver.providers.described.description import Description
from receiver.providers.described.provider import DescribedProvider
from receiver.providers.tables import parse


def build(setup: Setup) -> Provider | None:
    config = setup.config
    if not config.freepik_webhook_secret:
        return None
    own = {"FREEPIK_WEBHOOK_SECRET": tuple(key.get_secret_value() for key in config.freepik_webhook_secret)}
    described = description()
    ask = None
    if described.ask is not None and config.freepik_api_key is not None:
        own["FREEPIK_API_KEY"] = (config.freepik_api_key.get_secret_value(),)
        ask = described.ask.model_copy(update={"base": config.freepik_api_url})
    provider = DescribedProvider(described.model_copy(update={"ask": ask}), setup, own)
    provider.token_setting, provider.url_setting = "FREEPIK_API_KEY", "FREEPIK_API_URL"
    return provider


def description() -> Description:
    return parse((files(__package__) / "freepik.toml").read_text("utf-8"), Description)
