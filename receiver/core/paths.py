"""HTTP paths that more than one package uses."""

WEBHOOKS = "/webhooks/"
"""What the paths of all providers' webhooks begin with."""


def webhook_path(provider: str) -> str:
    return WEBHOOKS + provider


def webhook_paths(provider: str) -> tuple[str, str]:
    """Return the paths at which a provider's webhook answers.

    A provider may try once: a slash too many in the submitter's settings must not cost the image.
    """
    return webhook_path(provider), f"{webhook_path(provider)}/"
