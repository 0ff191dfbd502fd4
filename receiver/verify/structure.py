"""Checks that a file is, from its first byte to its last, one whole JPEG, PNG or WebP image.

Decoders tolerate a missing last byte, a wrong height, or a ZIP appended to the image. So the structure is
checked here by the formats' own rules, strictly, in blocks: memory does not grow with the file. What stands
in metadata is not judged: images are served as images, so their text is never read as a page or a program.

The standards: ITU-T T.81 (JPEG), W3C PNG third edition, RFC 9649 (WebP).
"""

import os
import re
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from isal import igzip_lib, isal_zlib

from receiver.core.errors import ImageError
from receiver.verify.other_formats import refusal

_BLOCK = 96 * 1024
"""Bytes read at a time: below what `verifier` has the allocator get from the system each time."""

_INFLATED = 64 * 1024
"""Bytes inflated at a time: more outgrow the cache, and take longer."""

_HARMLESS = b"\0\t\n\v\f\r\x1a "
"""What tools leave behind an end mark: zeros, white space, the end mark of DOS."""


class Header(NamedTuple):
    """An image's own header; width and height are pixels, at least 1.

    ``multiscan``: the decoder holds all of it at once: a JPEG of several scans, an interlaced PNG.
    ``orientation`` is as EXIF states it, 1 to 8; from 5 on, width and height change places when it is shown.
    ``trailing`` are harmless bytes behind the end mark.
    """

    format: str
    width: int
    height: int
    multiscan: bool = False
    orientation: int = 1
    trailing: int = 0


OnHeader = Callable[[Header], object]
"""Called with the header before the first pixel is read; raises to refuse the image."""


def scan(file: BinaryIO, on_header: OnHeader = lambda _: None) -> Header:
    """Check the whole structure of a seekable image file; ``on_header`` can refuse it before any pixel is
    read.

    Raise `ImageError`: ``image.unknown_format``, ``image.truncated``, ``image.corrupt``,
    ``image.trailing_data``, ``image.animated`` or ``image.polyglot``; and whatever ``on_header`` raises.
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
        raise refusal(magic)
    trailing = _skip_harmless(source)
    if source.left:
        raise ImageError("image.trailing_data", f"{source.left} bytes stand behind the image's end mark.")
    _reject_whole_files(file)
    return header._replace(trailing=trailing)


def _skip_harmless(source: "_Source") -> int:
    """Return the number of harmless bytes that were skipped."""
    before = source.left
    while block := source.peek(_BLOCK):
        rest = len(block.lstrip(_HARMLESS))
        source.skip(len(block) - rest)
        if rest:
            break
    return before - source.left


_ZIP_END = b"PK\x05\x06"
_ZIP_REACH = 22 + 0xFFFF
"""Bytes before a file's end in which readers search for a ZIP's end record: it, and the longest comment."""
_PDF_REACH = 1024
"""Bytes from a file's start within which readers search for a PDF's first line."""


def _reject_whole_files(file: BinaryIO) -> None:
    """Refuse a PDF's start and a ZIP's end, which other programs find by their place alone.

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
    """A file read from front to back. Reading beyond its end is ``image.truncated``."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        file.seek(0)

    @property
    def left(self) -> int:
        return self._size - self._file.tell()

    @property
    def position(self) -> int:
        return self._file.tell()

    def peek(self, count: int) -> bytes:
        """Return up to ``count`` bytes, which stay unread."""
        data = self._file.read(count)
        self._file.seek(-len(data), os.SEEK_CUR)
        return data

    def take(self, count: int) -> bytes:
        """Return exactly ``count`` bytes; for small counts."""
        data = self._file.read(count)
        if len(data) < count:
            raise ImageError("image.truncated")
        return data

    def last(self, count: int) -> bytes:
        """Return the file's last bytes, which stay unread."""
        at = self._file.tell()
        self._file.seek(-count, os.SEEK_END)
        data = self._file.read(count)
        self._file.seek(at)
        return data

    def skip(self, count: int) -> None:
        if count > self.left:
            raise ImageError("image.truncated")
        self._file.seek(count, os.SEEK_CUR)

    def blocks(self, count: int) -> Iterator[bytes]:
        while count:
            block = self.take(min(count, _BLOCK))
            count -= len(block)
            yield block


