"""Ximilar as a provider: custom headers prove a delivery, and jobs have bare ids."""

from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from receiver.core.completion import Completion, is_ref
from receiver.core.headers import RawHeaders
from receiver.providers.base import (
    Calls,
    Client,
    Ending,
    Listed,
    Output,
    OwnDelivery,
    Proof,
    Provider,
    Report,
    Submitted,
)
from receiver.providers.setup import Setup
from receiver.providers.ximilar import completions, responses
from receiver.providers.ximilar.authentication import REF_HEADER, SUBMISSION_HEADER, Authenticator
from receiver.providers.ximilar.client import Ximilar
from receiver.providers.ximilar.completions import ENDED_STATUSES

OWN_LIFETIME = timedelta(hours=24)
"""Assumed: the documentation does not say how long an image's URL works."""


def build(setup: Setup) -> Provider | None:
    """Return the provider; ``None`` where nothing proves its deliveries, so that it is off."""
    config = setup.config
    if not config.webhook_headers and not config.signing_keys:
        return None
    return XimilarProvider(
        Authenticator.from_config(config),
        str(config.ximilar_api_url),
        None if (token := config.ximilar_api_token) is None else token.get_secret_value(),
        config.url_lifetime_of(XimilarProvider.name, OWN_LIFETIME, documented=False),
    )


@dataclass(eq=False)
class XimilarProvider(Provider):
    """Ximilar's Upscaler."""

    name = "ximilar"
    title = "Ximilar"
    bare_ids = True
    fresh_urls = True
    ref_header = REF_HEADER
    url_setting = "XIMILAR_API_URL"
    token_setting = "XIMILAR_API_TOKEN"  # noqa: S105 - a name

    authenticator: Authenticator
    api_url: str
    token: str | None = field(repr=False)
    url_lifetime: timedelta = OWN_LIFETIME

    def __post_init__(self) -> None:
        self.proof_headers = self.authenticator.names

    @property
    def body_schema(self) -> Mapping[str, Any]:
        return completions.schema()

    @property
    def has_token(self) -> bool:
        return self.token is not None

    def admit(self, headers: RawHeaders) -> Proof | None:
        """Return the proof: the headers alone are it."""
        return self.authenticator.check(headers)

    def prove(self, headers: RawHeaders, body: bytes) -> Proof:  # noqa: ARG002 - the body proves nothing
        return self.authenticator.check(headers)

    def read(self, body: bytes) -> Ending:
        return _ending(completions.parse(body))

    def redact(self, body: bytes) -> bytes:
        return self.authenticator.redact(body)

    def own_delivery(self, own_id: str, output: Output) -> OwnDelivery:
        return OwnDelivery(self.authenticator.headers(), completions.written(own_id, output))

    def open_client(self, calls: Calls) -> Client | None:
        if self.token is None:
            return None
        return XimilarClient(
            Ximilar(
                self.api_url,
                self.token,
                before_attempt=calls.before_attempt,
                on_result=calls.on_result,
                on_headers=calls.on_headers,
                verify=calls.verify,
                transport=calls.transport,
            )
        )


@dataclass(eq=False)
class XimilarClient(Client):
    """Asks the API by `Ximilar`, in the terms of the seam."""

    lists = True
    finds_submissions = True

    api: Ximilar

    async def get(self, job_id: str, endpoint: str | None = None) -> Report:  # noqa: ARG002 - the id suffices
        return _report(await self.api.get(job_id))

    async def probe(self) -> None:
        await self.api.page()

    async def pages(self) -> AsyncGenerator[list[Listed], None]:
        async for rows in self.api.pages():
            yield [_listed(row) for row in rows]

    async def submitted_since(
        self, since: datetime, others: Collection[str] = ()
    ) -> AsyncGenerator[Submitted, None]:
        async for job_id, headers in self.api.sent_since(since, others):
            mark = responses.header(headers or {}, SUBMISSION_HEADER)
            yield Submitted(job_id, mark, read=headers is not None)

    async def aclose(self) -> None:
        await self.api.aclose()


def _ending(completion: Completion, *, ended_at: int | None = None, endpoint: str | None = None) -> Ending:
    output = Output(completion.image_url, completion.width, completion.height)
    return Ending(
        completion.id,
        (output,) if completion.failure is None else (),
        completion.failure,
        ended_at,
        completion.source_url,
        endpoint,
    )


def _report(report: responses.Report) -> Report:
    ending = None
    if report.completion is not None:
        ended_at = None if report.modified is None else int(report.modified.timestamp() * 1000)
        ending = _ending(report.completion, ended_at=ended_at, endpoint=report.endpoint)
    ref = responses.header(report.headers, REF_HEADER)
    return Report(
        report.id,
        report.status,
        ending,
        ref=ref if is_ref(ref) else None,
        mark=responses.header(report.headers, SUBMISSION_HEADER),
        body=report.body,
    )


def _listed(row: responses.Row) -> Listed:
    created = None if row.created is None else int(row.created.timestamp() * 1000)
    return Listed(
        row.id,
        row.status,
        created,
        ended=row.status in ENDED_STATUSES,
        adoptable=row.type in (None, "upscaler"),
    )
