"""What a running receiver says of itself: the OpenAPI document and a scrape of the metrics."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families

from receiver.bootstrap.app import open_receiver
from receiver.config import load
from receiver.telemetry.metrics import Meters

TOKEN = "a-token"  # noqa: S105 - opens nothing but the receiver below


@dataclass(frozen=True, slots=True)
class Live:
    """The answers of a receiver that has just begun.

    Attributes:
        openapi: the parsed document.
        metrics: the families by their names, with samples that show all labels.
    """

    openapi: dict[str, Any]
    metrics: dict[str, Metric]


async def look(folder: Path) -> Live:
    """Start a receiver in the folder, and ask it."""
    config = load(
        {
            "RECEIVER_DATA_DIR": str(folder),
            "RECEIVER_API_TOKENS": TOKEN,
            "RECEIVER_WEBHOOK_HEADERS": '{"X-Webhook-Secret": "a-secret"}',
            "RECEIVER_SIGNING_KEYS": "a-key",
        }
    )
    async with open_receiver(config, {}) as receiver:
        transport = httpx.ASGITransport(receiver.app)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://receiver", headers=headers
        ) as client:
            openapi = (await client.get("/openapi.json")).raise_for_status().json()
            scrape = (await client.get("/metrics")).raise_for_status().text
    metrics = {_name(family): family for family in text_string_to_metric_families(scrape)}
    return Live(openapi, {**metrics, **_failures()})


def _failures() -> dict[str, Metric]:
    """The metrics of failures, which have no samples before the first one of a reason."""
    collectors = CollectorRegistry()
    meters = Meters(collectors)
    meters.on_failed_attempt("fetch", "fetch.gone")
    meters.on_failed_attempt("archive", "archive.full")
    return {_name(family): family for family in collectors.collect() if family.name.endswith("_failures")}


def _name(family: Metric) -> str:
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