def _corrupt(detail: str) -> ImageError:
    return ImageError("image.corrupt", detail)


def _sized(header: Header) -> Header:
    if not (header.width and header.height):
        raise _corrupt("The header's width or height is zero.")
    return header


# JPEG: segments up to the first scan, then scans with tables between them, then EOI.

_EOI, _SOS, _DRI, _DHT, _APP1, _APP2 = 0xD9, 0xDA, 0xDD, 0xC4, 0xE1, 0xE2
_SOI = b"\xff\xd8\xff"
_RESTARTS = range(0xD0, 0xD8)
JPEG_FRAMES = {0xC0: False, 0xC1: False, 0xC2: True, 0xC9: False, 0xCA: True}
"""Frame headers that can stand alone in a file, and whether they are progressive. Lossless, differential and
hierarchical ones are not used on the web."""
_ARITHMETIC = (0xC9, 0xCA)
_SEGMENTS = frozenset({*JPEG_FRAMES, _SOS, _DRI, _DHT, 0xCC, 0xDB, 0xFE, *range(0xE0, 0xF0)})
"""The last are tables, comments and application data: DHT, DAC, DQT, COM, APPn. DNL, a height that follows
the pixels, is not accepted: hardly any decoder supports it."""
_IN_SCAN_MARKER = re.compile(rb"\xff[^\x00\xff]")
"""In coded data FF 00 stands for a data byte FF, and FF FF is fill (T.81, B.1.1.2 and B.1.1.5)."""


_ZEROS = bytes(256)
"""A run of zeros that hardly a picture has, where it does not stand for empty blocks. Of a progressive JPEG
it can be a texture that repeats every 8 pixels. A decoder takes any."""
_ORIENTATION, _NUMBER_OF_IMAGES = 0x0112, 0xB001


def _scan_jpeg(source: _Source, on_header: OnHeader) -> Header:
    header, pictures = _scan_one_jpeg(source, on_header)
    _skip_mask(source, header)
    trailing = 0
    # A multi-picture file: a second view, a preview or a gain map, each a whole JPEG (CIPA DC-007).
    while pictures > 1 and source.left:
        trailing = _skip_harmless(source)
        if source.peek(len(_SOI)) != _SOI:
            break
        _scan_one_jpeg(source)
        trailing = 0
        pictures -= 1
    return header._replace(trailing=trailing)


def _scan_one_jpeg(source: _Source, on_header: OnHeader = lambda _: None) -> tuple[Header, int]:
    """Return the header and the number of pictures that the file states to hold."""
    source.skip(2)  # SOI
    frame: Header | None = None
    header: Header | None = None
    components = 0
    orientation = pictures = 1
    for marker, content in _jpeg_segments(source):
        if marker in JPEG_FRAMES:
            if frame:
                raise _corrupt("The JPEG has two frame headers.")
            frame, components = _read_frame(content, progressive=JPEG_FRAMES[marker])
        elif marker == _APP1 and content.startswith(b"Exif\0"):
            orientation = _tiff_number(content[6:], _ORIENTATION) or orientation
        elif marker == _APP2 and content.startswith(b"MPF\0"):
            pictures = _tiff_number(content[4:], _NUMBER_OF_IMAGES) or pictures
        elif marker == _SOS:
            if not frame:
                raise _corrupt("A JPEG scan comes before the frame header.")
            in_scan = _read_scan_header(content)
            if not header:
                multiscan = frame.multiscan or in_scan < components
                header = frame._replace(multiscan=multiscan, orientation=orientation)
                on_header(header)
    if not header:
        raise _corrupt("The JPEG holds no scan.")
    return header, pictures


