"""Reads a sample of a delivery's body with a provider, and says what it understood. Nothing is recorded."""

from datetime import UTC, datetime
from typing import Any

from receiver.core.completion import Failure
from receiver.core.errors import BodyError, ConfigError
from receiver.providers.base import Ending, Provider, Running
from receiver.providers.registry import reader_of
from receiver.providers.setup import Setup


def read_sample(setup: Setup, name: str, body: bytes) -> dict[str, Any]:
    """Return what a body says: its jobs, their state, URLs and deadlines, and what is promised of them.

    Raises:
        ConfigError: there is no such provider, or its description or a setting is wrong.
        BodyError: the body is not a job's.
    """
    provider = reader_of(name, setup)
    if provider is None:
        raise ConfigError(f"{name}: no provider of this name is on")
    if len(body) > setup.config.max_webhook_bytes:
        raise BodyError("body.too_large")
    reading = provider.read(body)
    if isinstance(reading, Running):
        return {"id": provider.job_id(reading.id), "status": reading.status, "state": None, "outputs": []}
    failure = reading.failure
    return {
        "id": provider.job_id(reading.id),
        "status": None,
        "state": "received" if failure is None else "failed",
        "error": _error(failure),
        "is_asked_for": failure is None and not reading.outputs,
        "outputs": _outputs(provider, reading, setup.now()),
    }


def _error(failure: Failure | None) -> dict[str, str] | None:
    return None if failure is None else {"reason": failure.reason, "detail": failure.detail}


def _outputs(provider: Provider, ending: Ending, now: int) -> list[dict[str, Any]]:
    if not ending.outputs:
        return []
    return [
        {
            "id": completion.id,
            "image_url": completion.image_url,
            "url_expires_at": datetime.fromtimestamp(deadline.at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "promised": {"width": completion.width, "height": completion.height},
            "bytes": completion.bytes,
            "content_type": completion.content_type,
            "error": _error(completion.failure),
        }
        for completion, deadline in provider.completions(ending, now)
    ]
