"""Downloads an untrusted URL into a spool file, and hashes it on the way.

``DownloadLimits`` bound what a hostile host can cost: waits, the rate, sizes and the number of hops. httpx's
client is not used: it would rewrite paths, log queries, keep cookies and parse each Location in its own way.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin

import httpcore
import httptools

from receiver.core import retry_after
from receiver.core.disk import spool_errors
from receiver.core.errors import FetchError, SpoolError, UrlError
from receiver.core.urls import percent_encoded
from receiver.fetch.asyncio_backend import AsyncioBackend
from receiver.fetch.connections import Connections
from receiver.fetch.content_coding import ContentDecoder
from receiver.fetch.http1 import Connection
from receiver.fetch.network_guard import NetworkGuard, Networks, Resolver, system_resolver
from receiver.fetch.sources import Sources, Target, check_url

_T = TypeVar("_T")

_FIRST_BLOCK, _BLOCK = 256 * 1024, 512 * 1024
"""Bytes that are gathered for one write, since each write is handed to a thread."""

_LARGE = 256 * 1024
"""Bytes still to come for which a thread takes over: it receives, hashes and writes without a hop."""

_BUFFER = 512 * 1024
"""Bytes that such a thread takes at a time."""

_DRAINS = 256
"""As many as downloads, the most that RECEIVER_FETCHES allows. They start when they are needed."""

_SIGNATURE = 12
"""Bytes by which the format of an image is known."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GONE = frozenset({403, 404, 410})
_IN_WORDS = {
    "fetch.tls": "no TLS connection could be made",
    "fetch.timeout": "nothing came in time",
    "fetch.protocol": "the answer breaks the rules of HTTP",
    "fetch.cut_short": "the connection ended early",
}
"""What is said where the library says nothing, or nothing for users."""

