"""Checks that a file is, from its first byte to its last, one whole JPEG, PNG or WebP image.

Decoders tolerate a missing last byte, a wrong height, or a ZIP appended to the image. So the structure is
checked here by the formats' own rules, strictly, in blocks: memory does not grow with the file. Everything
but the pixels is searched for the marks of other file types.

The standards: ITU-T T.81 (JPEG), W3C PNG third edition, RFC 9649 (WebP).
"""

import os
import re
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from receiver.core.errors import ImageError

_BLOCK = 256 * 1024

_FOREIGN = re.compile(
    rb"(?i:<(?:script|html|!doctype|svg|iframe|\?php)"  # wherever browsers and PHP look for a beginning
    # Elements that run a script without one, in a file that a browser opens as a page.
    rb"|<(?:img|body|object|embed|video|audio|style|link|meta|math|form|input|base|details)[\s/>])"
    # The short tags of PHP, ASP and JSP; so short that a text must follow.
    rb"|<!--#|<(?:\?[=\s]|%)[\t\n\r -~]{10}"
    rb"|%PDF-|PK(?:\x01\x02|\x03\x04|\x05\x06)|Rar!\x1a\x07|7z\xbc\xaf\x27\x1c|ustar(?:\x0000|  \x00)"
    rb"|__HALT_COMPILER"
)
"""Marks that let another program read an image as a file of its own type: pages and scripts, PDF, the records
of ZIP (so of JAR and office formats), RAR, 7z, tar, PHAR. The raw bytes are searched, as such programs read
them, without decompressing texts. XMP is XML, but has none of these marks. In coded pixels the short marks
occur by chance, so `_reject_whole_files` checks those."""
_LONGEST_FOREIGN = len(b"__HALT_COMPILER")


@dataclass(frozen=True, slots=True)
class Header:
    """An image's own header.

    Attributes:
        format: ``jpeg``, ``png`` or ``webp``.
        width: pixels, at least 1.
        height: pixels, at least 1.
        multiscan: whether a JPEG has several scans, so that its decoder holds all coefficients at once.
    """

    format: str
    width: int
    height: int
    multiscan: bool = False


OnHeader = Callable[[Header], object]
"""Called with the header before the first pixel is read; raises to refuse the image."""


def scan(file: BinaryIO, on_header: OnHeader = lambda _: None) -> Header:
    """Check the whole structure of an image file.

    Args:
        file: seekable; read from its start.
        on_header: can refuse a decompression bomb before any pixel is read.

    Raises:
        ImageError: ``image.unknown_format``, ``image.truncated``, ``image.corrupt``, ``image.trailing_data``,
            ``image.animated`` or ``image.polyglot``; and whatever ``on_header`` raises.
    """
    source = _Source(file)
    magic = source.peek(12)
    if magic.startswith(b"\xff\xd8\xff"):
        header = _scan_jpeg(source, on_header)
    elif magic.startswith(_PNG_SIGNATURE):
        header = _scan_png(source, on_header)
    elif magic.startswith(b"RIFF") and magic[8:] == b"WEBP":
        header = _scan_webp(source, on_header)
    else:
        raise ImageError("image.unknown_format")
    if source.left:
        raise ImageError("image.trailing_data", f"{source.left} bytes stand behind the image's end mark.")
    _reject_whole_files(file)
    return header


_ZIP_END = b"PK\x05\x06"
_ZIP_REACH = 22 + 0xFFFF
"""Bytes before a file's end in which readers search for a ZIP's end record: it, and the longest comment."""
_PDF_REACH = 1024
"""Bytes from a file's start within which readers search for a PDF's first line."""


def _reject_whole_files(file: BinaryIO) -> None:
    """Refuse a PDF's start and a ZIP's end, which other programs find by their place even among the pixels.

    Decoders ignore what follows the last pixel within a scan or a chunk, and stored pixels can be any bytes.
    """
    file.seek(0)
    if b"%PDF-" in file.read(_PDF_REACH):
        raise ImageError("image.polyglot", "The file begins as readers of PDF let one begin.")
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _ZIP_REACH, 0))
    tail = file.read()
    at = tail.find(_ZIP_END)
    while at >= 0:
        record = tail[at : at + 22]
        # The mark can stand in pixels by chance, but not with a first disk behind it or a directory before.
        if record[4:8] == bytes(4) or _is_directory(file, size - len(tail) + at, record):
            raise ImageError("image.polyglot", "The file ends as a ZIP does.")
        at = tail.find(_ZIP_END, at + 1)


def _is_directory(file: BinaryIO, at: int, record: bytes) -> bool:
    """Whether a ZIP's directory, of the size that its end record states, ends where that record begins."""
    length = int.from_bytes(record[12:16], "little")
    if len(record) < 16 or length > at:
        return False
    file.seek(at - length)
    return file.read(4) == b"PK\x01\x02"