def _tiff_number(data: bytes, tag: int) -> int:
    """Return what the first directory of a TIFF structure holds under a tag; 0 where it holds no number."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    try:
        if order:
            (at,) = struct.unpack_from(f"{order}I", data, 4)
            (count,) = struct.unpack_from(f"{order}H", data, at)
            for entry in range(at + 2, at + 2 + 12 * count, 12):
                name, kind = struct.unpack_from(f"{order}HH", data, entry)
                if name == tag:
                    return int(struct.unpack_from(order + ("I" if kind == 4 else "H"), data, entry + 8)[0])
    except struct.error:
        pass
    return 0


def _skip_mask(source: _Source, header: Header) -> None:
    """Skip the mask that GDAL writes behind the end mark: a deflated bit for each pixel, then its offset."""
    length = source.left - 4
    if length > 0 and source.last(4) == source.position.to_bytes(8, "little")[:4]:
        mask = _Inflated("JPEG's mask", (header.width + 7) // 8 * header.height)
        for block in source.blocks(length):
            mask.feed(block)
        mask.finish()
        source.skip(4)


def _jpeg_segments(source: _Source) -> Iterator[tuple[int, bytes]]:
    """Yield marker and content of each segment up to EOI, and skip the coded data of scans."""
    restart_interval = 0
    tables: dict[int, int] | None = {}
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
        elif marker in _ARITHMETIC:
            tables = None
        elif marker == _DHT and tables is not None:
            tables.update(_read_huffman_tables(content))
        elif marker == _SOS:
            zeros = tables is None or _may_hold_zeros(content, tables)
            _skip_coded_data(source, restart_interval, zeros=zeros)


def _read_huffman_tables(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield class and number of each table, and the symbol whose code is all zeros."""
    at = 0
    while at + 17 < len(content):
        yield content[at], content[at + 17]
        at += 17 + sum(content[at + 1 : at + 17])


def _may_hold_zeros(scan_header: bytes, tables: dict[int, int]) -> bool:
    """Tell whether a long run of zeros can be a picture, and refuse a scan whose tables are missing."""
    *components, start, end, approximation = scan_header[1:]
    numbers = components[1::2]
    refined = approximation >> 4
    needed = [number >> 4 for number in numbers if not start and not refined]
    needed += [0x10 | number & 0x0F for number in numbers if end]
    if not tables.keys() >= set(needed):
        raise _corrupt("A JPEG scan uses a table that is not there.")
    # The code of zeros must end blocks (T.81, F.1.2.2.1 and G.1.2.2); else it makes all blocks alike.
    # Bits that refine coefficients have no table.
    return bool(refined) or not any(tables[table] & 0x0F for table in needed if table & 0x10)


def _read_frame(content: bytes, *, progressive: bool) -> tuple[Header, int]:
    if len(content) < 6 or len(content) != 6 + 3 * content[5] or not content[5]:
        raise _corrupt("The JPEG frame header has a wrong length.")
    height, width, components = struct.unpack_from(">HHB", content, 1)
    return _sized(Header("jpeg", width, height, progressive)), components


def _read_scan_header(segment: bytes) -> int:
    if not segment or len(segment) != 4 + 2 * segment[0]:
        raise _corrupt("A JPEG scan header has a wrong length.")
    return segment[0]


def _next_marker(source: _Source) -> int:
    if source.take(1) != b"\xff":
        raise _corrupt("Bytes stand between two JPEG segments.")
    while (code := source.take(1)[0]) == 0xFF:
        pass
    return code


