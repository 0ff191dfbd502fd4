"""Whether the secrets in the settings can be guessed."""

import re
from collections.abc import Iterator

from receiver.config import Config

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
    for secrets, least, good in (
        (online_secrets(config), LEAST_ONLINE, GOOD_ONLINE),
        (offline_keys(config), LEAST_OFFLINE, GOOD_OFFLINE),
    ):
        for name, secret in secrets:
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
    """Return the keys that can be guessed offline against a signature."""
    return [("RECEIVER_SIGNING_KEYS", key.get_secret_value()) for key in config.signing_keys]
