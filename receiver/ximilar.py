"""The provider's API, as its page describes it (Ximilar, "Upscaler").

So far what a submitter needs: an upscaling job with a webhook, and the provider's present answer on a job.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import httpx

from receiver.completion import is_job_id
from receiver.errors import ProviderError

SECONDS = 30.0
"""How long one call may take."""

Factor = Literal[2, 4, 8]


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where a completion is to be sent, and with which headers."""

    endpoint: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Upscale:
    """One job to submit.

    Attributes:
        image: a URL that the provider can reach, or the bytes themselves.
        factor: how many times larger each side is to be.
        webhook: who is to be told.
    """

    image: str | bytes
    factor: Factor = 2
    webhook: Webhook | None = None

    def body(self) -> dict[str, Any]:
        """The request's JSON."""
        if isinstance(self.image, bytes):
            record = {"_base64": base64.b64encode(self.image).decode("ascii")}
        else:
            record = {"_url": self.image}
        body: dict[str, Any] = {
            "type": "upscaler",
            "endpoint": f"upscale_{self.factor}x",
            "records": [record],
        }
        if self.webhook is not None:
            body["webhook"] = {"endpoint": self.webhook.endpoint, "headers": dict(self.webhook.headers)}
        return body


class Ximilar:
    """A client of one account.

    Args:
        url: the API's base, such as ``https://api.ximilar.com/account/v2``.
        token: of the account.
        transport: for tests.
    """

    def __init__(self, url: str, token: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Token {token}"},
            timeout=SECONDS,
            transport=transport,
        )

    async def submit(self, upscale: Upscale) -> str:
        """Asks for a job, and returns its id. The job is billed, so this is never sent twice by itself.

        Raises:
            ProviderError: it was refused, or it is not known whether it was taken (``provider.unavailable``).
        """
        document = await self._call("POST", "/request", upscale.body())
        job_id = document.get("id")
        if not is_job_id(job_id):
            raise ProviderError("provider.unavailable", "The answer to the submission names no job.")
        return job_id

    async def get(self, job_id: str) -> dict[str, Any]:
        """The provider's present answer on a job, decoded.

        Raises:
            ProviderError: ``provider.unknown_job`` among others.
        """
        return await self._call("GET", f"/request/{job_id}")

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        try:
            answer = await self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise ProviderError(
                "provider.unavailable", f"The provider does not answer ({type(error).__name__})."
            ) from error
        try:
            document = answer.json()
        except ValueError:
            document = None
        if not answer.is_success:
            reason = _REASONS.get(answer.status_code) or (
                "provider.invalid_request" if answer.is_client_error else "provider.unavailable"
            )
            raise ProviderError(reason, f"The provider answers {answer.status_code}: {_words(document)}")
        if not isinstance(document, dict):
            raise ProviderError("provider.unavailable", "The provider's answer is no JSON object.")
        return document


_REASONS: Mapping[int, str] = {
    401: "provider.token_refused",
    402: "provider.no_credits",
    403: "provider.token_refused",
    404: "provider.unknown_job",
    429: "provider.rate_limited",
}


def _words(document: object) -> str:
    """What an error's body says; its form is documented nowhere, and these are the two that were seen."""
    if isinstance(document, dict):
        status = document.get("status")
        said = document.get("detail") or (status.get("text") if isinstance(status, dict) else None)
        if said is not None:
            return str(said)[:300]
    return "it does not say why."
