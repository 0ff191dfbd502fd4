"""The client of the provider's API: one account, its jobs, and its list of them."""

import asyncio
import base64
import contextlib
import json
import random
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, NoReturn, Self

import httpx

from receiver.core.backoff import doubled
from receiver.core.completion import is_job_id
from receiver.core.errors import ProviderError, RateLimitedError, UnavailableError, UnknownJobError
from receiver.providers.ximilar import responses
from receiver.providers.ximilar.api_errors import api_error
from receiver.providers.ximilar.request import Upscale
from receiver.providers.ximilar.responses import Listing, Report, Row

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 30.0
"""How long one read or write may wait."""

SUBMIT_IDLE_SECONDS = 120.0
"""The same for a submission's answer. Gateways wait less, and an early end may still leave a job."""

QUERY_SECONDS = 60.0
"""How long one query may take from the first byte to the last, so that a slow drip ends too."""

SUBMIT_SECONDS = 600.0
"""The same for a submission, which may carry a whole image over a slow line."""

KEEP_ALIVE_SECONDS = 1.0
"""How long a connection is kept for the next call. Servers close idle ones after a few seconds, and a
submission that meets such a close has an unknown fate."""

ATTEMPTS = 3
"""Attempts at a call that can be repeated without harm."""

FIRST_WAIT_SECONDS = 0.5
"""The ceiling of the wait before the second attempt; it doubles."""

MAX_JOB_BYTES = 64 * 1024 * 1024
"""Of an answer that echoes a request, which may hold a whole image as base64."""

MAX_OTHER_BYTES = 4 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024

MAX_VALUES = 200_000
"""Values of an answer's JSON. A few megabytes of empty lists would become hundreds as objects."""

LARGE_BYTES = 256 * 1024
"""JSON of this size or more is read and written in a thread."""

REDACTED_IMAGE_BYTES = 3000
"""Of a submitted image: the part that is redacted from the provider's errors."""

MAX_CLOCK_SKEW = timedelta(minutes=10)
"""Between the provider's clock and this machine's."""

MAX_REPEATED_PAGES = 100
"""Pages in a row without a new row, after which a list is taken to have no end."""

MAX_PAGES = 10_000

MAX_UNREAD_JOBS = 3
"""Jobs in a row without an answer after which a search is given up. One alone may be the fault of its job."""

DIRECT = dict.fromkeys(("all://localhost", "all://127.0.0.1", "all://[::1]"))
"""Mounts of an httpx client: no proxy leads to this machine itself."""

_RETRIED = frozenset({502, 503, 504})

_NOTHING_SENT = (
    httpx.ConnectError,  # DNS, refusals and failed TLS handshakes among them
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,  # raised while a tunnel is asked for, so before anything goes through it
    httpx.UnsupportedProtocol,
)

_LOST = (*_NOTHING_SENT, httpx.NetworkError, httpx.RemoteProtocolError)
"""Failures of a connection, after which another may do better at once; timeouts are not among them."""

_SUBMIT_TIMEOUT = httpx.Timeout(IDLE_SECONDS, connect=CONNECT_SECONDS, read=SUBMIT_IDLE_SECONDS)


@dataclass(frozen=True, slots=True)
class _Call:
    """One call: a submission with its content, or a query without.

    ``is_next_page`` tells whether the list itself has named the path's page. ``secrets``, beside the token,
    must not come back in an error's detail.
    """

    path: str
    content: bytes | None = None
    max_bytes: int = MAX_OTHER_BYTES
    about_a_job: bool = False
    is_next_page: bool = False
    secrets: Sequence[str] = ()


class _FailedAttemptError(Exception):
    """One attempt has failed; ``again`` if another one is harmless, and may help."""

    def __init__(self, error: ProviderError, *, again: bool) -> None:
        super().__init__()
        self.error = error
        self.again = again


