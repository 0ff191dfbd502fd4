"""Reads a sample of a delivery's body with a provider, and says what it understood. Nothing is recorded."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from receiver.core.errors import BodyError, ConfigError
from receiver.providers.base import Running
from receiver.providers.registry import reader_of
from receiver.providers.setup import Setup

_FORM = "%Y-%m-%dT%H:%M:%SZ"


def read_sample(setup: Setup, name: str, body: bytes) -> dict[str, Any]:
    """Return what a body says: its jobs, their state, URLs and deadlines, and what is promised of them.

    Raise `ConfigError` if the provider is unknown or wrongly set, `BodyError` if the body is not a job's.
    """
    provider = reader_of(name, setup)
    if provider is None:
        raise ConfigError(f"{name}: no provider of this name is on")
    if len(body) > setup.config.max_webhook_bytes:
        raise BodyError("body.too_large")
    reading = provider.read(body)
    if isinstance(reading, Running):
        return {"id": provider.job_id(reading.id), "status": reading.status, "state": None, "outputs": []}
    error = reading.failure
    completions = provider.completions(reading, setup.now()) if reading.outputs else ()
    return {
        "id": provider.job_id(reading.id),
        "status": None,
        "state": "received" if error is None else "failed",
        "error": error and asdict(error),
        "is_asked_for": error is None and not reading.outputs,
        "outputs": [
            {
                "id": completion.id,
                "image_url": completion.image_url,
                "url_expires_at": datetime.fromtimestamp(deadline.at // 1000, UTC).strftime(_FORM),
                "promised": {"width": completion.width, "height": completion.height},
                "bytes": completion.bytes,
                "content_type": completion.content_type,
                "error": completion.failure and asdict(completion.failure),
            }
            for completion, deadline in completions
        ],
    }