def _skip_coded_data(source: _Source, restart_interval: int, *, zeros: bool) -> None:
    """Skip to the marker that ends the scan; restart markers must count up from 0 to 7."""
    restarts = begin = 0
    while True:
        block = source.peek(_BLOCK)
        run = -1 if zeros else block.find(_ZEROS)
        at = begin
        while found := _IN_SCAN_MARKER.search(block, at):
            at = found.end()
            marker = block[at - 1]
            if marker not in _RESTARTS:
                _reject_zeros(run, at)
                source.skip(at - 2)
                return
            if not restart_interval or marker != _RESTARTS[restarts % 8]:
                raise _corrupt("A JPEG restart marker is missing, or stands where none may be.")
            restarts += 1
        if len(block) - begin < 2:
            raise ImageError("image.truncated")
        _reject_zeros(run, len(block))
        # What may begin a run of zeros is read again; only the last byte of it may begin a marker.
        begin = min(len(block), len(_ZEROS)) - 1
        source.skip(len(block) - 1 - begin)


def _reject_zeros(run: int, end: int) -> None:
    if 0 <= run < end:
        raise _corrupt("A long run of zeros stands in the JPEG's pixels, as where a part is missing.")


# PNG: chunks with a CRC each; the pixels are one zlib stream, spread over consecutive IDAT chunks.

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples per pixel, by colour type."""
_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
"""Bits per sample, by colour type."""
_INDEXED, _GREY = 3, (0, 4)
_LONGEST_PALETTE = 3 * 256
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, column step and row step of the seven interlace passes."""
_FILTERS = bytes(range(5))
"""The types of filter; the first byte of each row names its own."""


def _scan_png(source: _Source, on_header: OnHeader) -> Header:
    source.skip(len(_PNG_SIGNATURE))
    header, colour, rows = _read_ihdr(source)
    on_header(header)

    pixels = _Inflated("PNG", rows.size, rows.check)
    palette = begun = False
    orientation = 1
    previous = b"IHDR"
    for kind, blocks in _png_chunks(source):
        if kind == b"IDAT":
            if begun and previous != b"IDAT":
                raise _corrupt("The PNG's pixels do not stand in one piece.")
            if colour == _INDEXED and not palette:
                raise _corrupt("The PNG has no palette before its pixels.")
            begun = True
            for block in blocks:
                pixels.feed(block)
        else:
            content = next(blocks, b"")
            deque(blocks, maxlen=0)  # the checksum stands behind the last one
            if kind == b"PLTE" and not begun:
                _check_palette(content, colour, again=palette)
                palette = True
            elif kind == b"eXIf":
                orientation = _tiff_number(content, _ORIENTATION) or orientation
            elif kind == b"fdAT":  # a frame beside the picture itself, whatever acTL counts
                raise ImageError("image.animated")
        previous = kind
    pixels.finish()
    return header._replace(orientation=orientation)


def _read_ihdr(source: _Source) -> tuple[Header, int, "_Rows"]:
    """Return the header, the colour type, and the layout of the inflated rows."""
    if source.take(8) != b"\0\0\0\x0dIHDR":
        raise _corrupt("The PNG does not begin with its header.")
    data = b"".join(_checked(source, b"IHDR", source.blocks(13)))
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", data)
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlace > 1:
        raise _corrupt("The PNG header names a pixel layout that does not exist.")
    header = _sized(Header("png", width, height, multiscan=bool(interlace)))
    rows = _Rows(width, height, depth * _SAMPLES[colour], interlaced=bool(interlace))
    return header, colour, rows


def _check_palette(content: bytes, colour: int, *, again: bool) -> None:
    """Refuse a palette that decoders refuse; one that no pixel needs may have any length but none."""
    if colour == _INDEXED and (again or len(content) % 3 or len(content) > _LONGEST_PALETTE):
        raise _corrupt("The PNG's palette has a wrong length, or comes twice.")
    if not content and colour not in _GREY:
        raise _corrupt("The PNG's palette is empty.")


