"""The process that decodes images, one at a time and within limits. `verifier` starts it.

It reads requests from standard input and writes answers to standard output, as JSON lines. A codec that
crashes, fills the memory or never returns thus harms this process, and not the one that acknowledges
webhooks. It imports little, since each start of it is waited for.
"""

import contextlib
import ctypes
import functools
import json
import mmap
import os
import resource
import signal
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from receiver.core.errors import ImageError, ReceiverError, SpoolError
from receiver.verify.libvips import Libvips, VipsError
from receiver.verify.structure import JPEG_FRAMES, Header, scan

_BASE_MEMORY = 64 << 20
_THUMBNAIL_PIXEL = 24
"""Bytes that a pixel of a thumbnail takes while it is encoded."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_FIRST_TURNED = 5
"""Of EXIF's orientations, the first under which width and height change places."""
_APPLICATION_DATA, _COMMENT, _START_OF_SCAN = range(0xE0, 0xF0), 0xFE, 0xDA
_BLOCK, _LONGEST_SHRUNK = 8, 65_500 // 8 * 8
"""Pixels: the side of a JPEG's block, and the most whole blocks that libjpeg takes in a row."""
_PNG_SHOWN = (b"tRNS", b"eXIf")
"""Of a PNG's ancillary chunks, those that a thumbnail needs."""
_DAMAGE = {
    "premature end": "The image's coded data end before its last pixel.",
    "extraneous": "The image's coded data do not end with its last pixel.",
    "bad huffman code": "The image's coded data hold a code that does not exist.",
    "arithmetic code": "The image's coded data hold a code that does not exist.",
    "restart marker": "A restart marker is missing in the image's coded data.",
    "quantization table": "The image has no quantisation table.",
    "huffman table": "The image has no sound Huffman table.",
}
"""Damage to the pixels, by what the decoder's message contains. The message itself can name internals."""


class ExpectedSize(NamedTuple):
    """The size in pixels that the provider promised; ``None`` where it promised none."""

    width: int | None = None
    height: int | None = None


class Limits(NamedTuple):
    """What one image may cost.

    A larger image than ``max_pixels`` is refused before any pixel is decoded. ``max_seconds`` are for scan
    and decode together. An image that needs more than ``max_memory`` bytes to decode is refused; the default
    suffices for the largest possible WebP, 16,383 pixels square.
    """

    max_pixels: int
    max_seconds: float = 60
    max_memory: int = 6 << 30


def inspect(path: Path, expected: ExpectedSize, limits: Limits) -> Header:
    """Prove that a file is the whole promised image: scan its structure, then decode every pixel. Blocks.

    It cannot detect changed coded data that still decode to so many pixels. Raise `ImageError` where the file
    is not the promised image, `SpoolError` where it cannot be read.
    """
    try:
        with path.open("rb") as file:
            header = scan(file, lambda header: _admit(header, expected, limits))
            if header.orientation < _FIRST_TURNED:
                _admit(header, expected, limits, turned=False)
            if header.format != "png":  # every byte of its pixels was read in the scan
                _decode(file, header, limits)
    except FileNotFoundError as error:
        raise SpoolError("spool.lost", f"{path.name} is not in the spool any more.") from error
    except OSError as error:
        raise SpoolError("spool.disk", f"{path.name} cannot be read: {error.strerror}.") from error
    return header


def _admit(header: Header, expected: ExpectedSize, limits: Limits, *, turned: bool = True) -> None:
    """Refuse another size than the promised one; ``turned`` allows width and height to change places."""
    size = f"{header.width} × {header.height}"  # noqa: RUF001 - the sign of multiplication is meant
    width, height = header.width, header.height
    promised = (expected.width or width, expected.height or height)
    as_shown = (expected.width or height, expected.height or width)
    if (width, height) != promised and not (turned and (height, width) == as_shown):
        raise ImageError("image.wrong_size", f"The image is {size}, not {promised[0]} × {promised[1]}.")  # noqa: RUF001 - as above
    if header.width * header.height > limits.max_pixels:
        raise ImageError("image.too_many_pixels", f"{size} is more than {limits.max_pixels} pixels.")


def _memory(header: Header, file_size: int, side: int) -> int:
    """Return the bytes that a decode of this image, and a thumbnail of it, may take: measured, rounded up."""
    # Where the decoder holds all of it: of a JPEG the coefficients, 2 bytes for each of up to 4 components;
    # of a PNG the pixels; of a WebP several copies.
    per_pixel = 17 if header.format == "webp" else 8 if header.multiscan else 0
    pixels = header.width * header.height * per_pixel + side * side * _THUMBNAIL_PIXEL
    # Strips of a row, also of the steps to a thumbnail; the file itself, and its metadata.
    return _BASE_MEMORY + 3 * file_size + header.width * 8 * 512 + pixels


def thumbnail(path: Path, target: Path, side: int, limits: Limits) -> Header:
    """Write a WebP thumbnail, at most ``side`` pixels wide and high, upright and without metadata. Blocks.

    Raise `ImageError` where the image cannot be decoded within the limits, `SpoolError` where a file cannot
    be read or written.
    """
    try:
        with path.open("rb") as file:
            header = scan(file, lambda header: _admit(header, ExpectedSize(), limits))
            with _decoding(file, header, limits, side) as data:
                target.write_bytes(_libvips().thumbnail(data, header.format, side))
    except OSError as error:
        raise SpoolError("spool.disk", f"No small picture can be made: {error.strerror}.") from error
    return header


