"""The webhook target for Ximilar's Upscaler: fetches, verifies and archives each upscaled image.

For programs that submit: ``submit``, what it gives (``Outcome``, ``Fate``), and the errors that it raises or
gives. They are loaded when they are first asked for, so that importing the package alone costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from receiver.core.errors import (
        ConfigError,
        InvalidRequestError,
        LedgerError,
        NoCreditsError,
        ProviderError,
        RateLimitedError,
        ReceiverError,
        TokenRefusedError,
        UnavailableError,
    )
    from receiver.submission import Fate, Outcome, submit

__all__ = [
    "ConfigError",
    "Fate",
    "InvalidRequestError",
    "LedgerError",
    "NoCreditsError",
    "Outcome",
    "ProviderError",
    "RateLimitedError",
    "ReceiverError",
    "TokenRefusedError",
    "UnavailableError",
    "submit",
]


def __getattr__(name: str) -> object:
    """Loads what a program asks for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = "receiver.core.errors" if name.endswith("Error") else "receiver.submission"
    found: object = getattr(import_module(room), name)
    return found
