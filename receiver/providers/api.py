"""Calls a provider's JSON API: bounded, repeated where that is harmless, without secrets in errors."""

import asyncio
import contextlib
import json
import random
import re
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, NoReturn, Self, TypeVar
from urllib.parse import urlsplit

import httpx

from receiver.core import json_text
from receiver.core.backoff import doubled
from receiver.core.completion import is_provider_id
from receiver.core.errors import BodyError, ProviderError, UnavailableError, UnknownJobError
from receiver.providers.api_errors import api_error
from receiver.providers.base import Calls, Client, Listed, Reading
from receiver.providers.bodies import MAX_WORD

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

MAX_ANSWER_BYTES = 4 * 1024 * 1024

MAX_JOB_BYTES = 64 * 1024 * 1024
"""Of an answer on one job, which may echo a whole image as base64."""

MAX_ERROR_BYTES = 64 * 1024

MAX_VALUES = 200_000
"""Values of an answer's JSON. A few megabytes of empty lists would become hundreds as objects."""

LARGE_BYTES = 256 * 1024
"""JSON of this size or more is read and written in a thread."""

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
class Call:
    """One call: a submission with its content, or a query without.

    ``about_a_job`` tells whether the path names one, so that a 404 is about it; ``is_next_page`` whether the
    list itself has named the path's page. ``secrets``, beside those of the API, must not come back in an
    error's detail.
    """

    path: str
    content: bytes | None = None
    max_bytes: int = MAX_ANSWER_BYTES
    about_a_job: bool = False
    is_next_page: bool = False
    secrets: Sequence[str] = ()


MAX_KEPT_BYTES = 256 * 1024
"""Of an answer that is kept with its job: as large as a delivery may be by default."""

MAX_QUERY = 2048

_R = TypeVar("_R", bound=Reading)


def read_answer(read: Callable[[Any], _R], document: Any) -> _R:
    """Read an answer as a delivery's body is read. One that is not readable is an `UnavailableError`."""
    try:
        return read(document)
    except BodyError as error:
        problem = error.detail.removeprefix("The body is no completion: ")
        # From None: a library's text about an answer may repeat what the answer echoes of the request.
        raise UnavailableError(f"The provider's answer: {problem}") from None


def kept_body(document: Mapping[str, Any], echoed: Collection[str] = ()) -> bytes:
    """Return an answer without what it echoes of the request; of a large one, only its short texts."""
    kept = {name: value for name, value in document.items() if name not in echoed}
    text = json.dumps(kept)
    if len(text) > MAX_KEPT_BYTES:
        text = json.dumps({k: v for k, v in kept.items() if isinstance(v, str) and len(v) <= MAX_WORD})
    return text.encode("ascii") if len(text) <= MAX_KEPT_BYTES else b"{}"


def next_query(link: object) -> str:
    """Return the query of a list's link to its next page. Its host is not asked: only the API's own is."""
    try:
        query = urlsplit(link).query if isinstance(link, str) else ""
    except ValueError:
        query = ""
    if not query or len(query) > MAX_QUERY or not re.fullmatch(r"[\x21-\x7e]+", query):
        raise UnavailableError("The provider's answer: next holds no query string.")
    return query


MAX_PAGES = 10_000

MAX_REPEATED_PAGES = 100
"""Pages in a row without a new row, after which a list is taken to have no end."""


class _FailedAttemptError(Exception):
    """One attempt has failed; ``again`` if another one is harmless, and may help."""

    def __init__(self, error: ProviderError, *, again: bool) -> None:
        super().__init__()
        self.error = error
        self.again = again


class PastTheEndError(UnavailableError):
    """The list has no page of this number any more."""


