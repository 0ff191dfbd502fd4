"""The process that decodes images, one at a time and within limits. `verifier` starts it.

It reads requests from standard input and writes answers to standard output, as JSON lines. A codec that
crashes, fills the memory or never returns thus harms this process, and not the one that acknowledges
webhooks. It imports little, since each start of it is waited for.
"""

import contextlib
import ctypes
import json
import math
import os
import resource
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from receiver.core.errors import ImageError, ReceiverError, SpoolError
from receiver.verify.structure import Header, scan

_BASE_MEMORY = 64 << 20
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_EXIF_ORIENTATION = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF."""


@dataclass(frozen=True, slots=True)
class ExpectedSize:
    """The size in pixels that the provider promised; ``None`` where it promised none."""

    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What one image may cost.

    Attributes:
        max_pixels: a larger image is refused before any pixel is decoded.
        max_seconds: for scan and decode together.
        max_memory: bytes; an image that needs more to decode is refused. The default suffices for the largest
            possible WebP, 16,383 pixels square.
    """

    max_pixels: int
    max_seconds: float = 60
    max_memory: int = 6 << 30


def inspect(path: Path, expected: ExpectedSize, limits: Limits) -> Header:
    """Prove that a file is the whole promised image: scan its structure, then decode every pixel. Blocks.

    It cannot detect damaged or cut coded data in a JPEG that still ends in an end mark: the decoder fills the
    gap without an error.

    Raises:
        ImageError: the file is not the promised image.
        SpoolError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            header = scan(file, lambda header: _admit(header, expected, limits))
            _decode(file, header, limits)
    except FileNotFoundError as error:
        raise SpoolError("spool.lost", f"{path.name} is not in the spool any more.") from error
    except OSError as error:
        raise SpoolError("spool.disk", f"{path.name} cannot be read: {error.strerror}.") from error
    return header


def _admit(header: Header, expected: ExpectedSize, limits: Limits) -> None:
    size = f"{header.width} × {header.height}"  # noqa: RUF001 - the sign of multiplication is meant
    promised = (expected.width or header.width, expected.height or header.height)
    if (header.width, header.height) != promised:
        raise ImageError("image.wrong_size", f"The image is {size}, not {promised[0]} × {promised[1]}.")  # noqa: RUF001 - as above
    if header.width * header.height > limits.max_pixels:
        raise ImageError("image.too_many_pixels", f"{size} is more than {limits.max_pixels} pixels.")


def _memory(header: Header, file_size: int) -> int:
    """Return the bytes that a decode of this image may take, measured and rounded up."""
    if header.format == "jpeg":
        # 4 bytes for each pixel at an eighth of each side. Several scans also need the whole image's
        # coefficients, 2 bytes for each of up to 4 components.
        per_pixel = 4 / 64 + (8 if header.multiscan else 0)
    else:
        per_pixel = {"png": 4, "webp": 17}[header.format]
    # Pillow holds metadata, and a whole WebP file, in memory, and more than once while it joins them.
    return _BASE_MEMORY + 3 * file_size + math.ceil(header.width * header.height * per_pixel)


def thumbnail(path: Path, target: Path, side: int, limits: Limits) -> Header:
    """Write a WebP thumbnail, at most ``side`` pixels wide and high, upright and without metadata. Blocks.

    Raises:
        ImageError: the image cannot be decoded within the limits.
        SpoolError: a file cannot be read or written.
    """
    try:
        with path.open("rb") as file:
            header = scan(file, lambda header: _admit(header, ExpectedSize(), limits))
            with _opened(file, header, _thumbnail_memory(header, file, side), limits) as image:
                _write_thumbnail(image, target, side)
    except OSError as error:
        raise SpoolError("spool.disk", f"No small picture can be made: {error.strerror}.") from error
    return header


def _thumbnail_memory(header: Header, file: BinaryIO, side: int) -> int:
    # A JPEG is decoded at the smallest eighth of its size that is large enough; the others whole, and once
    # more with an alpha channel.
    scale = 1
    if header.format == "jpeg":
        scale = next((s for s in (8, 4, 2) if min(header.width, header.height) >= 2 * s * side), 1)
    pixels = (header.width // scale + 1) * (header.height // scale + 1)
    return _memory(header, os.fstat(file.fileno()).st_size) + 8 * pixels


def _write_thumbnail(image: Image.Image, target: Path, side: int) -> None:
    image.draft("RGB", (2 * side, 2 * side))
    # Palettes and 16 bits cannot be averaged. Whole steps (reducing_gap) come first, as they are fast.
    small: Image.Image = image
    if image.mode.startswith("I"):
        small = image.point(lambda value: value * (1 / 256)).convert("L")
    clear = "A" in image.getbands() or "transparency" in image.info
    small = small.convert("RGBA" if clear else "RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    small.info.clear()
    orientation = image.getexif().get(_EXIF_ORIENTATION)
    if isinstance(orientation, int) and orientation in _TRANSPOSITIONS:
        small = small.transpose(_TRANSPOSITIONS[orientation])
    small.save(target, "WEBP", quality=75, method=4)


def _decode(file: BinaryIO, header: Header, limits: Limits) -> None:
    with _opened(file, header, _memory(header, os.fstat(file.fileno()).st_size), limits) as image:
        size = image.size
        # Only JPEG knows drafts: an eighth of each side gives the same verdict in a quarter of the time.
        image.draft(image.mode, (1, 1))
        image.load()
    if size != (header.width, header.height):
        raise ImageError("image.corrupt", "The decoder reads another size than the structure states.")


@contextlib.contextmanager
def _opened(file: BinaryIO, header: Header, memory: int, limits: Limits) -> Iterator[Image.Image]:
    """Open an image within its memory limit, and translate the codec's errors."""
    if memory > limits.max_memory:
        raise ImageError("image.undecodable", f"It takes {memory >> 20} MiB to decode this image.")
    file.seek(0)
    try:
        # Pillow warns about odd metadata, and about sizes that were admitted above.
        with (
            _memory_limit(memory),
            warnings.catch_warnings(action="ignore"),
            Image.open(file, formats=(header.format,)) as image,
        ):
            yield image
    except MemoryError as error:
        raise ImageError("image.undecodable", "The image needs more memory than it is given.") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the image's
        # Pillow's plugins let through their parsers' errors: ValueError, SyntaxError, KeyError.
        raise ImageError("image.corrupt", f"The image cannot be decoded: {error}.") from error


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
    """Answer requests until standard input ends."""
    _detach()
    Image.MAX_IMAGE_PIXELS = None  # our own limit applies before the decoder
    Image.init()  # loads the plugins before the first image's time runs
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
            return {"header": asdict(thumbnail(path, Path(request["thumbnail"]), request["side"], limits))}
        return {"header": asdict(inspect(path, ExpectedSize(**request["expected"]), limits))}
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
