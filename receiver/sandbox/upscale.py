"""Resizes pictures with Pillow, without AI.

The mode selects Pillow's filter, ``gan`` sharpens afterwards, and ``tune_colors`` has no effect, since
resizing does not change the colours.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageFilter

from receiver.sandbox.faults import Plan, ResultFault
from receiver.sandbox.validation import Submission

_FILTERS: Mapping[str, Image.Resampling] = {
    "artifact_removal": Image.Resampling.BICUBIC,
    "ironed_out": Image.Resampling.BILINEAR,
    "high_fidelity": Image.Resampling.LANCZOS,
}
_PILLOW_NAMES: Mapping[str, str] = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
# What Pillow's plugins raise for a damaged or unknown file.
_PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)


class UnusableSourceError(Exception):
    """The source cannot be fetched or upscaled; the job is DONE all the same, with a bad record."""


@dataclass(frozen=True, slots=True)
class Upscaled:
    """A result on disk.

    Attributes:
        path: its suffix is the format: jpg, png or webp.
        width, height: of the source, in pixels.
        upscaled_width, upscaled_height: as in the completion, in pixels.
    """

    path: Path
    width: int
    height: int
    upscaled_width: int
    upscaled_height: int


def upscale(source: bytes, submission: Submission, stem: Path, *, max_pixels: int, plan: Plan) -> Upscaled:
    """Resize a picture into a file. It takes long: call it in a thread.

    Of several frames, the first is taken. ``stem`` is the result's path without its suffix, which is the
    format. Of the plan's faults, ``CORRUPT`` and ``WRONG_SIZE`` change the file itself.

    Raises:
        UnusableSourceError: it is no picture, or too large.
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
        (width, height) if ResultFault.WRONG_SIZE in plan else size,
        _FILTERS[submission.mode or "artifact_removal"],
    )
    if submission.model_type == "gan":
        large = large.filter(ImageFilter.UnsharpMask())

    ending = submission.image_format
    if ending in (None, "auto"):  # by the page's rule
        ending = "png" if large.mode == "RGBA" else "jpg"
    path = stem.with_name(f"{stem.name}.{ending}")
    try:
        _save(large, path, ending, submission.image_quality or 85)
    except _PILLOW_ERRORS as error:
        raise UnusableSourceError(f"the result does not fit into {ending}: {error}") from error
    if ResultFault.CORRUPT in plan:
        path.write_bytes(corrupted(path.read_bytes()))
    return Upscaled(path, width, height, *size)


def _save(picture: Image.Image, path: Path, ending: str, quality: int) -> None:
    if ending == "jpg" and picture.mode == "RGBA":
        # JPEG has no alpha channel; white is the background of most pages.
        opaque = Image.new("RGB", picture.size, "white")
        opaque.paste(picture, mask=picture.getchannel("A"))
        picture = opaque
    if ending == "png":
        # zlib's default level takes most of the whole job's time.
        picture.save(path, "PNG", compress_level=1)
    else:
        picture.save(path, _PILLOW_NAMES[ending], quality=quality)


def corrupted(data: bytes) -> bytes:
    """Return the same number of bytes, with zeros that no decoder of the three formats accepts.

    Decoders of JPEG and lossy WebP tolerate zeros amid the pixels. So they lie in the first table of a JPEG,
    the frame header of a WebP and, behind the IHDR, in the first IDAT of a PNG.
    """
    start = 33 if data.startswith(b"\x89PNG") else 20
    zeros = len(data[start : start + 64])
    return data[:start] + bytes(zeros) + data[start + zeros :]
