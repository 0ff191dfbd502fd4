"""Downloads an untrusted URL into a spool file, and hashes it on the way.

``DownloadLimits`` bound what a hostile host can cost: waits, the rate, sizes and the number of hops. Each
request has a connection of its own, through the guarded network backend. httpx's client is not used: it would
rewrite paths, log queries, keep cookies and parse each Location in its own way.
"""

import asyncio
import contextlib
import hashlib
import io
import math
import os
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import urljoin

import httpcore
import httpx

from receiver.core import retry_after
from receiver.core.disk import spool_errors
from receiver.core.errors import FetchError, ReceiverError, SpoolError, UrlError
from receiver.core.urls import percent_encoded
from receiver.fetch.content_coding import ContentDecoder
from receiver.fetch.network_guard import GuardedBackend, Networks, Resolver, system_resolver
from receiver.fetch.sources import Sources, Target, check_url

_T = TypeVar("_T")

_BLOCK = 1024 * 1024
"""Bytes that are gathered for one write, since each write is handed to a thread."""

_MAX_HEAD = 256 * 1024
"""Bytes of an answer's head and the interim ones before it; the last read can hold 64 KiB of the body."""

_CHUNKS = 1024
_MIN_CHUNK = 128
"""Bytes that so many chunks of a body must hold on average. A chunk of one byte costs as much work as one of
64 KiB, and the event loop acknowledges no deliveries meanwhile."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({403, 404, 410})
_IN_WORDS = {
    "fetch.tls": "no TLS connection could be made",
    "fetch.timeout": "nothing came in time",
    "fetch.protocol": "the answer breaks the rules of HTTP",
    "fetch.cut_short": "the connection ended early",
}
"""What is said where the library says nothing, or nothing for users."""
# h11 and httpcore have no exception type for a connection that the other side closes in the middle.
_CLOSED_EARLY = ("peer closed connection", "Server disconnected")


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """What one download may cost.

    Attributes:
        max_bytes: of the body, as it is sent and as it is decoded.
        total_seconds: from the first look-up to the last byte, over all hops.
        resolve_seconds: for one look-up.
        connect_seconds: for TCP, to all addresses of the host together, and again for TLS.
        answer_seconds: for one hop, from the look-up to the end of the answer's head.
        idle_seconds: between two reads.
        min_rate: bytes a second, averaged over each ``rate_window``; the first window is the grace.
        rate_window: seconds.
    """

    max_bytes: int
    total_seconds: float = 600
    resolve_seconds: float = 10
    connect_seconds: float = 10
    answer_seconds: float = 30
    idle_seconds: float = 20
    min_rate: int = 16 * 1024
    rate_window: float = 20
    max_redirects: int = 3


@dataclass(frozen=True, slots=True)
class Download:
    """A whole body in a file that is fsynced. Its folder is not, because the caller renames the file."""

    path: Path
    bytes: int
    sha256: str


@dataclass(slots=True, eq=False)
class Progress:
    """The bytes of a body that have come, and the seconds that were spent waiting for them."""

    bytes: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return self.bytes / self.seconds if self.seconds > 0 else math.inf


@dataclass(kw_only=True, eq=False)
class Fetcher:
    """Downloads images, any number at a time.

    Attributes:
        networks: allowed although they are not public.
        limits: for each download.
        backend: connects to checked addresses, never to names.
        ssl_context: by default with the system's authorities, or those of ``SSL_CERT_FILE``.
        clock: monotonic seconds, for the rate.
        wall_clock: seconds since the epoch, to read a Retry-After that is a date.
    """

    sources: Sources
    networks: Networks
    limits: DownloadLimits
    resolver: Resolver = system_resolver
    backend: httpcore.AsyncNetworkBackend = field(default_factory=httpcore.AnyIOBackend)
    ssl_context: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    user_agent: str = "upscale-receiver"

    def __post_init__(self) -> None:
        # A pool of its own, so that a slow disk holds up nothing else that waits for a thread.
        self._disk = ThreadPoolExecutor(max_workers=4, thread_name_prefix="spool")

    async def fetch(
        self,
        url: str,
        into: Path,
        *,
        seconds: float | None = None,
        max_bytes: int | None = None,
        progress: Progress | None = None,
    ) -> Download:
        """Download a URL into a new file of mode 0600. A failure or cancellation leaves no file.

        Args:
            url: untrusted.
            into: the file to create; it must not exist.
            seconds: left for this job, if fewer than the limits give.
            max_bytes: allowed for this job, if fewer than the limits give.
            progress: is kept up to date.

        Raises:
            UrlError: the URL (then it is final), one that it redirects to, or an address is not allowed.
            FetchError: the download failed.
            SpoolError: the file could not be written.
        """
        limits = self.limits
        seconds = limits.total_seconds if seconds is None else min(seconds, limits.total_seconds)
        max_bytes = limits.max_bytes if max_bytes is None else min(max_bytes, limits.max_bytes)
        file = _DownloadFile(into)
        try:
            try:
                async with asyncio.timeout(seconds), self._open(url) as (target, response):
                    await self._receive(target, response, file, max_bytes, progress or Progress())
            except TimeoutError as exc:
                raise FetchError("fetch.timeout", f"not whole after {seconds:.0f} s") from exc
            # All bytes have come, so the deadline does not bound the disk.
            return await self._on_disk(file.finish)
        except BaseException:
            # Shielded: it waits for writes of this file that still run in a thread.
            await asyncio.shield(self._on_disk(file.discard))
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the threads. No download may be running."""
        await asyncio.to_thread(self._disk.shutdown)

    @contextlib.asynccontextmanager
    async def _open(self, url: str) -> AsyncIterator[tuple[Target, httpcore.Response]]:
        """Follow redirects, whose bodies are never read, to the first other answer, its body unread."""
        try:
            target = check_url(url, self.sources, self.networks)
        except UrlError as exc:
            exc.final = True
            raise
        for _ in range(self.limits.max_redirects + 1):
            async with self._answer(target) as answer:
                if answer.status not in _REDIRECTS:
                    yield target, answer
                    return
                target = self._redirected(target, answer)
        raise UrlError("url.redirects", f"more than {self.limits.max_redirects}, at last to {target}")

    @contextlib.asynccontextmanager
    async def _answer(self, target: Target) -> AsyncIterator[httpcore.Response]:
        """Send one request on a connection of its own, which is kept while the body may be read."""
        limits = self.limits
        head_size, head_ended = 0, False

        def bound_head(size: int) -> None:
            # h11 bounds each head, but not the number of interim ones (1xx).
            nonlocal head_size
            head_size += size
            if not head_ended and head_size > _MAX_HEAD:
                raise FetchError("fetch.protocol", f"{target}: no answer within {_MAX_HEAD} bytes")

        request = httpcore.Request(
            "GET",
            httpcore.URL(
                scheme=target.scheme.encode(),
                host=target.host.encode(),
                port=target.port,
                target=target.request_target.encode(),
            ),
            headers={
                "Host": target.origin.partition("://")[2],
                "User-Agent": self.user_agent,
                "Accept": "image/*, application/octet-stream;q=0.9, */*;q=0.1",
                "Accept-Encoding": "identity",
            },
            extensions={
                "timeout": {
                    "connect": limits.connect_seconds,
                    "read": limits.idle_seconds,
                    "write": limits.idle_seconds,
                }
            },
        )
        # Connections are not kept: downloads share no state, and each address is checked when it is dialled.
        connection = httpcore.AsyncHTTPConnection(
            request.url.origin,
            ssl_context=self.ssl_context,
            network_backend=GuardedBackend(
                self.networks,
                confined=bool(target.confined),
                resolver=self.resolver,
                resolve_seconds=limits.resolve_seconds,
                inner=self.backend,
                on_read=bound_head,
            ),
        )
        try:
            answer = await self._head(connection, request, target)
            head_ended = True
            yield answer
        finally:
            await connection.aclose()

    async def _head(
        self, connection: httpcore.AsyncHTTPConnection, request: httpcore.Request, target: Target
    ) -> httpcore.Response:
        limit = self.limits.answer_seconds
        try:
            async with asyncio.timeout(limit):
                with _library_errors(target):
                    return await connection.handle_async_request(request)
        except TimeoutError as exc:
            raise FetchError("fetch.timeout", f"{target}: no answer in {limit:.0f} s") from exc
        except UrlError as exc:
            if target.confined:
                raise UrlError(target.confined, exc.detail) from exc
            raise
        except FetchError as exc:
            # A name that no setting allows must resolve into the allowed networks at the first attempt.
            if exc.reason == "fetch.resolve" and target.confined and not self.sources.entries:
                raise UrlError(target.confined, exc.detail) from exc
            raise

    def _redirected(self, target: Target, answer: httpcore.Response) -> Target:
        """Return the target of a redirect, checked like the first URL."""
        location = percent_encoded(
            next((value for name, value in answer.headers if name.lower() == b"location"), b"")
        )
        if not location:
            raise FetchError("fetch.status", f"{target} answers {answer.status} to nowhere")
        # Checked before it is joined, since joining drops and rewrites characters.
        if not location.isascii() or not location.isprintable() or "\\" in location or " " in location:
            raise UrlError("url.malformed", f"{target} redirects to what is no plain URL")
        try:
            joined = urljoin(target.origin + target.request_target, location)
        except ValueError as exc:
            raise UrlError("url.malformed", f"{target} redirects to what is no plain URL") from exc
        found = check_url(joined, self.sources, self.networks)
        if target.scheme == "https" and found.scheme != "https":
            raise UrlError("url.scheme", f"{target} redirects from https to {found}")
        return found

    async def _receive(
        self,
        target: Target,
        answer: httpcore.Response,
        file: "_DownloadFile",
        max_bytes: int,
        progress: Progress,
    ) -> None:
        """Stream the body into the file."""
        headers = httpx.Headers(answer.headers)
        self._check_status(target, answer.status, headers)
        # Chunks overrule a declared length (RFC 9112, 6.3).
        length = None if "transfer-encoding" in headers else headers.get("content-length")
        declared = None if length is None else int(length)
        if declared is not None and declared > max_bytes:
            raise FetchError("fetch.too_large", f"{target} declares {declared} of {max_bytes} bytes")
        await self._on_disk(file.create, ContentDecoder(headers.get("content-encoding", ""), max_bytes))
        total = 0
        block = bytearray()
        async for chunk in self._at_least_rate(target, answer, progress):
            total += len(chunk)
            if total > max_bytes:
                raise FetchError("fetch.too_large", f"{target} sends more than {max_bytes} bytes")
            block += chunk
            if len(block) >= _BLOCK:
                await self._on_disk(file.write, block)
                block = bytearray()
        if declared is not None and total != declared:
            raise FetchError("fetch.cut_short", f"{target} sent {total} of {declared} bytes")
        if not total:
            raise FetchError("fetch.empty", f"{target} sent no bytes")
        await self._on_disk(file.write, block)

    def _check_status(self, target: Target, status: int, headers: httpx.Headers) -> None:
        if status in _GONE:
            raise FetchError("fetch.gone", f"{target} answers {status}")
        if status == 204:
            raise FetchError("fetch.empty", f"{target} answers 204")
        if status != 200:
            header = headers.get("retry-after", "") if status in {429, 503} else ""
            wait = retry_after.parse(header, self.wall_clock())
            raise FetchError("fetch.status", f"{target} answers {status}", retry_after=wait)

    async def _at_least_rate(
        self, target: Target, answer: httpcore.Response, progress: Progress
    ) -> AsyncIterator[bytes]:
        """Yield the raw body while it comes fast enough. The time of our own disk does not count."""
        limits = self.limits
        waited, received = 0.0, 0
        chunks, size = 0, 0
        body = answer.aiter_stream()
        while True:
            before = self.clock()
            with _library_errors(target):
                chunk = await anext(body, None)
            if chunk is None:
                return
            seconds = self.clock() - before
            waited, received = waited + seconds, received + len(chunk)
            progress.seconds, progress.bytes = progress.seconds + seconds, progress.bytes + len(chunk)
            chunks, size = chunks + 1, size + len(chunk)
            if chunks == _CHUNKS:
                if size < _CHUNKS * _MIN_CHUNK:
                    raise FetchError("fetch.protocol", f"the body comes in pieces of {size // chunks} bytes")
                chunks, size = 0, 0
            if waited >= limits.rate_window:
                if received < limits.min_rate * waited:
                    raise FetchError("fetch.too_slow", f"{received} bytes in {waited:.0f} s")
                waited, received = 0.0, 0
            yield chunk

    async def _on_disk(self, work: Callable[..., _T], *args: object) -> _T:
        return await asyncio.wrap_future(self._disk.submit(work, *args))


