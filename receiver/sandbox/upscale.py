"""Makes a picture larger. This is no AI and no super-resolution: Pillow resizes, and that is all.

Modes choose Pillow's filter, ``gan`` sharpens afterwards and ``tune_colors`` does nothing, since resizing
leaves the colours as they are.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageFilter

from receiver.sandbox.faults import ResultFault
from receiver.sandbox.validation import Submission

_FILTERS: Mapping[str, Image.Resampling] = {
    "artifact_removal": Image.Resampling.BICUBIC,
    "ironed_out": Image.Resampling.BILINEAR,
    "high_fidelity": Image.Resampling.LANCZOS,
}
_PILLOW_NAMES: Mapping[str, str] = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
# What Pillow raises for a damaged or unknown file; its plugins are not of one mind.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class UnusableSourceError(Exception):
    """The record's picture cannot be had or upscaled; the job is DONE all the same, with a bad record."""


@dataclass(frozen=True, slots=True)
class Upscaled:
    """A result on disk.

    Attributes:
        path: the file; its ending is the format: jpg, png or webp.
        width: of the source, in pixels.
        height: of the source, in pixels.
        upscaled_width: as promised to the submitter, in pixels.
        upscaled_height: as promised to the submitter, in pixels.
    """

    path: Path
    width: int
    height: int
    upscaled_width: int
    upscaled_height: int


def upscale(
    source: bytes, submission: Submission, stem: Path, *, max_pixels: int, fault: ResultFault | None
) -> Upscaled:
    """Resizes one picture into a file. It takes its time: call it in a thread.

    Args:
        source: a file of any format that Pillow reads; of several frames, the first counts.
        submission: factor, mode, model, format and quality.
        stem: the result's path without its ending, which is the format that it gets.
        max_pixels: of the result.
        fault: ``CORRUPT`` and ``WRONG_SIZE`` are made here, in the file itself.

    Raises:
        UnusableSourceError: it is no picture, or too large a one.
    """
    try:
        with Image.open(BytesIO(source)) as picture:
            width, height = picture.size
            size = (width * submission.factor, height * submission.factor)
            # Before decoding: a small file can hold a huge picture.
            if size[0] * size[1] > max_pixels:
                raise UnusableSourceError(f"the result would have more than {max_pixels} pixels")
            pixels = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    except _PILLOW_ERRORS as error:
        raise UnusableSourceError("the source is no image that can be read") from error

    large = pixels.resize(
        (width, height) if fault is ResultFault.WRONG_SIZE else size, _FILTERS[submission.mode]
    )
    if submission.model == "gan":
        large = large.filter(ImageFilter.UnsharpMask())

    ending = submission.format if submission.format != "auto" else _auto(large)
    path = stem.with_name(f"{stem.name}.{ending}")
    try:
        _save(large, path, ending, submission.quality)
    except _PILLOW_ERRORS as error:
        raise UnusableSourceError(f"the result does not fit into {ending}: {error}") from error
    if fault is ResultFault.CORRUPT:
        path.write_bytes(corrupted(path.read_bytes()))
    return Upscaled(path, width, height, *size)


def _auto(picture: Image.Image) -> str:
    """The page's rule: pictures with an alpha channel become png, all others jpg."""
    return "png" if picture.mode == "RGBA" else "jpg"


def _save(picture: Image.Image, path: Path, ending: str, quality: int) -> None:
    if ending == "jpg" and picture.mode == "RGBA":
        # JPEG has no alpha channel; white is what a page shows behind a picture.
        opaque = Image.new("RGB", picture.size, "white")
        opaque.paste(picture, mask=picture.getchannel("A"))
        picture = opaque
    if ending == "png":
        # Quick rather than small: zlib's default level is most of the whole job's time.
        picture.save(path, "PNG", compress_level=1)
    else:
        picture.save(path, _PILLOW_NAMES[ending], quality=quality)


def corrupted(data: bytes) -> bytes:
    """The same number of bytes, with a hole of zeros that no decoder of the three formats can pass over.

    A hole amid the pixels would not do: decoders of JPEG and lossy WebP paint something over it and are
    content. So it lies in the first table of a JPEG, the frame header of a WebP and, behind the IHDR, in the
    first IDAT of a PNG.
    """
    start = 33 if data.startswith(b"\x89PNG") else 20
    hole = len(data[start : start + 64])
    return data[:start] + bytes(hole) + data[start + hole :]