def _decode(file: BinaryIO, header: Header, limits: Limits) -> None:
    with _decoding(file, header, limits) as data:
        options, shrink, changed = "fail-on=warning", 1, 0
        if header.format == "jpeg":
            # A smaller picture takes the same coded data, but no transform of them: a third of the time.
            shrink = _BLOCK if max(header.width, header.height) <= _LONGEST_SHRUNK else 1
            # Once it sees no metadata, libjpeg warns of coded data alone.
            options += f",unlimited=true,shrink={shrink}"
            changed = _prepare_jpeg(data, shrink)
        size = _libvips().decode(data, header.format, options, changed)
    if size != (-(-header.width // shrink), -(-header.height // shrink)):
        raise ImageError("image.corrupt", "The decoder reads another size than the structure states.")


@functools.cache
def _libvips() -> Libvips:
    return Libvips()


def _prepare_jpeg(jpeg: mmap.mmap, shrink: int) -> int:
    """Change this process's own copy so that the decoder reads all coded data, and nothing else can fail.
    Return how many bytes from the first one may have changed.

    Application data are named comments. Width and height become multiples of ``shrink``, since libvips leaves
    out the remainder; it is coded as whole blocks.
    """
    at = 2
    while True:
        while jpeg[at + 1] == 0xFF:
            at += 1
        if jpeg[at + 1] == _START_OF_SCAN:
            return at
        if jpeg[at + 1] in _APPLICATION_DATA:
            jpeg[at + 1] = _COMMENT
        elif jpeg[at + 1] in JPEG_FRAMES:
            for side in (at + 5, at + 7):
                blocks = -(-int.from_bytes(jpeg[side : side + 2]) // shrink)
                jpeg[side : side + 2] = (blocks * shrink).to_bytes(2)
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])


def _hide_png_metadata(png: mmap.mmap) -> None:
    """Give ancillary chunks a type that is not known, in an own copy: texts can inflate to gigabytes."""
    at = 8
    while (kind := png[at + 4 : at + 8]) != b"IEND":
        end = at + 8 + int.from_bytes(png[at : at + 4])
        if kind[:1].islower() and kind not in _PNG_SHOWN:
            png[at + 4 : at + 8] = b"prVt"
            png[end : end + 4] = zlib.crc32(memoryview(png)[at + 4 : end]).to_bytes(4)
        at = end + 4


@contextlib.contextmanager
def _decoding(file: BinaryIO, header: Header, limits: Limits, side: int = 0) -> Iterator[mmap.mmap]:
    """Map a file within its memory limit, and translate the decoder's errors."""
    memory = _memory(header, os.fstat(file.fileno()).st_size, side)
    if memory > limits.max_memory:
        raise ImageError("image.undecodable", f"It takes {memory >> 20} MiB to decode this image.")
    _libvips()  # else the limit would count it
    try:
        with _memory_limit(memory):
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            if header.format == "png":
                _hide_png_metadata(data)
            yield data
    except (MemoryError, VipsError) as error:
        message = str(error).lower()
        if isinstance(error, MemoryError) or "memory" in message:
            raise ImageError("image.undecodable", "The image needs more memory than it is given.") from error
        found = (text for mark, text in _DAMAGE.items() if mark in message)
        raise ImageError("image.corrupt", next(found, "The image's pixels cannot be decoded.")) from error


@contextlib.contextmanager
def _memory_limit(extra: int) -> Iterator[None]:
    """Keep the process from growing by more than ``extra`` bytes of address space."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _address_space() + extra
    bounds = [bound for bound in (limit, soft, hard) if bound != resource.RLIM_INFINITY]
    # The hard limit stays where it is: a lowered one could not be raised again for a larger image.
    resource.setrlimit(resource.RLIMIT_AS, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    """Return the process's present address space in bytes, or an upper guess."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    except FileNotFoundError:
        return 1 << 30
    return pages * resource.getpagesize()


def main() -> None:
    _detach()
    _libvips()  # before the first image's time runs
    # Text that a library prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)

    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = _answer(request)
        print(json.dumps(answer), file=answers, flush=True)


def _answer(request: Mapping[str, Any]) -> dict[str, object]:
    path, limits = Path(request["path"]), Limits(**request["limits"])
    # The parent keeps the time; this alarm only ends a decode whose parent is gone.
    signal.setitimer(signal.ITIMER_REAL, limits.max_seconds + 5)
    try:
        if "thumbnail" in request:
            return {"header": thumbnail(path, Path(request["thumbnail"]), request["side"], limits)._asdict()}
        return {"header": inspect(path, ExpectedSize(**request["expected"]), limits)._asdict()}
    except ReceiverError as error:
        return {"reason": error.reason, "detail": error.detail[:500]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _detach() -> None:
    """Leave Ctrl-C and stop signals to the parent, which alone ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a customer's image
    if sys.platform == "linux":
        # Ends with the parent even during a decode; standard input's end is only noticed between images.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
