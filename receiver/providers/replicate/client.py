"""Asks Replicate's API about predictions, and reads the account's list of them."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from receiver.core.completion import is_provider_id
from receiver.core.errors import UnavailableError, UnknownJobError
from receiver.providers.api import Call, JsonApi, PastTheEndError, kept_body, next_query, read_answer
from receiver.providers.base import MAX_WORD, Client, Ending, Listed, Report, short, time_at
from receiver.providers.replicate import predictions

MAX_PAGES = 10_000

MAX_PREDICTION_BYTES = 64 * 1024 * 1024
"""Of an answer that echoes the input, which may hold a whole image as a data URI."""


class ReplicateClient(Client):
    """One account's API."""

    lists = True

    def __init__(self, api: JsonApi) -> None:
        self._api = api

    async def get(self, job_id: str, endpoint: str | None = None) -> Report:  # noqa: ARG002 - the id suffices
        if not is_provider_id(job_id):
            raise UnknownJobError("This can be no job's id.")
        document = await self._api.call(
            Call(f"/predictions/{job_id}", max_bytes=MAX_PREDICTION_BYTES, about_a_job=True)
        )
        if document.get("id") != job_id:
            raise UnavailableError("The provider's answer is about another job.")
        status = short(document.get("status"), MAX_WORD)
        reading = read_answer(predictions.read, document) if status in predictions.ENDED_STATUSES else None
        return Report(
            job_id,
            status,
            reading if isinstance(reading, Ending) else None,
            body=kept_body(document, predictions.ECHOED),
        )

    async def probe(self) -> None:
        await self._api.get("/predictions")

    async def pages(self) -> AsyncGenerator[list[Listed], None]:
        requested: set[str] = set()
        query = ""
        for _ in range(MAX_PAGES):
            requested.add(query)
            try:
                page = await self._api.call(
                    Call(f"/predictions{query and '?' + query}", is_next_page=query != "")
                )
            except PastTheEndError:
                return  # the list has become shorter since its last page was named
            results = page.get("results")
            if not isinstance(results, list):
                raise UnavailableError("The provider's answer: results is no list of jobs.")
            yield [_listed(row) for row in results if isinstance(row, dict) and is_provider_id(row.get("id"))]
            if page.get("next") is None:
                return
            query = next_query(page["next"])
            if query in requested:
                break
        raise UnavailableError("The provider's list has no end.")

    async def aclose(self) -> None:
        await self._api.aclose()


def _listed(row: Mapping[str, Any]) -> Listed:
    status = short(row.get("status"), MAX_WORD)
    return Listed(
        row["id"],
        status,
        time_at(row.get("created_at")),
        ended=status in predictions.ENDED_STATUSES,
        adoptable=row.get("data_removed") is not True,
    )