def _png_chunks(source: _Source) -> Iterator[tuple[bytes, Iterator[bytes]]]:
    """Yield type and content of each chunk from the second to IEND; read each content before the next."""
    kind = b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", source.take(8))
        if length >= 1 << 31 or not (kind.isascii() and kind.isalpha()):
            raise _corrupt("A PNG chunk has an impossible length or type.")
        if kind == b"IEND" and length:
            raise _corrupt("The PNG's end mark is not empty.")
        if kind not in (b"PLTE", b"IDAT", b"IEND") and kind[:1].isupper():  # lower case: may be ignored
            raise _corrupt("The PNG holds a critical chunk that is not known.")
        yield kind, _checked(source, kind, source.blocks(length))


def _checked(source: _Source, kind: bytes, data: Iterator[bytes]) -> Iterator[bytes]:
    """Yield a chunk's data in blocks; raise after the last one if the CRC does not match."""
    crc = isal_zlib.crc32(kind)
    for block in data:
        crc = isal_zlib.crc32(block, crc)
        yield block
    if crc != int.from_bytes(source.take(4)):
        raise _corrupt("A PNG chunk does not have the checksum that it states.")


class _Rows:
    """Checks the rows of a PNG as they are inflated. Any byte can be a pixel; only filters can be invalid.

    ``size`` is that of all rows in bytes, each with its filter's byte; empty passes have no rows.
    """

    def __init__(self, width: int, height: int, bits_per_pixel: int, *, interlaced: bool) -> None:
        self.size = self._read = 0
        self._passes: list[tuple[int, int, int]] = []  # begin, end and the length of a row
        for x, y, dx, dy in _ADAM7 if interlaced else [(0, 0, 1, 1)]:
            columns, rows = -((x - width) // dx), -((y - height) // dy)
            if columns > 0:
                length = 1 + (columns * bits_per_pixel + 7) // 8
                begin, self.size = self.size, self.size + rows * length
                self._passes.append((begin, self.size, length))

    def check(self, block: bytes) -> None:
        for begin, end, length in self._passes:
            first = max(begin - self._read, (begin - self._read) % length)
            if block[first : max(end - self._read, 0) : length].translate(None, _FILTERS):
                raise _corrupt("A row of the PNG has a filter that does not exist.")
        self._read += len(block)


class _Inflated:
    """Inflates a zlib stream to learn its length, which reveals a wrong height. No CRC does.

    ISA-L needs half of zlib's time. Unlike zlib it takes an incomplete Huffman code, which no coder writes.
    ``name`` is what is inflated, for messages, ``size`` its bytes, once inflated.
    """

    def __init__(self, name: str, size: int, on_data: Callable[[bytes], object] = lambda _: None) -> None:
        self._name = name
        self._missing = size
        self._on_data = on_data
        self._begun = False
        self._zlib = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_ZLIB)

    def feed(self, data: bytes) -> None:
        if data and not self._begun:
            # The window that the stream's first byte states (RFC 1950, 2.2), as decoders take it.
            self._begun, window = True, data[0] >> 4
            if window > 7:
                raise _corrupt(f"The {self._name}'s pixels cannot be inflated: their window is too large.")
            self._zlib = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_ZLIB, 8 + window)
        if data and not self._zlib.eof:
            self._inflate(data)
            while not (self._zlib.needs_input or self._zlib.eof):
                self._inflate(b"")
            data = self._zlib.unused_data
        if data:
            raise ImageError("image.trailing_data", f"Something stands behind the {self._name}'s pixels.")

    def finish(self) -> None:
        while not self._zlib.eof and self._inflate(b""):
            pass
        if self._missing or not self._zlib.eof:
            raise _corrupt(f"The {self._name} holds fewer rows than its header says.")

    def _inflate(self, data: bytes) -> int:
        """Return the number of inflated bytes, at most a block, since a bomb would fill the memory."""
        try:
            rows = self._zlib.decompress(data, _INFLATED)
        except igzip_lib.error as error:  # type: ignore[misc]  # declared as an instance
            raise _corrupt(f"The {self._name}'s pixels cannot be inflated.") from error
        self._missing -= len(rows)
        if self._missing < 0:
            raise _corrupt(f"The {self._name} holds more rows than its header says.")
        self._on_data(rows)
        return len(rows)


