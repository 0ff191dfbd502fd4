"""The client of the provider's API: one account, its jobs, and its list of them."""

import asyncio
import base64
import contextlib
import json
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NoReturn, Self
from urllib.parse import urlencode

import httpx

from receiver.core.backoff import doubled
from receiver.core.completion import is_job_id
from receiver.core.errors import ProviderError, RateLimitedError, UnavailableError, UnknownJobError
from receiver.providers.ximilar import answers
from receiver.providers.ximilar.answers import Listing, Report, Row, Submitted
from receiver.providers.ximilar.refusals import refusal
from receiver.providers.ximilar.request import Upscale

CONNECT_SECONDS = 10.0
SILENT_SECONDS = 30.0
"""How long the other side may let one read or write wait."""

SUBMIT_SILENT_SECONDS = 120.0
"""Likewise a submission's answer; gateways wait less. What is given up too soon may be made all the same."""

ASK_SECONDS = 60.0
"""How long one question may take from the first byte to the last, so that a drip ends too."""

SUBMIT_SECONDS = 600.0
"""Likewise a submission, which may carry a whole image through a thin line."""

KEEP_ALIVE_SECONDS = 1.0
"""How long a connection is kept for the next call. Servers close idle ones after a few seconds, and a
submission that meets such a close is one whose fate is unknown."""

ATTEMPTS = 3
"""How often a call is tried that can be repeated without harm."""

FIRST_WAIT_SECONDS = 0.5
"""The ceiling of the wait before the second attempt; it doubles."""

MAX_JOB_BYTES = 64 * 1024 * 1024
"""Of an answer that echoes a request, which may hold a whole image as base64."""

MAX_OTHER_BYTES = 4 * 1024 * 1024
MAX_REFUSAL_BYTES = 64 * 1024
"""As much of a refusal is read; the rest is not waited for."""

MAX_PARTS = 200_000
"""Values of an answer's JSON. A few megabytes of empty lists would become hundreds as objects."""

LARGE_BYTES = 256 * 1024
"""From this size on, JSON is read and written in a thread."""

ECHOED_BYTES = 3000
"""Of an image that was sent, where the provider's words are searched for what they repeat."""

CLOCKS = timedelta(minutes=10)
"""By how much the provider's clock may differ from ours."""

REPEATED_PAGES = 100
"""Pages in a row without a new row, after which a list is taken to have no end."""

MAX_PAGES = 10_000
"""Pages after which a list is taken to have no end, whatever stands on them."""

UNREAD_JOBS = 3
"""Jobs in a row without an answer after which a search is given up. One alone may be the fault of its job."""

_DIRECT = dict.fromkeys(("all://localhost", "all://127.0.0.1", "all://[::1]"))

_REPEATED = frozenset({502, 503, 504})

_NOTHING_SENT = (
    httpx.ConnectError,  # DNS, refusals and failed TLS handshakes among them
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,  # raised while a tunnel is asked for, so before anything goes through it
    httpx.UnsupportedProtocol,
)

_LOST = (*_NOTHING_SENT, httpx.NetworkError, httpx.RemoteProtocolError)
"""Failures of a connection, after which another may do better at once; not those after a long silence."""


@dataclass(frozen=True, slots=True)
class _Ask:
    """One call.

    Attributes:
        path: with the query string.
        content: of a submission; ``None`` makes it a question.
        limit: of the answer, in bytes.
        about_a_job: whether the path names one.
        is_next_page: whether the path names a page that the list itself has named.
        ours: what must not come back in an error's detail, beside the token.
    """

    path: str
    content: bytes | None = None
    limit: int = MAX_OTHER_BYTES
    about_a_job: bool = False
    is_next_page: bool = False
    ours: Sequence[str] = ()


def _shown_to(seen: Callable[[httpx.Headers], object]) -> Callable[[httpx.Response], Awaitable[None]]:
    async def note(answer: httpx.Response) -> None:
        seen(answer.headers)

    return note


class _FailedAttemptError(Exception):
    """One attempt has failed.

    Args:
        error: for the caller, if no further attempt is made.
        again: whether another attempt is harmless, and may help.
    """

    def __init__(self, error: ProviderError, *, again: bool) -> None:
        super().__init__()
        self.error = error
        self.again = again