class ApiClient(Client):
    """Calls one account's JSON API. Answers are untrusted: they are read up to a size, and must be objects.

    Args:
        url: the API's base. A path of a call is put behind it.
        token: sent behind ``scheme`` in ``Authorization``, or as in ``headers``. It is redacted from the
            details of errors.
        jitter: returns a number in [0, 1), to spread repeated calls.
        clock: returns seconds since the epoch, to read a ``Retry-After`` that is a date.
    """

    scheme: ClassVar[str]
    url_setting: str

    def __init__(
        self,
        url: str,
        token: str,
        calls: Calls | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        jitter: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._calls = calls or Calls()
        self._token = token
        self._jitter = jitter
        self._sleep = sleep
        self._clock = clock
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            headers={
                **({"Authorization": f"{self.scheme} {token}"} if headers is None else headers),
                "Accept": "application/json",
                # A coded body could be a thousand times larger than what comes over the line.
                "Accept-Encoding": "identity",
                "User-Agent": "upscale-receiver",
            },
            timeout=httpx.Timeout(IDLE_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(keepalive_expiry=KEEP_ALIVE_SECONDS),
            verify=self._calls.verify,
            transport=self._calls.transport,
            # The operator chose this address, unlike that of an image, and many networks let nothing out but
            # through their proxy.
            trust_env=True,
            mounts=DIRECT,
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _call(self, call: Call) -> dict[str, Any]:
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
                    self._calls.on_result(failed.error.reason)
                    # From None: a library's text about a failure may repeat what was sent.
                    raise failed.error from None
            else:
                self._calls.on_result(None)
                return document
            await self._sleep(max(retry_after, self._jitter() * ceiling))

    async def _attempt(self, call: Call) -> dict[str, Any]:
        submitting = call.content is not None
        if self._calls.before_attempt is not None:
            await self._calls.before_attempt()
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
                self._calls.on_headers(answer.headers)
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

    def _refuse(self, call: Call, answer: httpx.Response, body: bytes) -> NoReturn:
        error = api_error(
            answer.status_code,
            answer.headers,
            body,
            secrets=(self._token, *call.secrets),
            submitting=call.content is not None,
            about_a_job=call.about_a_job,
            now=self._clock(),
            url_setting=self.url_setting,
        )
        if call.is_next_page and answer.status_code == 404 and body.lstrip().startswith(b"{"):
            error = PastTheEndError(error.detail)
        raise _FailedAttemptError(error, again=call.content is None and answer.status_code in _RETRIED)


@dataclass(slots=True)
class ListOrder:
    """Whether a list comes newest first, by its rows' times of creation so far, within the ``slack``."""

    slack: int = 0
    newest_first: bool = True
    _first: int | None = None
    _oldest: int = 0

    def see(self, created: int | None) -> None:
        """Take the next row's time of creation, in ms since the epoch."""
        created = created or 0
        if self._first is None:
            self._first = self._oldest = created
        self.newest_first = self.newest_first and 0 < created <= self._oldest + self.slack
        self._oldest = min(created, self._oldest)

    def all_before(self, bound: int) -> bool:
        """Return whether all further rows were created before this time. One row alone shows no order."""
        return self.newest_first and self._first is not None and self._oldest < min(self._first, bound)


class Page(NamedTuple):
    """A page of a list, in the provider's order; ``next`` is the query string of the next page."""

    rows: list[Listed]
    next: str | None


class ListingClient(ApiClient):
    """Reads jobs at ``path``: one by its id, and a list, of pages with ``results`` and a link ``next``."""

    lists = True
    path: ClassVar[str]

    @staticmethod
    def is_id(value: object) -> bool:
        return is_provider_id(value)

    async def document(self, job_id: str) -> dict[str, Any]:
        """Return the answer on a job."""
        if not self.is_id(job_id):
            raise UnknownJobError("This can be no job's id.")
        call = Call(f"{self.path}/{job_id}", max_bytes=MAX_JOB_BYTES, about_a_job=True)
        document = await self._call(call)
        if document.get("id") != job_id:
            raise UnavailableError("The provider's answer is about another job.")
        return document

    @abstractmethod
    def listed(self, row: Mapping[str, Any]) -> Listed | None:
        """Read a row; ``None`` for one without a job's id, which is left out."""

    async def page(self, query: str | None = None) -> Page:
        """Return a page of the list: the first, or that of a page's ``next``."""
        call = Call(f"{self.path}?{query}" if query else self.path, is_next_page=query is not None)
        document = await self._call(call)
        results, link = document.get("results"), document.get("next")
        if not isinstance(results, list):
            raise UnavailableError("The provider's answer: results is no list of jobs.")
        found = (self.listed(row) for row in results if isinstance(row, dict))
        return Page([row for row in found if row is not None], None if link is None else next_query(link))

    async def probe(self) -> None:
        await self.page()

    async def pages(self) -> AsyncGenerator[list[Listed], None]:
        """Yield the rows of the whole list, each job once, one page of the provider's at a time.

        Rows move from page to page while the list changes. One that moves to a later page is recognised by
        its id. One that moves to an earlier page, because another job has left the list, can be missed.
        """
        seen: set[str] = set()
        requested: set[str] = set()
        query, repeated = None, 0
        for _ in range(MAX_PAGES):
            try:
                page = await self.page(query)
            except PastTheEndError:
                return  # the list has become shorter since its last page was named
            new = list({row.id: row for row in page.rows if row.id not in seen}.values())
            seen.update(row.id for row in new)
            yield new
            repeated = 0 if new else repeated + 1
            query = page.next
            if query is None:
                return
            if query in requested or repeated == MAX_REPEATED_PAGES:
                break
            requested.add(query)
        raise UnavailableError("The provider's list has no end.")


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
        document = json_text.loads(body.decode("utf-8-sig"))
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise UnavailableError("The provider's answer is no JSON object.")
    return document
