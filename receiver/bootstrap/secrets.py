"""Makes secrets for new settings, and tells whether those in the settings can be guessed."""

import base64
import re
import secrets
from collections.abc import Iterator

from receiver.config import PROVIDERS, Config, variable
from receiver.providers.registry import Entry

GUESSED = re.compile(
    r"(?i)(change.?me|replace.?me|secret|password|passwort|passw0rd|token|test|example|default|admin|insecure"
    r"|your.*|.*(from|in) \.env|the value.*|x+|<.*>|\*+|\.+|1234\d*|abc\w{0,5}|foo|bar|todo|fixme)[-_!0-9]*"
)
"""Values from examples, and the first guesses of an attacker."""

LEAST_ONLINE, GOOD_ONLINE = 8, 16
"""Characters of a secret that can only be guessed by requests to the receiver."""

LEAST_OFFLINE, GOOD_OFFLINE = 16, 32
"""Characters of a signing key, which can be guessed offline against a signature."""

MIN_DISTINCT = 6
"""Distinct characters in a secret."""


def own_settings() -> dict[str, str]:
    """Return the settings of every receiver, with fresh secrets."""
    return {
        "RECEIVER_API_TOKENS": secrets.token_urlsafe(32),
        "RECEIVER_NOTIFY_SECRET": f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}",
    }


def fresh_settings(entry: Entry) -> dict[str, str]:
    """Return a provider's settings, with fresh secrets; what it gives itself is empty."""
    return {
        name: value.replace("{secret}", secrets.token_urlsafe(32)) for name, value in entry.settings.items()
    }


def dotenv_line(name: str, value: str) -> str:
    """Return a line of .env. Single quotes keep JSON as it is."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{name}='{escaped}'"


def weakness(secret: str, *, least: int, good: int) -> tuple[bool, str]:
    """Return whether a secret is as weak as none, and why; an empty text if it is strong."""
    if GUESSED.fullmatch(secret):
        return True, "looks like a value from an example"
    if len(secret) < least:
        return True, f"is shorter than {least} characters"
    if len(set(secret)) < MIN_DISTINCT:
        return True, f"has fewer than {MIN_DISTINCT} different characters"
    if len(secret) < good:
        return False, f"is shorter than {good} characters"
    return False, ""


def weak_secrets(config: Config) -> Iterator[tuple[str, bool, str]]:
    """Yield each weak secret: its setting, whether it is as weak as none, and why."""
    for found, least, good in (
        (online_secrets(config), LEAST_ONLINE, GOOD_ONLINE),
        (offline_keys(config), LEAST_OFFLINE, GOOD_OFFLINE),
    ):
        for name, secret in found:
            as_none, what = weakness(secret, least=least, good=good)
            if what:
                yield name, as_none, what


def online_secrets(config: Config) -> list[tuple[str, str]]:
    """Return the secrets that can only be guessed by requests, each with its setting."""
    headers = (value for values in config.webhook_headers.values() for value in values)
    return [
        *(("RECEIVER_WEBHOOK_HEADERS", value.get_secret_value()) for value in headers),
        *(("RECEIVER_API_TOKENS", token.get_secret_value()) for token in config.api_tokens),
    ]


def offline_keys(config: Config) -> list[tuple[str, str]]:
    """Return the keys that can be guessed offline against a signature, each with its setting.

    They are the lists of secrets among the settings that switch a provider on.
    """
    switches = [name for names, _ in PROVIDERS.values() for name in names]
    return [
        (variable(name), key.get_secret_value())
        for name in switches
        if isinstance(keys := getattr(config, name), tuple)
        for key in keys
    ]
