"""Decodes a body by its Content-Encoding, as a stream and within a bound.

Stores and proxies label plain bytes ``identity``, ``utf-8``, ``aws-chunked`` or even ``gzip``. So the bytes
decide: a body that begins as an image is taken as it is, whatever its label says.
"""

import zlib
from collections.abc import Iterator

import brotli

from receiver.core.errors import FetchError
from receiver.core.jobs import image_format

_NO_CODINGS = frozenset({"", "identity", "none", "utf-8", "binary", "aws-chunked"})
_PIECE = 1024 * 1024
"""Decoded bytes at a time: a small body may decode to a huge one."""


class ContentDecoder:
    """Decodes one body of the Content-Encoding ``header``, which may be empty, to ``max_bytes`` at most."""

    def __init__(self, header: str, max_bytes: int) -> None:
        self._header = header[:40]
        self._codings = [
            name for name in map(str.strip, header.lower().split(",")) if name not in _NO_CODINGS
        ]
        self._max_bytes = max_bytes
        self._decoded = 0
        self._first = True
        self._stream: _Zlib | _Brotli | None = None

    def decode(self, block: bytes | memoryview) -> Iterator[bytes | memoryview]:
        """Yield what a block decodes to. The first block holds 12 bytes at least, or the whole body. Raise
        ``fetch.encoded`` or ``fetch.too_large``.
        """
        if self._first and self._codings and image_format(bytes(block[:12])) is None:
            self._stream = self._open(block)
        self._first = False
        if self._stream is None:
            yield block
            return
        try:
            for piece in self._stream.decode(block):
                if not self._decoded and image_format(piece) is None:
                    raise self._refused("and decodes to no image")
                self._decoded += len(piece)
                if self._decoded > self._max_bytes:
                    raise FetchError("fetch.too_large", f"the body decodes to over {self._max_bytes} bytes")
                yield piece
        except (zlib.error, brotli.error) as exc:
            raise self._refused("and cannot be decoded") from exc

    def finish(self) -> None:
        """Check that the coded body was whole. Raise ``fetch.encoded``."""
        if self._stream is not None and not (self._stream.ended and self._decoded):
            raise self._refused("and ends early")

    def _open(self, block: bytes | memoryview) -> "_Zlib | _Brotli":
        match self._codings:
            case ["gzip" | "x-gzip"]:
                return _Zlib(16 + zlib.MAX_WBITS)
            case ["deflate"]:
                # Some servers leave the header of zlib out (RFC 9110, 8.4.1.2).
                wrapped = block[0] & 0x0F == 8 and int.from_bytes(block[:2]) % 31 == 0
                return _Zlib(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
            case ["br"]:
                return _Brotli()
        raise self._refused("which is not known, and begins as no image")

    def _refused(self, why: str) -> FetchError:
        return FetchError("fetch.encoded", f"the body has the Content-Encoding {self._header!r}, {why}")


class _Zlib:
    """Decodes in bounded pieces; bytes behind the end are an error."""

    def __init__(self, wbits: int) -> None:
        self._zlib = zlib.decompressobj(wbits)

    @property
    def ended(self) -> bool:
        return self._zlib.eof

    def decode(self, block: bytes | memoryview) -> Iterator[bytes]:
        while True:
            if self._zlib.eof:
                raise zlib.error("bytes behind the end")
            piece = self._zlib.decompress(block, _PIECE)
            if piece:
                yield piece
            block = self._zlib.unconsumed_tail or self._zlib.unused_data
            if not block and (self._zlib.eof or len(piece) < _PIECE):
                return


class _Brotli:
    def __init__(self) -> None:
        self._brotli = brotli.Decompressor()

    @property
    def ended(self) -> bool:
        return bool(self._brotli.is_finished())

    def decode(self, block: bytes | memoryview) -> Iterator[bytes]:
        # The library may hold output back although it takes more input.
        while piece := self._brotli.process(block, output_buffer_limit=_PIECE):
            yield piece
            if self.ended:
                return
            block = b""