_LIBRARY_ERRORS = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httptools.HttpParserError,
    httptools.HttpParserUpgrade,
    ssl.SSLError,
)


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """What one download may cost, in bytes and seconds.

    ``max_bytes`` are of the body, as it is sent and as it is decoded. ``total_seconds`` go from the first
    look-up to the last byte, over all hops, ``answer_seconds`` from the look-up to the end of one hop's head.
    ``connect_seconds`` are for TCP, to all addresses of the host together, and again for TLS.
    ``idle_seconds`` lie between two reads. ``min_rate``, bytes a second, is averaged over each
    ``rate_window``; the first window is the grace.
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


HeadersFor = Callable[[str, str, int], Mapping[str, str]]
"""Returns the headers for a request to this scheme, host and port."""


@dataclass(kw_only=True, eq=False)
class Fetcher(contextlib.AbstractAsyncContextManager["Fetcher"]):
    """Downloads images, any number at a time.

    ``networks`` are allowed although they are not public. ``backend`` connects to checked addresses, never to
    names. ``clock`` gives monotonic seconds, for the rate, and ``wall_clock`` seconds since the epoch, to
    read a Retry-After that is a date.
    """

    sources: Sources
    networks: Networks
    limits: DownloadLimits
    resolver: Resolver = system_resolver
    backend: httpcore.AsyncNetworkBackend = field(default_factory=AsyncioBackend)
    ssl_context: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    user_agent: str = "upscale-receiver"

    def __post_init__(self) -> None:
        # Pools of their own, so that slow disks and hosts hold up nothing else that waits for a thread. More
        # threads for the disk would also take the interpreter from each other.
        self._disk = ThreadPoolExecutor(max_workers=4, thread_name_prefix="spool")
        self._drains = ThreadPoolExecutor(_DRAINS, thread_name_prefix="download")
        self._buffer = memoryview(bytearray(_BUFFER))
        # Held while bytes are taken, and not while they are waited for. Threads that compute side by side
        # would take the interpreter from each other for every record of TLS.
        self._taking = threading.Lock()
        seconds = self.limits.resolve_seconds
        guard = NetworkGuard(
            self.networks, resolver=self.resolver, resolve_seconds=seconds, backend=self.backend
        )
        self._connections = Connections(guard, self.ssl_context, self.limits.connect_seconds)

    async def fetch(
        self,
        url: str,
        into: Path,
        *,
        seconds: float | None = None,
        max_bytes: int | None = None,
        progress: Progress | None = None,
        headers_for: HeadersFor = lambda *_: {},
    ) -> Download:
        """Download an untrusted URL into a new file of mode 0600. A failure or cancellation leaves no file.

        ``seconds`` and ``max_bytes`` count if they are fewer than the limits give. ``progress`` is kept up to
        date. ``headers_for`` returns what the URL's own host wants to be sent, such as a token; a host that
        it redirects to is sent none. Raise `UrlError` where the URL (then it is final), one that it redirects
        to, or an address is not allowed, `SpoolError` where the file cannot be written, else `FetchError`.
        """
        limits = self.limits
        seconds = limits.total_seconds if seconds is None else min(seconds, limits.total_seconds)
        max_bytes = limits.max_bytes if max_bytes is None else min(max_bytes, limits.max_bytes)
        file = _DownloadFile(into)
        try:
            try:
                async with asyncio.timeout(seconds):
                    target, connection = await self._open(url, headers_for)
                    try:
                        with _library_errors(target):
                            rest = await self._receive(
                                target, connection, file, max_bytes, progress or Progress()
                            )
                    finally:
                        await self._connections.release(connection)
            except TimeoutError as exc:
                raise FetchError("fetch.timeout", f"not whole after {seconds:.0f} s") from exc
            # All bytes have come, so the deadline does not bound the disk.
            return await self._on_disk(file.finish, rest)
        except BaseException:
            # Shielded: it waits for writes of this file that still run in a thread.
            await asyncio.shield(self._on_disk(file.discard))
            raise

    async def __aexit__(self, *_: object) -> None:
        """Close idle connections, and end the threads. No download may be running."""
        await self._connections.aclose()
        await asyncio.to_thread(self._drains.shutdown)
        await asyncio.to_thread(self._disk.shutdown)

    async def _open(self, url: str, headers_for: HeadersFor) -> tuple[Target, Connection]:
        """Follow redirects, whose bodies are never read, to the first other answer, its body unread."""
        try:
            target = check_url(url, self.sources, self.networks)
        except UrlError as exc:
            exc.final = True
            raise
        headers = headers_for(target.scheme, target.host, target.port)
        for _ in range(self.limits.max_redirects + 1):
            connection = await self._answer(target, headers)
            headers = {}
            if connection.status not in _REDIRECTS:
                return target, connection
            try:
                target = self._redirected(target, connection)
            finally:
                await self._connections.release(connection)
        raise UrlError("url.redirects", f"more than {self.limits.max_redirects}, at last to {target}")

    async def _answer(self, target: Target, headers: Mapping[str, str]) -> Connection:
        """Send the request for a target. Return the connection once the answer's head has come."""
        limit = self.limits.answer_seconds
        try:
            async with asyncio.timeout(limit):
                with _library_errors(target):
                    return await self._ask(target, headers)
        except TimeoutError as exc:
            raise FetchError("fetch.timeout", f"{target}: no answer in {limit:.0f} s") from exc
        except (UrlError, FetchError) as exc:
            # A name that no setting allows must resolve into the allowed networks at the first attempt.
            unresolved = exc.reason == "fetch.resolve" and not self.sources.entries
            if target.confined and (unresolved or isinstance(exc, UrlError)):
                raise UrlError(target.confined, exc.detail) from exc
            raise

    async def _ask(self, target: Target, headers: Mapping[str, str], *, fresh: bool = False) -> Connection:
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection = await self._connections.open(target, fresh=fresh)
        kept = connection.answered
        try:
            await connection.ask(
                f"GET {target.request_target} HTTP/1.1\r\n"
                f"Host: {target.origin.partition('://')[2]}\r\n"
                f"User-Agent: {self.user_agent}\r\n"
                "Accept: image/*, application/octet-stream;q=0.9, */*;q=0.1\r\n"
                f"Accept-Encoding: identity\r\n{more}\r\n".encode("ascii"),
                self.limits.idle_seconds,
            )
        except BaseException as exc:
            await connection.aclose()
            # The host may close an idle connection at any time, and then has not seen the request.
            if kept and not connection.answered and isinstance(exc, httpcore.NetworkError):
                return await self._ask(target, headers, fresh=True)
            raise
        return connection

    def _redirected(self, target: Target, answer: Connection) -> Target:
        """Return the target of a redirect, checked like the first URL."""
        location = percent_encoded(answer.headers.get("location", b""))
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
        self, target: Target, answer: Connection, file: "_DownloadFile", max_bytes: int, progress: Progress
    ) -> list[bytes]:
        """Stream the body into the file. Return the last of it, which is not written."""
        self._check_status(target, answer)
        # Chunks overrule a declared length (RFC 9112, 6.3).
        length = None if "transfer-encoding" in answer.headers else answer.headers.get("content-length")
        if length is not None and int(length) > max_bytes:
            raise FetchError("fetch.too_large", f"{target} declares {int(length)} of {max_bytes} bytes")
        coding = answer.headers.get("content-encoding", b"").decode("latin-1")
        file.decoder = ContentDecoder(coding, max_bytes)
        pace = _Pace(self.limits, self.clock, progress)
        total = size = 0
        block: list[bytes] = []
        while pieces := await pace.read(answer):
            block += pieces
            size += sum(map(len, pieces))
            if total + size > max_bytes:
                raise FetchError("fetch.too_large", f"{target} sends more than {max_bytes} bytes")
            if answer.left >= _LARGE and total + size >= _SIGNATURE:
                await asyncio.wrap_future(self._drains.submit(self._drain, answer, file, block, pace))
                return []
            if size >= (_BLOCK if total else _FIRST_BLOCK):
                await self._on_disk(file.write, block)
                total, size, block = total + size, 0, []
        if not total + size:
            raise FetchError("fetch.empty", f"{target} sent no bytes")
        return block

    def _check_status(self, target: Target, answer: Connection) -> None:
        status = answer.status
        if status in _GONE:
            raise FetchError("fetch.gone", f"{target} answers {status}")
        if status == 204:
            raise FetchError("fetch.empty", f"{target} answers 204")
        if status != 200:
            header = answer.headers.get("retry-after", b"") if status in {429, 503} else b""
            wait = retry_after.parse(header.decode("latin-1"), self.wall_clock())
            raise FetchError("fetch.status", f"{target} answers {status}", retry_after=wait)

    def _drain(self, answer: Connection, file: "_DownloadFile", block: list[bytes], pace: "_Pace") -> None:
        """Stream the rest of a body, whose length is known, into the file."""
        file.write(block)
        left = answer.left  # asked once: after the last byte, the connection may carry another download
        while left:
            with self._taking:
                size = _BUFFER
                while size == _BUFFER and left:  # where there is less, a moment's wait brings more
                    if size := answer.receive(self._buffer):
                        left -= size
                        file.write([self._buffer[:size]])
                        pace.count(size)
            if left:
                pace.wait(answer)

    async def _on_disk(self, work: Callable[..., _T], *args: object) -> _T:
        return await asyncio.wrap_future(self._disk.submit(work, *args))