class _DownloadFile:
    """The file of one download; its methods block, so they run in a thread.

    A cancelled task cannot stop a thread that already writes for it. So each method takes the lock, and does
    nothing once the file is discarded.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._file: io.FileIO | None = None
        self._discarded = False
        self._decoder: ContentDecoder | None = None
        self._hash = hashlib.sha256()
        self._size = 0

    def create(self, decoder: ContentDecoder) -> None:
        with self._lock, spool_errors():
            if not self._discarded:
                self._decoder = decoder
                descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                self._file = io.FileIO(descriptor, "wb")

    def write(self, block: bytearray) -> None:
        with self._lock, spool_errors():
            if self._discarded or self._file is None or self._decoder is None:
                return
            for piece in self._decoder.decode(block):
                self._hash.update(piece)
                self._size += len(piece)
                rest = memoryview(piece)
                while rest:
                    rest = rest[self._file.write(rest) :]

    def finish(self) -> Download:
        with self._lock, spool_errors():
            if self._discarded or self._file is None or self._decoder is None:
                raise SpoolError("spool.lost", "the download was discarded before it was whole")
            self._decoder.finish()
            os.fsync(self._file.fileno())
            self._file.close()
            return Download(self._path, self._size, self._hash.hexdigest())

    def discard(self) -> None:
        """Remove the file, if this download created it."""
        with self._lock:
            self._discarded = True
            if self._file is not None:
                # The first error is the one to report; the next start removes a file that stays.
                with contextlib.suppress(OSError):
                    self._file.close()
                with contextlib.suppress(OSError):
                    self._path.unlink()


@contextlib.contextmanager
def _library_errors(target: Target) -> Iterator[None]:
    """Translate the errors of httpcore, h11, ssl and the system; the guard's own errors pass."""
    try:
        yield
    except ReceiverError:
        raise
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as exc:
        reason = _reason(exc)
        # The library may quote the other side, or name its own classes.
        text = "".join(c if c.isprintable() else "?" for c in str(exc).partition(": bytearray(")[0])[:160]
        if not text or (reason == "fetch.protocol" and "_" in text):
            text = _IN_WORDS[reason]
        raise FetchError(reason, f"{target}: {text}") from exc


def _reason(error: Exception) -> str:
    match error:
        case httpcore.ConnectError() | ssl.SSLError():
            return "fetch.tls"  # the guard raises its own errors for TCP
        case httpcore.TimeoutException():
            return "fetch.timeout"
        case httpcore.ProtocolError() if not str(error).startswith(_CLOSED_EARLY):
            return "fetch.protocol"
    return "fetch.cut_short"
