"""Traces each job from its delivery to the archive.

It needs the extra ``tracing`` and OpenTelemetry's own variables. Without them nothing of OpenTelemetry is
imported.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from receiver.telemetry.tracing.spans import Spans

log = structlog.get_logger("receiver.tracing")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Either one, set, turns tracing on. These and all further ``OTEL_`` variables are the SDK's own."""


def from_environment(environ: Mapping[str, str]) -> "Spans | None":
    """Return tracing to the collector that the SDK's variables name; ``None`` where they name none.

    The environment must be the process's own, because that is where the SDK looks.
    """
    if not any(environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from receiver.telemetry.tracing import spans  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError:
        log.warning("traces are wanted, but the extra `tracing` is not installed")
        return None
    return spans.Spans()
