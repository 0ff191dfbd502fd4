"""Settings of a new receiver with fresh secrets, and how .env writes them."""

import base64
import secrets

from receiver.providers.registry import Entry


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


def line(name: str, value: str) -> str:
    """Return a line of .env. Single quotes keep JSON as it is."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{name}='{escaped}'"
