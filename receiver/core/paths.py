"""HTTP paths that more than one package uses."""

WEBHOOK_PATH = "/webhooks/ximilar"

WEBHOOK_PATHS = (WEBHOOK_PATH, f"{WEBHOOK_PATH}/")
"""The provider tries once: a slash too many in the submitter's settings must not cost the image."""