class _Source:
    """A file read from front to back. Reading beyond its end is ``image.truncated``.

    `take` and `blocks` search for `_FOREIGN`, in lengths and types too: ``<`` can be the length of a chunk of
    type ``html``. `peek`, `skip` and `pixels` do not.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self._searched = b""
        file.seek(0)

    @property
    def left(self) -> int:
        return self._size - self._file.tell()

    def peek(self, count: int) -> bytes:
        """Return up to ``count`` bytes, which stay unread."""
        data = self._file.read(count)
        self._file.seek(-len(data), os.SEEK_CUR)
        return data

    def take(self, count: int) -> bytes:
        """Return exactly ``count`` bytes; for small counts."""
        data = self._exactly(count)
        # With the end of the bytes before, which may be the first half of a mark.
        seen = self._searched + data
        if found := _FOREIGN.search(seen):
            raise ImageError("image.polyglot", f"Outside of the pixels stands {found[0]!r}.")
        self._searched = seen[1 - _LONGEST_FOREIGN :]
        return data

    def skip(self, count: int) -> None:
        if count > self.left:
            raise ImageError("image.truncated")
        self._file.seek(count, os.SEEK_CUR)
        self._searched = b""

    def blocks(self, count: int) -> Iterator[bytes]:
        """Yield the next ``count`` bytes, in blocks."""
        return _in_blocks(self.take, count)

    def pixels(self, count: int) -> Iterator[bytes]:
        """Yield the next ``count`` bytes, in blocks, not searched."""
        self._searched = b""
        return _in_blocks(self._exactly, count)

    def _exactly(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise ImageError("image.truncated")
        return data


def _in_blocks(read: Callable[[int], bytes], count: int) -> Iterator[bytes]:
    while count:
        block = read(min(count, _BLOCK))
        count -= len(block)
        yield block


def _corrupt(detail: str) -> ImageError:
    return ImageError("image.corrupt", detail)


def _sized(header: Header) -> Header:
    if not (header.width and header.height):
        raise _corrupt("The header's width or height is zero.")
    return header


# JPEG: segments up to the first scan, then scans with tables between them, then EOI.

_EOI, _SOS, _DRI = 0xD9, 0xDA, 0xDD
_RESTARTS = range(0xD0, 0xD8)
_FRAMES = {0xC0: False, 0xC1: False, 0xC2: True, 0xC9: False, 0xCA: True}
"""Frame headers that can stand alone in a file, and whether they are progressive. Lossless, differential and
hierarchical ones are not used on the web."""
_SEGMENTS = frozenset({*_FRAMES, _SOS, _DRI, 0xC4, 0xCC, 0xDB, 0xFE, *range(0xE0, 0xF0)})
"""The last are tables, comments and application data: DHT, DAC, DQT, COM, APPn. DNL, a height that follows
the pixels, is not accepted: hardly any decoder supports it."""
_IN_SCAN_MARKER = re.compile(rb"\xff[^\x00\xff]")
"""In coded data FF 00 stands for a data byte FF, and FF FF is fill (T.81, B.1.1.2 and B.1.1.5)."""


def _scan_jpeg(source: _Source, on_header: OnHeader) -> Header:
    source.skip(2)  # SOI
    frame: Header | None = None
    header: Header | None = None
    components = 0
    for marker, content in _jpeg_segments(source):
        if marker in _FRAMES:
            if frame:
                raise _corrupt("The JPEG has two frame headers.")
            frame, components = _read_frame(content, progressive=_FRAMES[marker])
        elif marker == _SOS:
            if not frame:
                raise _corrupt("A JPEG scan comes before the frame header.")
            in_scan = _read_scan_header(content)
            if not header:
                header = replace(frame, multiscan=frame.multiscan or in_scan < components)
                on_header(header)
    if not header:
        raise _corrupt("The JPEG holds no scan.")
    return header


def _jpeg_segments(source: _Source) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of each segment up to EOI, and skip the coded data of scans."""
    restart_interval = 0
    while (marker := _next_marker(source)) != _EOI:
        if marker not in _SEGMENTS:
            raise _corrupt(f"JPEG marker FF{marker:02X} has no place here.")
        length = int.from_bytes(source.take(2))
        if length < 2:
            raise _corrupt("A JPEG segment is shorter than its own length.")
        content = source.take(length - 2)
        yield marker, content
        if marker == _DRI:
            restart_interval = int.from_bytes(content)
        elif marker == _SOS:
            _skip_coded_data(source, restart_interval)