class _PastTheEndError(UnavailableError):
    """The list has no page of this number any more."""


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
        self._client = httpx.AsyncClient(
            base_url=self.url.rstrip("/"),
            headers={
                "Authorization": f"Token {self.token}",
                "Accept": "application/json",
                # A coded body could be a thousand times larger than what comes over the line.
                "Accept-Encoding": "identity",
                "User-Agent": "upscale-receiver",
            },
            timeout=httpx.Timeout(IDLE_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(keepalive_expiry=KEEP_ALIVE_SECONDS),
            verify=self.verify,
            transport=self.transport,
            # The operator chose this address, unlike that of an image, and many networks let nothing out but
            # through their proxy.
            trust_env=True,
            mounts=DIRECT,
        )

    async def submit(self, upscale: Upscale) -> str:
        """Submit a job and return its id. It is billed, so the call is repeated only where nothing was sent.

        Raises:
            ProviderError: it was refused, or did not arrive. Where ``maybe_sent`` is true, the job may exist
                all the same (`find` tells); where it is not, there is none.
        """
        large = isinstance(upscale.image, bytes) and len(upscale.image) > LARGE_BYTES
        content = await asyncio.to_thread(_encoded, upscale) if large else _encoded(upscale)
        document = await self._call(
            _Call("/request", content=content, max_bytes=MAX_JOB_BYTES, secrets=_secrets(upscale))
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
        call = _Call(f"/request?{query}" if query else "/request", is_next_page=query is not None)
        return responses.read_listing(await self._call(call))

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
            except _PastTheEndError:
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
        await self._client.aclose()

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
        if not is_job_id(job_id):
            raise UnknownJobError("This can be no job's id.")
        return await self._call(_Call(f"/request/{job_id}", max_bytes=MAX_JOB_BYTES, about_a_job=True))

    async def _call(self, call: _Call) -> dict[str, Any]:
        """Return the answer's JSON object, after as many attempts as are harmless."""
        attempt = 0
        while True:
            attempt += 1
            try:
                document = await self._attempt(call)
            except _FailedAttemptError as failed:
                ceiling = doubled(FIRST_WAIT_SECONDS, attempt - 1)
                retry_after = failed.error.retry_after or 0.0
                if not failed.again or attempt == ATTEMPTS or retry_after > ceiling:
                    self.on_result(failed.error.reason)
                    # From None: a library's text about a failure may repeat what was sent.
                    raise failed.error from None
            else:
                self.on_result(None)
                return document
            await self.sleep(max(retry_after, self.jitter() * ceiling))

    async def _attempt(self, call: _Call) -> dict[str, Any]:
        submitting = call.content is not None
        if self.before_attempt is not None:
            await self.before_attempt()
        try:
            async with (
                asyncio.timeout(SUBMIT_SECONDS if submitting else QUERY_SECONDS),
                self._client.stream(
                    "POST" if submitting else "GET",
                    call.path,
                    content=call.content,
                    headers={"Content-Type": "application/json"} if submitting else None,
                    timeout=_SUBMIT_TIMEOUT if submitting else httpx.USE_CLIENT_DEFAULT,
                ) as answer,
            ):
                self.on_headers(answer.headers)
                if not answer.is_success:
                    self._refuse(call, answer, await _read_error(answer))
                return await _read(answer, call.max_bytes)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, TimeoutError) as error:
            nothing_sent = isinstance(error, _NOTHING_SENT)
            detail = f"The provider does not answer ({type(error).__name__})."
            raise _FailedAttemptError(
                UnavailableError(detail, maybe_sent=submitting and not nothing_sent),
                again=nothing_sent or (not submitting and isinstance(error, _LOST)),
            ) from None
        except UnavailableError as error:
            error.maybe_sent = submitting
            raise _FailedAttemptError(error, again=False) from None

    def _refuse(self, call: _Call, answer: httpx.Response, body: bytes) -> NoReturn:
        error = api_error(
            answer.status_code,
            answer.headers,
            body,
            secrets=(self.token, *call.secrets),
            submitting=call.content is not None,
            about_a_job=call.about_a_job,
            now=self.clock(),
        )
        if call.is_next_page and answer.status_code == 404 and body.lstrip().startswith(b"{"):
            error = _PastTheEndError(error.detail)
        raise _FailedAttemptError(error, again=call.content is None and answer.status_code in _RETRIED)


async def _read_error(answer: httpx.Response) -> bytes:
    """Return the beginning of an error's body. A body that breaks off is no other failure."""
    if _is_encoded(answer):
        return b""
    body = bytearray()
    with contextlib.suppress(httpx.HTTPError):
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) >= MAX_ERROR_BYTES:
                break
    return bytes(body[:MAX_ERROR_BYTES])


async def _read(answer: httpx.Response, max_bytes: int) -> dict[str, Any]:
    """Return the JSON object of an answer, or raise UnavailableError."""
    if _is_encoded(answer):
        raise UnavailableError("The provider's answer is encoded, which was not asked for.")
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > max_bytes:
            raise UnavailableError(f"The provider's answer is larger than {max_bytes} bytes.")
    content = bytes(body)
    return await asyncio.to_thread(_decoded, content) if len(content) > LARGE_BYTES else _decoded(content)


def _is_encoded(answer: httpx.Response) -> bool:
    coding: str = answer.headers.get("content-encoding", "identity")
    return coding.strip().lower() != "identity"


def _decoded(body: bytes) -> dict[str, Any]:
    if sum(map(body.count, (b",", b":", b"[", b"{"))) > MAX_VALUES:
        raise UnavailableError("The provider's answer has more parts than an answer can have.")
    try:
        document = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UnavailableError("The provider's answer is no JSON object.")
    return document


def _encoded(upscale: Upscale) -> bytes:
    return json.dumps(upscale.body()).encode("ascii")


def _secrets(upscale: Upscale) -> list[str]:
    image = upscale.image
    if isinstance(image, bytes):
        image = base64.b64encode(image[:REDACTED_IMAGE_BYTES]).decode("ascii")
    webhook = upscale.webhook
    return [image] if webhook is None else [image, webhook.endpoint, *webhook.headers.values()]