# WebP: a RIFF list of chunks, each padded to an even length.

_FRAME_HEADER = 16
"""Bytes of an ANMF chunk before the chunks of its frame."""


def _scan_webp(source: _Source, on_header: OnHeader) -> Header:
    canvas: Header | None = None
    frame: Header | None = None
    image: Header | None = None
    animated, orientation = False, 1
    for kind, head in _webp_chunks(source):
        if kind == b"VP8X":
            if canvas or image:
                raise _corrupt("The WebP's extended header does not come first.")
            canvas, animated = _read_vp8x(head)
            on_header(canvas)
        elif kind == b"ANMF":
            if image or frame or not animated or not canvas:
                raise ImageError("image.animated")
            frame = _read_frame_size(head, canvas)
        elif kind in (b"VP8 ", b"VP8L"):
            found = _read_vp8(head) if kind == b"VP8 " else _read_vp8l(head)
            _check_image(found, image, frame or canvas, framed=frame is not None or not animated)
            image = found
            on_header(image)
        elif not canvas and not image:
            raise _corrupt("The WebP does not begin with an image or an extended header.")
        elif kind == b"EXIF" and canvas:  # decoders ignore what stands behind a plain image
            orientation = _tiff_number(head.removeprefix(b"Exif\0\0"), _ORIENTATION) or orientation
    if not image:
        raise _corrupt("The WebP holds no image.")
    return (canvas or image)._replace(orientation=orientation)


def _check_image(image: Header, before: Header | None, place: Header | None, *, framed: bool) -> None:
    if before:
        raise _corrupt("The WebP holds two images.")
    if not framed:
        raise ImageError("image.animated")
    if (place or image) != image:
        raise _corrupt("The WebP's image does not fill its canvas.")


def _webp_chunks(source: _Source) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and beginning of each chunk, also within a frame, up to the length that the file states."""
    source.skip(4)
    size = int.from_bytes(source.take(4), "little")
    if size > source.left + size % 2:
        raise ImageError("image.truncated")
    behind = max(source.left - size, 0)
    source.skip(4)
    while source.left > behind:
        if source.left - behind < 8:
            raise _corrupt("The WebP ends within a chunk.")
        kind, length = struct.unpack("<4sI", source.take(8))
        if length > source.left - behind:
            raise _corrupt("A WebP chunk is longer than its file.")
        if kind == b"ANMF" and length >= _FRAME_HEADER:
            yield kind, source.take(_FRAME_HEADER)
            continue
        head = source.take(min(length, _BLOCK))
        source.skip(length - len(head))
        yield kind, head
        # Not every tool pads with zero, and some leave out the last chunk's byte.
        if length % 2 and source.left > behind:
            source.skip(1)


def _read_vp8x(data: bytes) -> tuple[Header, bool]:
    """Return the canvas, and whether it is animated."""
    if len(data) < 10:
        raise _corrupt("The WebP's extended header is too short.")
    width, height = int.from_bytes(data[4:7], "little"), int.from_bytes(data[7:10], "little")
    return Header("webp", 1 + width, 1 + height), bool(data[0] & 0x02)


def _read_frame_size(data: bytes, canvas: Header) -> Header:
    """Read a frame's place and size (RFC 9649, 2.7.1.1): it may be smaller than its canvas."""
    x, y, width, height = (int.from_bytes(data[at : at + 3], "little") for at in (0, 3, 6, 9))
    frame = Header("webp", 1 + width, 1 + height)
    if 2 * x + frame.width > canvas.width or 2 * y + frame.height > canvas.height:
        raise _corrupt("The WebP's frame lies outside of its canvas.")
    return frame


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