def _read_frame(content: bytes, *, progressive: bool) -> tuple[Header, int]:
    """Return the header and the number of components."""
    if len(content) < 6 or len(content) != 6 + 3 * content[5] or not content[5]:
        raise _corrupt("The JPEG frame header has a wrong length.")
    height, width, components = struct.unpack_from(">HHB", content, 1)
    return _sized(Header("jpeg", width, height, progressive)), components


def _read_scan_header(segment: bytes) -> int:
    """Return the number of components in the scan."""
    if not segment or len(segment) != 4 + 2 * segment[0]:
        raise _corrupt("A JPEG scan header has a wrong length.")
    return segment[0]


def _next_marker(source: _Source) -> int:
    if source.take(1) != b"\xff":
        raise _corrupt("Bytes stand between two JPEG segments.")
    while (code := source.take(1)[0]) == 0xFF:
        pass
    return code


def _skip_coded_data(source: _Source, restart_interval: int) -> None:
    """Skip to the marker that ends the scan; restart markers must count up from 0 to 7."""
    restarts = 0
    while True:
        block = source.peek(_BLOCK)
        at = 0
        while found := _IN_SCAN_MARKER.search(block, at):
            at = found.end()
            marker = block[at - 1]
            if marker not in _RESTARTS:
                source.skip(at - 2)
                return
            if not restart_interval or marker != _RESTARTS[restarts % 8]:
                raise _corrupt("A JPEG restart marker is missing, or stands where none may be.")
            restarts += 1
        if len(block) < 2:
            raise ImageError("image.truncated")
        # The last byte is read again, as it may be the first half of a marker.
        source.skip(len(block) - 1)


# PNG: chunks with a CRC each; the pixels are one zlib stream, spread over consecutive IDAT chunks.

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples per pixel, by colour type."""
_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
"""Bits per sample, by colour type."""
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, column step and row step of the seven interlace passes."""
_APNG = frozenset({b"acTL", b"fcTL", b"fdAT"})


def _scan_png(source: _Source, on_header: OnHeader) -> Header:
    source.skip(len(_PNG_SIGNATURE))
    header, palette_needed, data_size = _read_ihdr(source)
    on_header(header)

    pixels = _Inflated(data_size)
    palette = begun = False
    previous = b"IHDR"
    for kind, blocks in _png_chunks(source):
        if kind == b"IDAT":
            if begun and previous != b"IDAT":
                raise _corrupt("The PNG's pixels do not stand in one piece.")
            if palette_needed and not palette:
                raise _corrupt("The PNG has no palette before its pixels.")
            begun = True
            for block in blocks:
                pixels.feed(block)
        else:
            palette = palette or kind == b"PLTE"
            deque(blocks, maxlen=0)
        previous = kind
    pixels.finish()
    return header


def _read_ihdr(source: _Source) -> tuple[Header, bool, int]:
    """Return the header, whether a palette must follow, and the uncompressed size of all rows in bytes."""
    if source.take(8) != b"\0\0\0\x0dIHDR":
        raise _corrupt("The PNG does not begin with its header.")
    data = b"".join(_checked(source, b"IHDR", source.blocks(13)))
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", data)
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise _corrupt("The PNG header names a pixel layout that does not exist.")
    header = _sized(Header("png", width, height))
    size = _png_data_size(width, height, depth * _SAMPLES[colour], interlaced=bool(interlace))
    return header, colour == 3, size


def _png_chunks(source: _Source) -> Iterator[tuple[bytes, Iterator[bytes]]]:
    """Yield type and content of each chunk from the second to IEND; read each content before the next."""
    kind = b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", source.take(8))
        if length >= 1 << 31 or not (kind.isascii() and kind.isalpha()):
            raise _corrupt("A PNG chunk has an impossible length or type.")
        if kind in _APNG:
            raise ImageError("image.animated")
        if kind == b"IEND" and length:
            raise _corrupt("The PNG's end mark is not empty.")
        if kind not in (b"PLTE", b"IDAT", b"IEND") and kind[:1].isupper():  # lower case: may be ignored
            raise _corrupt("The PNG holds a critical chunk that is not known.")
        data = source.pixels(length) if kind == b"IDAT" else source.blocks(length)
        yield kind, _checked(source, kind, data)


def _checked(source: _Source, kind: bytes, data: Iterator[bytes]) -> Iterator[bytes]:
    """Yield a chunk's data in blocks; raise after the last one if the CRC does not match."""
    crc = zlib.crc32(kind)
    for block in data:
        crc = zlib.crc32(block, crc)
        yield block
    if crc != int.from_bytes(source.take(4)):
        raise _corrupt("A PNG chunk does not have the checksum that it states.")


