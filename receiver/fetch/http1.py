"""The client's side of HTTP/1.1, as far as a GET needs it: one answer after another over one connection."""

import re
from typing import cast

import httpcore
import httptools

from receiver.fetch.asyncio_backend import SocketStream

_READ = 256 * 1024

_MAX_OVERHEAD = 256 * 1024
"""Bytes in a row that are no body: heads, interim heads, chunk extensions, trailers."""

_PIECES = 1024
_MIN_PIECE = 128
"""Bytes that so many pieces of a body must hold on average. A chunk of one byte costs as much work as one of
64 KiB, and the event loop acknowledges no deliveries meanwhile."""


_MAX_DIGITS = 20
"""Of a length: 2 ** 64 has as many."""

_HEAD_END = re.compile(rb"\n\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")
_LENGTH = re.compile(rb"^content-length:(.*)\n", re.IGNORECASE | re.MULTILINE)


class Connection:
    """A connection that carries one request at a time.

    `ask` and `read` raise the errors of `httpcore` and of `httptools`. ``origin`` is scheme, host and port,
    as a URL, and ``address`` the one that was dialled. ``status`` is 0 until the answer's head has come;
    ``headers`` are by names in lower case, and a name that comes again has its values joined. ``answered``
    and ``complete`` say whether the answer's first, and its last byte has come.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream, origin: str, address: str) -> None:
        self.origin = origin
        self.address = address
        self._stream = stream
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        # Chunks overrule a declared length (RFC 9112, 6.3), a line may end in LF alone (2.2), and some
        # servers pad the size of a chunk.
        self._parser.set_dangerous_leniencies(
            lenient_chunked_length=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        self.status = 0
        self.headers: dict[str, bytes] = {}
        self.answered = self.complete = False
        self._keep = self._until_close = False
        self._head = b""
        self._body: list[bytes] = []
        self._left = self._overhead = self._pieces = self._size = 0

    @property
    def reusable(self) -> bool:
        """Whether nothing but the next request can be meant by what is written next."""
        return self.complete and self._keep and not self._stream.get_extra_info("is_readable")

    async def ask(self, request: bytes, seconds: float) -> None:
        """Send a request, and read its answer's head within so many seconds between two reads."""
        self._begin()
        await self._stream.write(request, seconds)
        while not self.status:
            await self._feed(seconds)

    async def read(self, seconds: float) -> list[bytes]:
        """Return what has come of the body, after so many seconds at most; nothing after its end."""
        while not self._body and not self.complete:
            await self._feed(seconds)
        body, self._body = self._body, []
        return body

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def left(self) -> int:
        """The bytes that `receive` can return: those to come of a body whose length is known."""
        return max(self._left, 0) if isinstance(self._stream, SocketStream) else 0

    def receive(self, buffer: memoryview) -> int:
        """Return how many bytes of the body have come, or 0: then `wait`.

        Both are called in a thread, which `aclose` stops, and raise the errors of `httpcore`.
        """
        size = cast("SocketStream", self._stream).receive(buffer[: self._left])
        if size == 0:
            raise httpcore.ReadError
        if size is None:
            return 0
        self._count(size)
        self.complete = not self._left
        return size

    def wait(self, seconds: float) -> None:
        cast("SocketStream", self._stream).wait(seconds)

    async def _feed(self, seconds: float) -> None:
        data = await self._stream.read(_READ, seconds)
        if not data:
            if not self._until_close:
                raise httpcore.ReadError
            self.complete = True
            return
        self.answered = True
        if self._left > 0:  # of a body whose length is known; the parser would copy it
            piece = data[: self._left]
            self.on_body(piece)
            self.complete = not self._left
            self._keep = self._keep and len(piece) == len(data)
            return
        self._overhead += len(data)
        try:
            if self.status:
                self._parser.feed_data(data)
            else:
                self._feed_heads(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            if not self.complete:
                raise exc.__context__ or exc from None  # the context of a callback's error is the error
            self._keep = False  # what stands behind the answer is not read
        if self._overhead > _MAX_OVERHEAD:
            raise httpcore.RemoteProtocolError(f"{_MAX_OVERHEAD} bytes without one of the body")

    def _feed_heads(self, data: bytes) -> None:
        """Parse heads once they are whole, and what stands behind the answer's own."""
        at = max(len(self._head) - 2, 0)  # the end of a head may be split
        data, begin = self._head + data, 0
        while not self.status and (end := _HEAD_END.search(data, at)):
            at = end.end()
            self._parser.feed_data(_plain(data[begin:at]))
            begin = at
        if self.status:
            self._parser.feed_data(memoryview(data)[begin:])
        else:
            self._head = data[begin:]
            if not b"HTTP/".startswith(self._head[:9].lstrip(b"\r\n")[:5]):
                raise httpcore.RemoteProtocolError("the answer is not HTTP")

    # Called by the parser.

    def on_message_begin(self) -> None:
        if self.complete:
            raise httptools.HttpParserError("bytes behind the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status:
            return  # a trailer
        key = name.decode("latin-1").lower()
        self.headers[key] = self.headers[key] + b", " + value if key in self.headers else value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 100 or status == 101:
            raise httpcore.RemoteProtocolError(f"the status is {status:03}")
        if status < 200:
            self.headers = {}
            return
        coding = self.headers.get("transfer-encoding", b"chunked").lower()
        if coding != b"chunked":
            raise httpcore.RemoteProtocolError("the transfer coding is not chunked alone")
        self.status = status
        self._keep = self._parser.should_keep_alive()
        if "transfer-encoding" not in self.headers:
            length = self.headers.get("content-length", b"0").strip()
            if len(length) > _MAX_DIGITS:  # zeros before the number, and `int` takes no more than 4,300
                raise httpcore.RemoteProtocolError(f"the length has {len(length)} digits")
            self._left = int(length)
            self._until_close = "content-length" not in self.headers

    def on_body(self, piece: bytes) -> None:
        self._body.append(piece)
        self._count(len(piece))

    def on_message_complete(self) -> None:
        if self.status:
            self.complete = True

    def _count(self, size: int) -> None:
        self._left, self._overhead = self._left - size, 0
        self._pieces, self._size = self._pieces + 1, self._size + size
        if self._pieces == _PIECES:
            if (average := self._size // _PIECES) < _MIN_PIECE:
                raise httpcore.RemoteProtocolError(f"the body comes in pieces of {average} bytes")
            self._pieces = self._size = 0


def _plain(head: bytes) -> bytes:
    """Return a head as the parser wants it: no header is folded, and no length is repeated.

    Both are to be read where they come from a server (RFC 9112, 5.2; RFC 9110, 8.6). Lengths that differ
    stay.
    """
    if b"\n " in head or b"\n\t" in head:
        head = _FOLD.sub(b" ", head)
    lengths = b",".join(_LENGTH.findall(head)).split(b",")
    if len(lengths) > 1 and len({length.strip() for length in lengths}) == 1:
        line, _, rest = head.partition(b"\n")
        head = line + b"\nContent-Length:" + lengths[0] + b"\n" + _LENGTH.sub(b"", rest)
    return head
