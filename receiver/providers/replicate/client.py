"""Asks Replicate's API about predictions, and reads the account's list of them."""

from collections.abc import Mapping
from typing import Any

from receiver.core.completion import is_provider_id
from receiver.providers.api import ListingClient, kept_body, read_answer
from receiver.providers.base import Ending, Listed, Report
from receiver.providers.bodies import time_at, word
from receiver.providers.replicate import predictions


class ReplicateClient(ListingClient):
    scheme = "Bearer"
    url_setting = "REPLICATE_API_URL"
    path = "/predictions"

    async def get(self, job_id: str, endpoint: str | None = None) -> Report:  # noqa: ARG002 - the id suffices
        document = await self.document(job_id)
        status = word(document.get("status"))
        reading = read_answer(predictions.read, document) if status in predictions.ENDED_STATUSES else None
        return Report(
            job_id,
            status,
            reading if isinstance(reading, Ending) else None,
            body=kept_body(document, predictions.ECHOED),
        )

    def listed(self, row: Mapping[str, Any]) -> Listed | None:
        if not is_provider_id(row.get("id")):
            return None
        status = word(row.get("status"))
        return Listed(
            row["id"],
            status,
            time_at(row.get("created_at")),
            ended=status in predictions.ENDED_STATUSES,
            adoptable=row.get("data_removed") is not True,
        )
