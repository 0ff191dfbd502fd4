"""The client of the provider's API: one account, its jobs, and its list of them.

Its answers are untrusted: one that is not as documented is an `UnavailableError`.
"""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any

from receiver.core.completion import is_bare_id, is_ref
from receiver.core.errors import ProviderError, RateLimitedError, UnavailableError, UnknownJobError
from receiver.providers import json_paths
from receiver.providers.api import (
    LARGE_BYTES,
    MAX_JOB_BYTES,
    MAX_KEPT_BYTES,
    Call,
    ListingClient,
    ListOrder,
    kept_body,
    read_answer,
)
from receiver.providers.api_errors import SECRET_RUN, redact
from receiver.providers.base import Listed, Report, Submitted
from receiver.providers.bodies import MAX_WORD, mask, time_at
from receiver.providers.ximilar import completions
from receiver.providers.ximilar.authentication import REF_HEADER, SUBMISSION_HEADER
from receiver.providers.ximilar.completions import ENDED_STATUSES
from receiver.providers.ximilar.request import Upscale

REDACTED_IMAGE_BYTES = 3000
"""Of a submitted image: the part that is redacted from the provider's errors."""

MAX_CLOCK_SKEW = timedelta(minutes=10)
"""Between the provider's clock and this machine's."""

MAX_UNREAD_JOBS = 3
"""Jobs in a row without an answer after which a search is given up. One alone may be the fault of its job."""

_ECHOED = frozenset({"request", "webhook"})
"""Parts of an answer that repeat what was sent: secrets among it, and whole images."""


class Ximilar(ListingClient):
    """A client of one account."""

    scheme = "Token"
    url_setting = "XIMILAR_API_URL"
    path = "/request"
    finds_submissions = True

    @staticmethod
    def is_id(value: object) -> bool:
        return is_bare_id(value)

    async def submit(self, upscale: Upscale) -> str:
        """Submit a job and return its id. It is billed, so the call is repeated only where nothing was sent.

        Raises:
            ProviderError: it was refused, or did not arrive. Where ``maybe_sent`` is true, the job may exist
                all the same (`find` tells); where it is not, there is none.
        """
        large = isinstance(upscale.image, bytes) and len(upscale.image) > LARGE_BYTES
        content = await asyncio.to_thread(_encoded, upscale) if large else _encoded(upscale)
        document = await self._call(
            Call("/request", content=content, max_bytes=MAX_JOB_BYTES, secrets=_secrets(upscale))
        )
        # Nothing else is read: an accepted job must not be lost.
        job_id = document.get("id")
        if not is_bare_id(job_id):
            raise UnavailableError("The provider's answer: it names no job.", maybe_sent=True)
        return job_id

    async def get(self, job_id: str, endpoint: str | None = None) -> Report:  # noqa: ARG002 - the id suffices
        return _report(await self.document(job_id), job_id)

    def listed(self, row: Mapping[str, Any]) -> Listed | None:
        """Return a row, of which a strange status is an empty one. The list is the whole account's."""
        if not is_bare_id(row.get("id")):
            return None
        status = _word(row.get("status")) or ""
        kind = _word(row.get("type"))
        return Listed(
            row["id"],
            status,
            time_at(row.get("created")),
            ended=status in ENDED_STATUSES,
            adoptable=kind in (None, "upscaler"),
        )

    async def find(self, mark: str, *, since: datetime, others: Collection[str] = ()) -> str | None:
        """Return the id of the job with the mark of a submission of unknown fate.

        A job that the provider is still about to make is not found yet. After a lost answer, search again
        after a while before submitting again. Jobs are not asked for that are older than ``since`` by this
        machine's clock, except within ``MAX_CLOCK_SKEW``, nor those with the ids ``others``.

        Raises:
            ProviderError: the provider does not answer, or not for each candidate.
        """
        unread = 0
        async with contextlib.aclosing(self.submitted_since(since, others)) as jobs:
            async for job in jobs:
                if job.mark == mark:
                    return job.id
                unread += not job.read
        if unread:
            raise UnavailableError(f"The provider does not answer for {unread} jobs that it may be.")
        return None

    async def submitted_since(
        self, since: datetime, others: Collection[str] = ()
    ) -> AsyncGenerator[Submitted, None]:
        unread_in_a_row = 0
        for row in await self._rows_since(since - MAX_CLOCK_SKEW):
            if row.id in others:
                continue
            try:
                document = await self.document(row.id)
            except UnknownJobError:
                continue  # it has left the list meanwhile
            except ProviderError as error:
                unread_in_a_row += 1
                if isinstance(error, RateLimitedError) or unread_in_a_row == MAX_UNREAD_JOBS:
                    raise
                yield Submitted(row.id, None, read=False)
                continue
            unread_in_a_row = 0
            yield Submitted(row.id, _header(_headers(document), SUBMISSION_HEADER))

    async def _rows_since(self, bound: datetime) -> list[Listed]:
        """Return the jobs made since then, newest first, behind all that have no time.

        The list's order is undocumented, so it is read to its end unless it proves to be newest first.
        """
        bound_ms = int(bound.timestamp() * 1000)
        undated: list[Listed] = []
        recent: list[Listed] = []
        order = ListOrder()
        async with contextlib.aclosing(self.pages()) as pages:
            async for row in (row async for page in pages for row in page if row.adoptable):
                order.see(row.created)
                if row.created is None:
                    undated.append(row)
                elif row.created >= bound_ms:
                    recent.append(row)
                elif order.all_before(bound_ms):
                    break
        return undated + sorted(recent, key=attrgetter("created"), reverse=True)


def _encoded(upscale: Upscale) -> bytes:
    return json.dumps(upscale.body()).encode("ascii")


def _secrets(upscale: Upscale) -> list[str]:
    image = upscale.image
    if isinstance(image, bytes):
        image = base64.b64encode(image[:REDACTED_IMAGE_BYTES]).decode("ascii")
    webhook = upscale.webhook
    return [image] if webhook is None else [image, webhook.endpoint, *webhook.headers.values()]


def _report(document: Mapping[str, Any], job_id: str) -> Report:
    status = _word(document.get("status"))
    if status is None:
        raise UnavailableError("The provider's answer: status is missing.")
    headers, ending = _headers(document), None
    if status in ENDED_STATUSES:
        ending = read_answer(completions.read, document)
        ending.ended_at = time_at(document.get("modified"))
        ending.endpoint = _word(json_paths.value(document, [("request", "endpoint")]))
        if ending.failure is not None:
            detail = redact(ending.failure.detail, headers.values())
            ending.failure = replace(ending.failure, detail=detail)
    ref = _header(headers, REF_HEADER)
    body = mask(kept_body(document, _ECHOED), [it for it in headers.values() if len(it) >= SECRET_RUN])
    return Report(
        job_id,
        status,
        ending,
        ref=ref if is_ref(ref) else None,
        mark=_header(headers, SUBMISSION_HEADER),
        body=body if len(body) <= MAX_KEPT_BYTES else b"{}",
    )


def _headers(document: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the webhook's headers in the answer on a job, as far as they can be read. They are secrets."""
    headers = json_paths.value(document, [("request", "webhook", "headers")])
    items = headers.items() if isinstance(headers, dict) else ()
    return {name: value for name, value in items if isinstance(value, str)}


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value for key, value in headers.items() if key.lower() == name.lower()), None)


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= MAX_WORD and value.isprintable() else None