def _png_data_size(width: int, height: int, bits_per_pixel: int, *, interlaced: bool) -> int:
    """Return the uncompressed size of all rows, each with its filter byte; empty passes have no rows."""
    passes = [(width, height)]
    if interlaced:
        passes = [(-((x - width) // dx), -((y - height) // dy)) for x, y, dx, dy in _ADAM7]
    return sum(rows * (1 + (columns * bits_per_pixel + 7) // 8) for columns, rows in passes if columns > 0)


class _Inflated:
    """Inflates a zlib stream to learn its length, which reveals a wrong height. No CRC does."""

    def __init__(self, size: int) -> None:
        self._missing = size
        self._zlib = zlib.decompressobj()

    def feed(self, data: bytes) -> None:
        while data:
            if self._zlib.eof:
                raise ImageError("image.trailing_data", "Something stands behind the PNG's pixels.")
            self._inflate(data)
            data = self._zlib.unconsumed_tail or self._zlib.unused_data

    def finish(self) -> None:
        """Check that the stream has ended."""
        while not self._zlib.eof and self._inflate(b""):
            pass
        if self._missing or not self._zlib.eof:
            raise _corrupt("The PNG holds fewer rows than its header says.")

    def _inflate(self, data: bytes) -> int:
        """Return the number of inflated bytes, at most a block, since a bomb would fill the memory."""
        try:
            rows = self._zlib.decompress(data, _BLOCK)
        except zlib.error as error:
            raise _corrupt(f"The PNG's pixels cannot be inflated: {error}.") from error
        self._missing -= len(rows)
        if self._missing < 0:
            raise _corrupt("The PNG holds more rows than its header says.")
        return len(rows)


# WebP: a RIFF list of chunks, each padded to an even length.

_WEBP_PIXELS = frozenset({b"VP8 ", b"VP8L", b"ALPH"})


def _scan_webp(source: _Source, on_header: OnHeader) -> Header:
    canvas: Header | None = None
    image: Header | None = None
    for kind, head in _webp_chunks(source):
        if image and not canvas:
            raise ImageError("image.trailing_data", "Something stands behind the WebP's only chunk.")
        if kind == b"VP8X":
            if canvas:
                raise _corrupt("The WebP holds two extended headers.")
            canvas = _read_vp8x(head)
            on_header(canvas)
        elif kind in (b"VP8 ", b"VP8L"):
            if image:
                raise _corrupt("The WebP holds two images.")
            image = _read_vp8(head) if kind == b"VP8 " else _read_vp8l(head)
            if canvas and image != canvas:
                raise _corrupt("The WebP's image does not fill its canvas.")
            on_header(image)
        elif not canvas:
            raise _corrupt("The WebP does not begin with an image or an extended header.")
    if not image:
        raise _corrupt("The WebP holds no image.")
    return image


def _webp_chunks(source: _Source) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and first bytes of each chunk, to the end that the file's header states."""
    source.skip(4)
    size = int.from_bytes(source.take(4), "little")
    if size % 2:
        raise _corrupt("The WebP states an odd length.")
    if size > source.left:
        raise ImageError("image.truncated")
    behind = source.left - size
    source.skip(4)
    while source.left > behind:
        if source.left - behind < 8:
            raise _corrupt("The WebP ends within a chunk.")
        kind, length = struct.unpack("<4sI", source.take(8))
        if length + length % 2 > source.left - behind:
            raise _corrupt("A WebP chunk is longer than its file.")
        if kind in (b"ANIM", b"ANMF"):
            raise ImageError("image.animated")
        head = source.take(min(length, 10))
        yield kind, head
        if kind in _WEBP_PIXELS:
            source.skip(length - len(head))
        else:
            deque(source.blocks(length - len(head)), maxlen=0)
        if length % 2 and source.take(1) != b"\0":
            raise _corrupt("The WebP pads a chunk with something else than zero.")


def _read_vp8x(data: bytes) -> Header:
    if len(data) < 10:
        raise _corrupt("The WebP's extended header is too short.")
    if data[0] & 0x02:
        raise ImageError("image.animated")
    return Header("webp", 1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little"))


def _read_vp8(data: bytes) -> Header:
    """Read a lossy frame's header (RFC 6386, 9.1): a key frame's tag, its start code, 14 bits per side."""
    if len(data) < 10 or data[0] & 1 or data[3:6] != b"\x9d\x01\x2a":
        raise _corrupt("The WebP's lossy image has no frame header.")
    width, height = struct.unpack_from("<HH", data, 6)
    return _sized(Header("webp", width & 0x3FFF, height & 0x3FFF))


def _read_vp8l(data: bytes) -> Header:
    """Read a lossless image's header (RFC 9649, 3.4): a signature, then 14 bits per side less one."""
    if len(data) < 5 or data[0] != 0x2F or data[4] >> 5:
        raise _corrupt("The WebP's lossless image has no header.")
    bits = int.from_bytes(data[1:5], "little")
    return Header("webp", 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