class _UnreadableError(Exception):
    """An answer cannot be read; its text is what follows the words "The provider's answer"."""


class _PastTheEndError(UnavailableError):
    """The list has no page of this number any more."""


Heard = Callable[[str | None], None]
"""Told after a call why there was no answer, or ``None``."""


def unheard(reason: str | None) -> None:
    """Nobody wants to know."""


class Ximilar:
    """A client of one account.

    What the provider says is never trusted: answers are read up to a size, and one that is not as the page
    describes it is an error (``provider.unavailable``). Details of errors hold nothing that was sent.

    Args:
        url: the API's base, such as ``https://api.ximilar.com/account/v2``.
        token: of the account.
        transport: for tests.
        jitter: gives a number in [0, 1), to spread repeated calls.
        sleep: waits so many seconds.
        clock: seconds since the epoch, to read a ``Retry-After`` that is a date.
        turn: waited for before each call that goes out, repeated ones among them.
        heard: told after each call why there was no answer, or ``None`` where there was one.
        seen: told the headers of each answer.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        jitter: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.time,
        turn: Callable[[], Awaitable[object]] | None = None,
        heard: Heard = unheard,
        seen: Callable[[httpx.Headers], object] | None = None,
    ) -> None:
        self._token = token
        self._turn = turn
        self._heard = heard
        self._jitter = jitter
        self._sleep = sleep
        self._clock = clock
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            headers={
                "Authorization": f"Token {token}",
                "Accept": "application/json",
                # A coded body could be a thousand times larger than what comes over the line.
                "Accept-Encoding": "identity",
                "User-Agent": "upscale-receiver",
            },
            timeout=httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(keepalive_expiry=KEEP_ALIVE_SECONDS),
            transport=transport,
            # The address is the operator's own choice, unlike that of an image, and many networks let nothing
            # out but by their proxy: so the environment's proxies are taken. To this machine itself, where
            # the sandbox is, no proxy leads.
            trust_env=True,
            mounts=_DIRECT,
            event_hooks={"response": [_shown_to(seen)]} if seen is not None else {},
        )

    async def submit(self, upscale: Upscale) -> Submitted:
        """Asks for a job. It is billed, so this is repeated by itself only where nothing was sent.

        Raises:
            ProviderError: it was refused, or did not arrive. Where ``maybe_sent`` is true, the job may exist
                all the same (`find` tells); where it is not, there is none.
        """
        large = isinstance(upscale.image, bytes) and len(upscale.image) > LARGE_BYTES
        content = await asyncio.to_thread(_encoded, upscale) if large else _encoded(upscale)
        document = await self._call(
            _Ask("/request", content=content, limit=MAX_JOB_BYTES, ours=_secrets(upscale))
        )
        try:
            return answers.read_submitted(document)
        except UnavailableError as error:
            raise UnavailableError(error.detail, maybe_sent=True) from None

    async def get(self, job_id: str) -> Report:
        """The provider's present answer on a job.

        Raises:
            ProviderError: it is unknown (`UnknownJobError`), or the provider does not say.
        """
        return answers.read_report(await self._document(job_id), job_id)

    async def status(self, job_id: str) -> str:
        """A job's present status, as the provider says it.

        Raises:
            ProviderError: it is unknown (`UnknownJobError`), or the provider does not say.
        """
        document = await self._call(_Ask(_path(job_id, "/status"), about_a_job=True))
        return answers.read_status(document, job_id)

    async def page(self, *, query: str | None = None, status: str | None = None) -> Listing:
        """One page of the list of all the account's jobs.

        Args:
            query: the query string of a page's ``next``; the first page without.
            status: only jobs of this one, where the first page is asked for.

        Raises:
            ProviderError: the provider does not say.
        """
        asked = urlencode({} if status is None else {"status": status}) if query is None else query
        ask = _Ask(f"/request?{asked}" if asked else "/request", is_next_page=query is not None)
        return answers.read_listing(await self._call(ask))

    async def rows(self, *, status: str | None = None) -> AsyncGenerator[Row, None]:
        """All rows of the list, each job once.

        A list that changes meanwhile moves its rows from page to page: those that move to a later page are
        known again by their ids, while some that move to an earlier one can be missed, which happens where
        jobs leave the list; so they do by themselves where it is asked for by a status that passes.

        Args:
            status: only jobs of this one.

        Raises:
            ProviderError: the provider does not say.
        """
        async with contextlib.aclosing(self.pages(status=status)) as pages:
            async for page in pages:
                for row in page:
                    yield row

    async def pages(self, *, status: str | None = None) -> AsyncGenerator[list[Row], None]:
        """The same as `rows`, a page of the provider's at a time, as one question brings it."""
        seen: set[str] = set()
        asked: set[str] = set()
        query, repeated = None, 0
        for _ in range(MAX_PAGES):
            try:
                listing = await self.page(query=query, status=status)
            except _PastTheEndError:
                if query is None:
                    raise
                return  # the list has become shorter since its last page was named
            new = list({row.id: row for row in listing.rows if row.id not in seen}.values())
            seen.update(row.id for row in new)
            yield [row for row in new if status in (None, row.status)]
            repeated = 0 if new else repeated + 1
            query = listing.next
            if query is None:
                return
            if query in asked or repeated == REPEATED_PAGES:
                break
            asked.add(query)
        raise UnavailableError("The provider's list has no end.")

    async def find(
        self, header: str, value: str, *, since: datetime, others: Collection[str] = ()
    ) -> str | None:
        """The id of the job whose webhook carries this header, after a submission whose fate is unknown.

        A job that the provider is still about to make is not found yet: who looks because an answer was lost
        looks again after a while before it submits again.

        Args:
            header: its name, in any case.
            value: of the header.
            since: when it was submitted, by our clock; older jobs than this are not asked for, with some
                minutes of slack for the provider's clock.
            others: ids of jobs that it cannot be, as it is known what they are; they are not asked for.

        Raises:
            ProviderError: the provider does not say, or not of each job that it could be.
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
        """The jobs' ids and the headers of their webhooks, the newest first; one question for each.

        Args:
            since: see `find`.
            others: see `find`.

        Yields:
            Without headers a job that gives no answer.

        Raises:
            ProviderError: the provider does not say.
        """
        in_a_row = 0
        for row in await self._rows_since(since - CLOCKS):
            if row.id in others:
                continue
            try:
                document = await self._document(row.id)
            except UnknownJobError:
                continue  # it has left the list meanwhile
            except ProviderError as error:
                in_a_row += 1
                if isinstance(error, RateLimitedError) or in_a_row == UNREAD_JOBS:
                    raise
                yield row.id, None
                continue
            in_a_row = 0
            yield row.id, answers.read_headers(document)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _rows_since(self, bound: datetime) -> list[Row]:
        """The jobs made since then, the newest first; those without a time come before all others.

        Nothing is known of the list's order, so it is read to its end unless it proves to be newest first.
        """
        found: list[Row] = []
        first = last = None
        falling = True
        async with contextlib.aclosing(self.rows()) as rows:
            async for row in rows:
                if row.type not in (None, "upscaler"):
                    continue
                if row.created is None or row.created >= bound:
                    found.append(row)
                if row.created is None:
                    falling = False
                    continue
                first = first or row.created
                falling = falling and (last is None or row.created <= last)
                last = row.created
                if falling and last < bound and last < first:
                    break
        newest_first = sorted((row for row in found if row.created), key=_created, reverse=True)
        return [row for row in found if row.created is None] + newest_first

    async def _document(self, job_id: str) -> dict[str, Any]:
        return await self._call(_Ask(_path(job_id), limit=MAX_JOB_BYTES, about_a_job=True))

    async def _call(self, ask: _Ask) -> dict[str, Any]:
        """The answer's JSON object, after as many attempts as are harmless.

        Raises:
            ProviderError: there is none.
        """
        try:
            document = await self._attempts(ask)
        except ProviderError as error:
            self._heard(error.reason)
            raise
        self._heard(None)
        return document

    async def _attempts(self, ask: _Ask) -> dict[str, Any]:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._once(ask)
            except _FailedAttemptError as failed:
                ceiling = doubled(FIRST_WAIT_SECONDS, attempt - 1)
                asked_for = failed.error.retry_after or 0.0
                if not failed.again or attempt == ATTEMPTS or asked_for > ceiling:
                    # From None: what a library says of a failure may repeat what was sent.
                    raise failed.error from None
            await self._sleep(max(asked_for, self._jitter() * ceiling))

    async def _once(self, ask: _Ask) -> dict[str, Any]:
        submitting = ask.content is not None
        if self._turn is not None:
            await self._turn()
        try:
            async with (
                asyncio.timeout(SUBMIT_SECONDS if submitting else ASK_SECONDS),
                self._client.stream(
                    "POST" if submitting else "GET",
                    ask.path,
                    content=ask.content,
                    headers={"Content-Type": "application/json"} if submitting else None,
                    timeout=_submit_timeout() if submitting else httpx.USE_CLIENT_DEFAULT,
                ) as answer,
            ):
                if not answer.is_success:
                    body = await _beginning(answer)
                    self._refuse(ask, answer, body)
                document = await _read(answer, ask.limit)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, TimeoutError) as error:
            nothing_sent = isinstance(error, _NOTHING_SENT)
            raise _FailedAttemptError(
                UnavailableError(
                    f"The provider does not answer ({type(error).__name__}).",
                    maybe_sent=submitting and not nothing_sent,
                ),
                again=nothing_sent or (not submitting and isinstance(error, _LOST)),
            ) from None
        except _UnreadableError as error:
            raise _FailedAttemptError(
                UnavailableError(f"The provider's answer {error}.", maybe_sent=submitting), again=False
            ) from None
        return document

    def _refuse(self, ask: _Ask, answer: httpx.Response, body: bytes) -> NoReturn:
        error = refusal(
            answer.status_code,
            answer.headers,
            body,
            ours=(self._token, *ask.ours),
            submitting=ask.content is not None,
            about_a_job=ask.about_a_job,
            now=self._clock(),
        )
        if ask.is_next_page and answer.status_code == 404 and body.lstrip().startswith(b"{"):
            error = _PastTheEndError(error.detail)
        raise _FailedAttemptError(error, again=ask.content is None and answer.status_code in _REPEATED)


def _submit_timeout() -> httpx.Timeout:
    return httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS, read=SUBMIT_SILENT_SECONDS)


async def _beginning(answer: httpx.Response) -> bytes:
    """The beginning of a refusal's body. That it breaks off does not make it less of a refusal."""
    body = bytearray()
    if _is_encoded(answer):
        return b""
    with contextlib.suppress(httpx.HTTPError):
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) >= MAX_REFUSAL_BYTES:
                break
    return bytes(body[:MAX_REFUSAL_BYTES])


