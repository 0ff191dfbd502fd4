"""The webhook that is submitted with each image: where its completion goes, and with which headers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from receiver.config import Config
from receiver.core.errors import ConfigError, InvalidRequestError
from receiver.core.paths import webhook_path
from receiver.providers.ximilar.authentication import (
    REF_HEADER,
    SUBMISSION_HEADER,
    TICKET_HEADER,
    Authenticator,
)
from receiver.providers.ximilar.request import Webhook


@dataclass(frozen=True, slots=True)
class WebhookTemplate:
    """Makes the webhook of each job, with a ticket where an authenticator issues them."""

    endpoint: str
    headers: Mapping[str, str] = field(repr=False)
    authenticator: Authenticator | None = field(default=None, repr=False)

    @classmethod
    def from_config(cls, config: Config) -> "WebhookTemplate":
        """Make the template; raise `ConfigError` if a setting is missing, or cannot be sent."""
        if config.public_url is None:
            raise ConfigError(
                "RECEIVER_PUBLIC_URL: not set, so the provider would not know where to send completions;"
                " it is the address that it reaches this receiver by, such as https://receiver.example.com"
            )
        if config.public_url.query or config.public_url.fragment:
            raise ConfigError("RECEIVER_PUBLIC_URL: must have no query and no fragment")
        if not config.webhook_headers and not config.signing_keys:
            raise ConfigError(
                "RECEIVER_WEBHOOK_HEADERS: neither this nor RECEIVER_SIGNING_KEYS is set, so no completion"
                " of Ximilar would be accepted, and `submit` submits to it alone;"
                " the settings must be those of `receiver serve`"
            )
        headers = {name: values[0].get_secret_value() for name, values in config.webhook_headers.items()}
        template = cls(
            str(config.public_url).rstrip("/") + webhook_path("ximilar"),
            headers,
            Authenticator.from_config(config) if config.signing_keys else None,
        )
        try:
            template.webhook("mark", None)
        except InvalidRequestError as error:
            problem = f"cannot be sent by the provider: {error.detail}"
            raise ConfigError(f"RECEIVER_WEBHOOK_HEADERS: {problem}") from None
        return template

    def webhook(self, mark: str, ref: str | None) -> Webhook:
        """Return the webhook of one job. The provider's list shows its mark, and the completion brings it."""
        headers = {**self.headers, SUBMISSION_HEADER: mark}
        if self.authenticator is not None:
            headers[TICKET_HEADER] = self.authenticator.issue_ticket(mark)
        if ref is not None:
            headers[REF_HEADER] = ref
        return Webhook(self.endpoint, headers)
