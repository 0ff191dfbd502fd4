"""Resizes pictures with Pillow, without AI."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageFilter

from receiver.sandbox.faults import OutputFault, Plan, ResultFault

_VIDEO = bytes.fromhex("00000018667479706d703432000000006d70343269736f6d") + bytes.fromhex("000000086d646174")
"""An MP4 file by its header, without any picture in it."""
_TURNS = (None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM)
"""How several pictures of one source differ."""
_PILLOW_NAMES: Mapping[str, str] = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
# What Pillow's plugins raise for a damaged or unknown file.
_PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)


class UnusableSourceError(Exception):
    """The source cannot be fetched or upscaled."""


@dataclass(frozen=True, slots=True)
class Upscaling:
    """What to do with a picture.

    Attributes:
        image_format: jpg, png, webp, or auto: png if the source has transparency, else jpg.
        image_quality: of jpg and webp, 1 to 100.
    """

    factor: int
    resampling: Image.Resampling = Image.Resampling.BICUBIC
    sharpen: bool = False
    image_format: str = "auto"
    image_quality: int = 85


@dataclass(frozen=True, slots=True)
class Upscaled:
    """A result on disk.

    Attributes:
        path: its suffix is the format: jpg, png or webp, or mp4 without width and height.
        width, height: of the source, in pixels.
        upscaled_width, upscaled_height: as in the completion, in pixels.
    """

    path: Path
    size: int
    width: int = 0
    height: int = 0
    upscaled_width: int = 0
    upscaled_height: int = 0


def upscale(
    source: bytes, upscaling: Upscaling, stem: Path, *, max_pixels: int, plan: Plan
) -> list[Upscaled]:
    """Resize a picture into one file, or several by the plan. It takes long: call it in a thread.

    Of several frames, the first is taken. ``stem`` is the results' path without number and suffix, which is
    the format. Of the plan's faults, ``CORRUPT`` and ``WRONG_SIZE`` change the files themselves.

    Raises:
        UnusableSourceError: it is no picture, or too large.
    """
    results = list(_pictures(source, upscaling, stem, max_pixels, plan))
    if OutputFault.VIDEO in plan:
        path = stem.with_name(f"{stem.name}.mp4")
        path.write_bytes(_VIDEO)
        results.append(Upscaled(path, len(_VIDEO)))
    return results


def _pictures(
    source: bytes, upscaling: Upscaling, stem: Path, max_pixels: int, plan: Plan
) -> Iterator[Upscaled]:
    try:
        with Image.open(BytesIO(source)) as picture:
            width, height = picture.size
            size = (width * upscaling.factor, height * upscaling.factor)
            # Before decoding: a small file can hold a huge picture.
            if size[0] * size[1] > max_pixels:
                raise UnusableSourceError(f"the result would have more than {max_pixels} pixels")
            pixels = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    except _PILLOW_ERRORS as error:
        raise UnusableSourceError("the source is no image that can be read") from error

    large = pixels.resize((width, height) if ResultFault.WRONG_SIZE in plan else size, upscaling.resampling)
    if upscaling.sharpen:
        large = large.filter(ImageFilter.UnsharpMask())
    ending = upscaling.image_format
    if ending == "auto":
        ending = "png" if large.mode == "RGBA" else "jpg"
    count = 3 if OutputFault.SEVERAL in plan else 2 if OutputFault.MAPPED in plan else 1
    for number, turn in enumerate(_TURNS[:count], 1):
        path = stem.with_name(f"{stem.name}-{number}.{ending}")
        try:
            _save(large if turn is None else large.transpose(turn), path, ending, upscaling.image_quality)
        except _PILLOW_ERRORS as error:
            raise UnusableSourceError(f"the result does not fit into {ending}: {error}") from error
        if ResultFault.CORRUPT in plan:
            path.write_bytes(corrupted(path.read_bytes()))
        yield Upscaled(path, path.stat().st_size, width, height, *size)


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