async def _read(answer: httpx.Response, limit: int) -> dict[str, Any]:
    """The JSON object of an answer.

    Raises:
        _UnreadableError: it is none, or larger than the limit.
    """
    if _is_encoded(answer):
        raise _UnreadableError("is encoded, which was not asked for")
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > limit:
            raise _UnreadableError(f"is larger than {limit} bytes")
    return (
        await asyncio.to_thread(_decoded, bytes(body)) if len(body) > LARGE_BYTES else _decoded(bytes(body))
    )


def _is_encoded(answer: httpx.Response) -> bool:
    coding: str = answer.headers.get("content-encoding", "identity")
    return coding.strip().lower() != "identity"


def _decoded(body: bytes) -> dict[str, Any]:
    if sum(map(body.count, (b",", b":", b"[", b"{"))) > MAX_PARTS:
        raise _UnreadableError("has more parts than an answer can have")
    try:
        document = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise _UnreadableError("is no JSON object")
    return document


def _encoded(upscale: Upscale) -> bytes:
    return json.dumps(upscale.body()).encode("ascii")


def _secrets(upscale: Upscale) -> list[str]:
    """What of a submission must not come back in an error's detail."""
    image = upscale.image
    ours = [image if isinstance(image, str) else base64.b64encode(image[:ECHOED_BYTES]).decode("ascii")]
    if upscale.webhook is not None:
        ours += [upscale.webhook.endpoint, *upscale.webhook.headers.values()]
    return ours


def _path(job_id: str, more: str = "") -> str:
    """The path of a job. What can be no id never becomes part of one.

    Raises:
        UnknownJobError: it can be no id.
    """
    if not is_job_id(job_id):
        raise UnknownJobError("This can be no job's id.")
    return f"/request/{job_id}{more}"


def _created(row: Row) -> datetime:
    assert row.created is not None
    return row.created
