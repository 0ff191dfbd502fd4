"""The options of the sandbox."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from receiver.sandbox.faults import Faults, check_provider

MIB = 1024 * 1024


class ProviderName(StrEnum):
    """The providers for which the sandbox stands in."""

    XIMILAR = "ximilar"
    REPLICATE = "replicate"
    FAL = "fal"
    FREEPIK = "freepik"


TOKEN_VARIABLES: Mapping[ProviderName, str] = {
    ProviderName.XIMILAR: "XIMILAR_API_TOKEN",
    ProviderName.REPLICATE: "REPLICATE_API_TOKEN",
    ProviderName.FAL: "FAL_KEY",
    ProviderName.FREEPIK: "FREEPIK_API_KEY",
}
"""The environment's variables for the API tokens: the names of the receiver's settings."""

SECRET_VARIABLES: Mapping[ProviderName, str] = {
    ProviderName.REPLICATE: "REPLICATE_WEBHOOK_SECRET",
    ProviderName.FREEPIK: "FREEPIK_WEBHOOK_SECRET",
}
"""Those for the secrets that sign, of the providers that have such, separated by commas."""


class ErrorShape(StrEnum):
    """The form of error bodies."""

    GUESSED = "guessed"
    """The provider's own, which for Ximilar is a guess."""
    DETAIL = "detail"
    """``{"detail": TEXT}``."""
    STATUS = "status"
    """``{"status": {"code", "text", "request_id"}}``."""
    FIELDS = "fields"
    """``{FIELD: [TEXT]}``."""
    HTML = "html"
    """A page with the text as its title."""
    TEXT = "text"
    """Plain text."""
    EMPTY = "empty"
    """No body at all."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a sandbox behaves. Times are in seconds; what is ``None`` is the provider's own.

    `receiver sandbox --help` says what its options of these names mean. The others:

    Attributes:
        keep_jobs: the oldest jobs beyond this number are forgotten, with their files.
        reorder_within: how long a completion waits to be overtaken.
        max_result_pixels: width times height of a result.
        call_timeout: of one POST of a completion, or one fetch of a source.

    Raises:
        ValueError: a number is out of its range, the links' base is no URL, or ``ca`` has no certificates.
    """

    provider: ProviderName = ProviderName.XIMILAR
    token: str | None = field(default=None, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    two_keys: bool = False
    keys_late: float = 0.0
    delay: float = 1.5
    url_lifetime: float | None = None
    renew_urls: bool = False
    files_want_token: bool = False
    retry_within: float | None = None
    workspace: str = "5ab6d8a5-1b2c-4f0a-9a45-1d3e5f7a9b0c"
    page_size: int | None = None
    oldest_first: bool = False
    link_base: str | None = None
    error_shape: ErrorShape = ErrorShape.GUESSED
    keep_jobs: int = 10_000
    faults: Faults = field(default_factory=Faults)
    seed: int | None = None
    late_by: float = 30.0
    reorder_within: float = 10.0
    flaky_times: int = 2
    slow_rate: int = 512
    retry_after: int | None = None
    max_source_bytes: int = 20 * MIB
    max_result_pixels: int = 64_000_000
    call_timeout: float = 30.0
    ca: Path | None = None

    def __post_init__(self) -> None:
        times = ("delay", "url_lifetime", "late_by", "reorder_within", "retry_within", "keys_late")
        for name in (*times, "flaky_times"):
            if (value := getattr(self, name)) is not None and not value >= 0:
                raise ValueError(f"{name} is 0 or more")
        positive = ("page_size", "keep_jobs", "slow_rate", "max_source_bytes", "max_result_pixels")
        for name in (*positive, "call_timeout"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} is more than 0")
        if self.token == "":
            raise ValueError("token is empty")
        check_provider(self.faults.chosen, self.provider)
        if self.link_base is not None:
            try:
                base = urlsplit(self.link_base)
            except ValueError as error:
                raise ValueError(f"link_base is no URL: {error}") from error
            if not base.scheme or not base.hostname:
                raise ValueError("link_base needs a scheme and a host")
        self.tls()

    def tls(self) -> ssl.SSLContext | bool:
        """Return whom to trust over TLS, as httpx takes it."""
        if self.ca is None:
            return True
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise ValueError(f"{self.ca} is no file of certificates in PEM: {error.strerror}") from None

    @property
    def max_body_bytes(self) -> int:
        """The limit of a request's body: a source image in base64, a third longer, and its options."""
        return self.max_source_bytes * 4 // 3 + MIB
