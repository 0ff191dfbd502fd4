"""The webhook target for upscaling services: fetches, verifies and archives each upscaled image.

For programs that submit: ``submit``, what it returns (``Outcome``, ``Fate``), and the errors that it raises
or returns. For programs that ask a receiver: ``Client``, ``AsyncClient`` and ``ApiError``. They are imported
when they are first used, so that importing the package alone costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from receiver.client import ApiError, AsyncClient, Client
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
    from receiver.submission.run import submit
    from receiver.submission.submitter import Fate, Outcome

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
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
    """Import a public name when it is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in {"ApiError", "AsyncClient", "Client"}:
        module = "receiver.client"
    else:
        module = "receiver.core.errors" if name.endswith("Error") else "receiver.submission.run"
    found: object = getattr(import_module(module), name)
    return found
