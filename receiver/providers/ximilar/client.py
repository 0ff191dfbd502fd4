"""The client of the provider's API: one account, its jobs, and its list of them."""

import asyncio
import base64
import contextlib
import json
import random
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, Self

import httpx

from receiver.core.completion import is_bare_id
from receiver.core.errors import ProviderError, RateLimitedError, UnavailableError, UnknownJobError
from receiver.providers.api import LARGE_BYTES, Call, JsonApi, PastTheEndError
from receiver.providers.base import Calls
from receiver.providers.ximilar import responses
from receiver.providers.ximilar.request import Upscale
from receiver.providers.ximilar.responses import Listing, Report, Row

MAX_JOB_BYTES = 64 * 1024 * 1024
"""Of an answer that echoes a request, which may hold a whole image as base64."""

REDACTED_IMAGE_BYTES = 3000
"""Of a submitted image: the part that is redacted from the provider's errors."""

MAX_CLOCK_SKEW = timedelta(minutes=10)
"""Between the provider's clock and this machine's."""

MAX_REPEATED_PAGES = 100
"""Pages in a row without a new row, after which a list is taken to have no end."""

MAX_PAGES = 10_000

MAX_UNREAD_JOBS = 3
"""Jobs in a row without an answer after which a search is given up. One alone may be the fault of its job."""


OnResult = Callable[[str | None], object]
"""Called after a call with the reason of its failure, or ``None``."""