class _Pace:
    """Reads a raw body while it comes fast enough. The time of our own disk does not count."""

    def __init__(self, limits: DownloadLimits, clock: Callable[[], float], progress: Progress) -> None:
        self._limits = limits
        self._clock = clock
        self._progress = progress
        self._idle = self._waited = 0.0
        self._received = 0

    async def read(self, answer: Connection) -> list[bytes]:
        before = self._clock()
        pieces = await answer.read(self._limits.idle_seconds)
        if pieces:
            self._idle = self._clock() - before
            self.count(sum(map(len, pieces)))
        return pieces

    def wait(self, answer: Connection) -> None:
        """Wait in a thread for bytes. What comes may be of TLS alone, and then the wait goes on."""
        before = self._clock()
        answer.wait(self._limits.idle_seconds - self._idle)
        self._idle += self._clock() - before

    def count(self, size: int) -> None:
        """Count bytes, and the time in which they came. Raise fetch.too_slow."""
        limits, progress = self._limits, self._progress
        self._waited, self._received = self._waited + self._idle, self._received + size
        progress.seconds, progress.bytes = progress.seconds + self._idle, progress.bytes + size
        self._idle = 0.0
        if self._waited >= limits.rate_window:
            if self._received < limits.min_rate * self._waited:
                raise FetchError("fetch.too_slow", f"{self._received} bytes in {self._waited:.0f} s")
            self._waited, self._received = 0.0, 0


class _DownloadFile:
    """The file of one download; its methods block, so they run in a thread.

    A cancelled task cannot stop a thread that already writes for it. So each method takes the lock, and does
    nothing once the file is discarded.
    """

    def __init__(self, path: Path) -> None:
        self.decoder = ContentDecoder("", 0)
        self._path = path
        self._lock = threading.Lock()
        self._file: io.FileIO | None = None
        self._discarded = False
        self._hash = hashlib.sha256()
        self._size = 0

    def write(self, block: Sequence[bytes | memoryview]) -> None:
        """Write pieces of the body. The first block holds its signature, or the whole body."""
        with self._lock, spool_errors():
            if not self._discarded:
                self._write(block)

    def finish(self, block: list[bytes]) -> Download:
        with self._lock, spool_errors():
            if self._discarded:
                raise SpoolError("spool.lost", "the download was discarded before it was whole")
            file = self._write(block)
            self.decoder.finish()
            os.fsync(file.fileno())
            file.close()
            return Download(self._path, self._size, self._hash.hexdigest())

    def _write(self, block: Sequence[bytes | memoryview]) -> io.FileIO:
        if self._file is None:
            self._file = io.FileIO(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
            if len(block[0]) < _SIGNATURE:
                block = [b"".join(block)]
        for piece in block:
            for decoded in self.decoder.decode(piece):
                self._hash.update(decoded)
                self._size += len(decoded)
                rest = memoryview(decoded)
                while rest:
                    rest = rest[self._file.write(rest) :]
        return self._file

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
    """Translate the errors of httpcore, httptools, ssl and the system; the receiver's own errors pass."""
    try:
        yield
    except _LIBRARY_ERRORS as exc:
        match exc:
            case httpcore.ConnectError() | ssl.SSLError():
                reason = "fetch.tls"  # the guard raises its own errors for TCP
            case httpcore.TimeoutException():
                reason = "fetch.timeout"
            case httpcore.NetworkError():
                reason = "fetch.cut_short"
            case _:
                reason = "fetch.protocol"
        # The parser may name its own constants, or quote the other side.
        text = "".join(c if c.isprintable() else "?" for c in str(exc))[:160]
        if not text or isinstance(exc, httptools.HttpParserError | httptools.HttpParserUpgrade):
            text = _IN_WORDS[reason]
        raise FetchError(reason, f"{target}: {text}") from exc
