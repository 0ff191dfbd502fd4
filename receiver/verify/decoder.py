"""The process that decodes images: started by ``verify.py``, one image at a time, under limits.

It speaks JSON lines: a request on standard input, its answer on standard output. What a codec may do to a
process (crash it, fill its memory, never return) thus happens here, and not where webhooks are acknowledged.
It imports little, since every start of it is waited for.
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


@dataclass(frozen=True, slots=True)
class ExpectedSize:
    """What the provider promised of an image; ``None`` where it promised nothing.

    Attributes:
        width: pixels.
        height: pixels.
    """

    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What one image may cost.

    Attributes:
        max_pixels: more are refused before any is decoded.
        max_seconds: for scan and decode together.
        max_memory: bytes; an image whose size and format need more to decode is refused. The default is room
            for the largest WebP that can be, 16,383 pixels square.
    """

    max_pixels: int
    max_seconds: float = 60
    max_memory: int = 6 << 30


def inspect(path: Path, promise: ExpectedSize, limits: Limits) -> Header:
    """Proves that a file is the promised image, whole: scans its structure, then decodes every pixel. Blocks.

    What it cannot see: coded data of a JPEG that is damaged or cut and still ends in an end mark. The decoder
    fills what is missing and says nothing.

    Raises:
        ImageError: the file is not the promised image.
        SpoolError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            header = scan(file, lambda found: _admit(found, promise, limits))
            _decode(file, header, limits)
    except FileNotFoundError as error:
        raise SpoolError("spool.lost", f"{path.name} is not in the spool any more.") from error
    except OSError as error:
        raise SpoolError("spool.disk", f"{path.name} cannot be read: {error.strerror}.") from error
    return header


def _admit(header: Header, promise: ExpectedSize, limits: Limits) -> None:
    size = f"{header.width} × {header.height}"  # noqa: RUF001 - the sign of multiplication is meant
    promised = (promise.width or header.width, promise.height or header.height)
    if (header.width, header.height) != promised:
        raise ImageError("image.wrong_size", f"The image is {size}, not {promised[0]} × {promised[1]}.")  # noqa: RUF001 - as above
    if header.width * header.height > limits.max_pixels:
        raise ImageError("image.too_many_pixels", f"{size} is more than {limits.max_pixels} pixels.")


_BASE_MEMORY = 64 << 20


def _memory(header: Header, file_size: int) -> int:
    """Bytes that a decode of this image may take, measured and rounded up."""
    if header.format == "jpeg":
        # At an eighth of each side, 4 bytes for each of its pixels; all scans but a single one need the
        # whole image's coefficients besides, 2 bytes for each of up to 4 components.
        per_pixel = 4 / 64 + (8 if header.multiscan else 0)
    else:
        per_pixel = {"png": 4, "webp": 17}[header.format]
    # Metadata, and a WebP file as a whole, are held in memory by Pillow, while being joined more than once.
    return _BASE_MEMORY + 3 * file_size + math.ceil(header.width * header.height * per_pixel)


def thumbnail(path: Path, target: Path, side: int, limits: Limits) -> Header:
    """Writes a small picture of an image, as WebP, at most ``side`` pixels wide and high. Blocks.

    It carries the pixels alone, as they are to be seen: no metadata, turned as the image says.

    Raises:
        ImageError: the image cannot be decoded within the limits.
        SpoolError: a file cannot be read or written.
    """
    try:
        with path.open("rb") as file:
            header = scan(file, lambda found: _admit(found, ExpectedSize(), limits))
            with _opened(file, header, _memory_to_shrink(header, file, side), limits) as image:
                _write_small(image, target, side)
    except OSError as error:
        raise SpoolError("spool.disk", f"No small picture can be made: {error.strerror}.") from error
    return header


def _memory_to_shrink(header: Header, file: BinaryIO, side: int) -> int:
    # A JPEG is decoded at the smallest eighth of its size that is large enough; the rest whole, and once more
    # with an alpha channel.
    scale = 1
    if header.format == "jpeg":
        scale = next((s for s in (8, 4, 2) if min(header.width, header.height) >= 2 * s * side), 1)
    pixels = (header.width // scale + 1) * (header.height // scale + 1)
    return _memory(header, os.fstat(file.fileno()).st_size) + 8 * pixels


def _write_small(image: Image.Image, target: Path, side: int) -> None:
    image.draft("RGB", (2 * side, 2 * side))
    # Halved in whole steps first, which is fast; palettes and 16 bits cannot be averaged as they are.
    small: Image.Image = image
    if image.mode.startswith("I"):
        small = image.point(lambda value: value * (1 / 256)).convert("L")
    clear = "A" in image.getbands() or "transparency" in image.info
    small = small.convert("RGBA" if clear else "RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    small.info.clear()
    small = _turned(small, image.getexif().get(_EXIF_ORIENTATION))
    small.save(target, "WEBP", quality=75, method=4)


def _turned(image: Image.Image, orientation: object) -> Image.Image:
    how = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    turn = how.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


_EXIF_ORIENTATION = 0x0112


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
    """The image, within the memory that it may take; what a codec stumbles over inside is translated."""
    if memory > limits.max_memory:
        raise ImageError("image.undecodable", f"It takes {memory >> 20} MiB to decode this image.")
    file.seek(0)
    try:
        # Pillow warns of oddities in metadata, and of sizes that were admitted above: neither is a verdict.
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
        # Pillow's plugins let through whatever their parsers stumble over: ValueError, SyntaxError, KeyError.
        raise ImageError("image.corrupt", f"The image cannot be decoded: {error}.") from error


@contextlib.contextmanager
def _memory_limit(extra: int) -> Iterator[None]:
    """Within it the process cannot grow by more than ``extra`` bytes of address space."""
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
    """Bytes of address space that the process has now; an upper guess where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    except FileNotFoundError:
        return 1 << 30
    return pages * resource.getpagesize()


def main() -> None:
    """Answers requests until standard input ends."""
    _stand_alone()
    # The limit on pixels is ours and stands before the decoder; Pillow's own is a module's variable.
    Image.MAX_IMAGE_PIXELS = None
    Image.init()  # loads the plugins now, not with the first image's time running
    # Whatever a library prints must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)

    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = _answer(request)
        print(json.dumps(answer), file=answers, flush=True)


def _answer(request: Mapping[str, Any]) -> dict[str, object]:
    path, limits = Path(request["path"]), Limits(**request["limits"])
    # The parent keeps the time; this alarm only ends a decode whose parent is not there any more.
    signal.setitimer(signal.ITIMER_REAL, limits.max_seconds + 5)
    try:
        if "small" in request:
            return {"header": asdict(thumbnail(path, Path(request["small"]), request["side"], limits))}
        return {"header": asdict(inspect(path, ExpectedSize(**request["promise"]), limits))}
    except ReceiverError as error:
        return {"reason": error.reason, "detail": error.detail[:500]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _stand_alone() -> None:
    """Only the parent ends this process: neither a Ctrl-C nor a stop, which are the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a customer's image
    if sys.platform == "linux":
        # Ends with the parent even in mid-decode; standard input's end is only seen between images.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_PR_SET_PDEATHSIG = 1
"""From ``linux/prctl.h``."""


if __name__ == "__main__":
    main()