@dataclass(eq=False)
class Ximilar:
    """A client of one account.

    The provider's answers are untrusted: they are read up to a size, and one that is not as documented is an
    error (``provider.unavailable``). Every call raises ProviderError where the provider refuses, does not
    answer, or not readably. Its detail holds nothing that was sent.

    Attributes:
        url: the API's base, such as ``https://api.ximilar.com/account/v2``.
        jitter: returns a number in [0, 1), to spread repeated calls.
        clock: returns seconds since the epoch, to read a ``Retry-After`` that is a date.
        before_attempt: awaited before each attempt at a call.
        on_headers: called with the headers of each answer.
    """

    url: str
    token: str = field(repr=False)
    _: KW_ONLY
    verify: ssl.SSLContext | bool = True
    transport: httpx.AsyncBaseTransport | None = None
    jitter: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    clock: Callable[[], float] = time.time
    before_attempt: Callable[[], Awaitable[object]] | None = None
    on_result: OnResult = lambda _: None
    on_headers: Callable[[httpx.Headers], object] = lambda _: None

    def __post_init__(self) -> None:
        self._api = JsonApi(
            self.url,
            {"Authorization": f"Token {self.token}"},
            secrets=(self.token,),
            url_setting="XIMILAR_API_URL",
            calls=Calls(self.before_attempt, self.on_result, self.on_headers, self.verify, self.transport),
            jitter=self.jitter,
            sleep=self.sleep,
            clock=self.clock,
        )

    async def submit(self, upscale: Upscale) -> str:
        """Submit a job and return its id. It is billed, so the call is repeated only where nothing was sent.

        Raises:
            ProviderError: it was refused, or did not arrive. Where ``maybe_sent`` is true, the job may exist
                all the same (`find` tells); where it is not, there is none.
        """
        large = isinstance(upscale.image, bytes) and len(upscale.image) > LARGE_BYTES
        content = await asyncio.to_thread(_encoded, upscale) if large else _encoded(upscale)
        document = await self._api.call(
            Call("/request", content=content, max_bytes=MAX_JOB_BYTES, secrets=_secrets(upscale))
        )
        try:
            return responses.read_id(document)
        except UnavailableError as error:
            raise UnavailableError(error.detail, maybe_sent=True) from None

    async def get(self, job_id: str) -> Report:
        """Return the provider's present answer on a job. An unknown one raises `UnknownJobError`."""
        return responses.read_report(await self._document(job_id), job_id)

    async def page(self, query: str | None = None) -> Listing:
        """Return a page of the list of all the account's jobs: the first, or that of a page's ``next``."""
        call = Call(f"/request?{query}" if query else "/request", is_next_page=query is not None)
        return responses.read_listing(await self._api.call(call))

    async def pages(self) -> AsyncGenerator[list[Row], None]:
        """Yield the rows of the whole list, each job once, one page of the provider's at a time.

        Rows move from page to page while the list changes. One that moves to a later page is recognised by
        its id. One that moves to an earlier page, because another job has left the list, can be missed.
        """
        seen: set[str] = set()
        requested: set[str] = set()
        query, repeated = None, 0
        for _ in range(MAX_PAGES):
            try:
                listing = await self.page(query)
            except PastTheEndError:
                if query is None:
                    raise
                return  # the list has become shorter since its last page was named
            new = list({row.id: row for row in listing.rows if row.id not in seen}.values())
            seen.update(row.id for row in new)
            yield new
            repeated = 0 if new else repeated + 1
            query = listing.next
            if query is None:
                return
            if query in requested or repeated == MAX_REPEATED_PAGES:
                break
            requested.add(query)
        raise UnavailableError("The provider's list has no end.")

    async def find(
        self, header: str, value: str, *, since: datetime, others: Collection[str] = ()
    ) -> str | None:
        """Return the id of the job whose webhook carries this header, after a submission of unknown fate.

        A job that the provider is still about to make is not found yet. After a lost answer, search again
        after a while before submitting again. Jobs are not asked for that are older than ``since`` by this
        machine's clock, except within ``MAX_CLOCK_SKEW``, nor those with the ids ``others``.

        Raises:
            ProviderError: the provider does not answer, or not for each candidate.
        """
        unread = 0
        async with contextlib.aclosing(self.sent_since(since, others)) as jobs:
            async for job_id, headers in jobs:
                if headers is None:
                    unread += 1
                elif value in (sent for name, sent in headers.items() if name.lower() == header.lower()):
                    return job_id
        if unread:
            raise UnavailableError(f"The provider does not answer for {unread} jobs that it may be.")
        return None

    async def sent_since(
        self, since: datetime, others: Collection[str] = ()
    ) -> AsyncGenerator[tuple[str, Mapping[str, str] | None], None]:
        """Yield jobs' ids and the headers of their webhooks, newest first, by one query each.

        The parameters are those of `find`. The headers of a job for which there is no answer are ``None``.
        """
        unread_in_a_row = 0
        for row in await self._rows_since(since - MAX_CLOCK_SKEW):
            if row.id in others:
                continue
            try:
                document = await self._document(row.id)
            except UnknownJobError:
                continue  # it has left the list meanwhile
            except ProviderError as error:
                unread_in_a_row += 1
                if isinstance(error, RateLimitedError) or unread_in_a_row == MAX_UNREAD_JOBS:
                    raise
                yield row.id, None
                continue
            unread_in_a_row = 0
            yield row.id, responses.read_headers(document)

    async def aclose(self) -> None:
        await self._api.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _rows_since(self, bound: datetime) -> list[Row]:
        """Return the jobs made since then, newest first, behind all that have no time.

        The list's order is undocumented, so it is read to its end unless it proves to be newest first.
        """
        undated: list[Row] = []
        recent: list[Row] = []
        first = last = None
        falling = True
        async with contextlib.aclosing(self.pages()) as pages:
            async for row in (row async for page in pages for row in page):
                if row.type not in (None, "upscaler"):
                    continue
                if row.created is None:
                    undated.append(row)
                    falling = False
                    continue
                if row.created >= bound:
                    recent.append(row)
                first = first or row.created
                falling = falling and (last is None or row.created <= last)
                last = row.created
                if falling and last < bound and last < first:
                    break
        return undated + sorted(recent, key=attrgetter("created"), reverse=True)

    async def _document(self, job_id: str) -> dict[str, Any]:
        if not is_bare_id(job_id):
            raise UnknownJobError("This can be no job's id.")
        return await self._api.call(Call(f"/request/{job_id}", max_bytes=MAX_JOB_BYTES, about_a_job=True))


def _encoded(upscale: Upscale) -> bytes:
    return json.dumps(upscale.body()).encode("ascii")


def _secrets(upscale: Upscale) -> list[str]:
    image = upscale.image
    if isinstance(image, bytes):
        image = base64.b64encode(image[:REDACTED_IMAGE_BYTES]).decode("ascii")
    webhook = upscale.webhook
    return [image] if webhook is None else [image, webhook.endpoint, *webhook.headers.values()]
