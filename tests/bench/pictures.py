"""The benchmark's images. The same number gives the same image, and each number another one."""

import random
import zlib
from dataclasses import dataclass
from functools import cache

from PIL import Image

from tests.support.images import SIGNATURE, chunk, encode, ihdr


@dataclass(frozen=True, slots=True)
class Kind:
    """Images of one kind and size.

    Attributes:
        name: as the table shows it.
        form: ``noise``, or the format of photographs.
        width: in pixels; the height is three quarters of it.
        count: of images in one run.
    """

    name: str
    form: str
    width: int
    count: int

    @property
    def height(self) -> int:
        return self.width * 3 // 4

    @property
    def suffix(self) -> str:
        return ".jpg" if self.form == "JPEG" else ".png"

    def draw(self, number: int) -> bytes:
        if self.form == "noise":
            return _noise(number, self.width, self.height)
        photograph, text = _photograph(self.form, self.width, self.height), b"Title\0No. %d" % number
        if self.form == "PNG":
            return photograph[:-12] + chunk(b"tEXt", text) + photograph[-12:]  # before the chunk that ends it
        return photograph[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2) + text + photograph[2:]


KINDS = (
    Kind("noise, 0.2 MB", "noise", 300, 800),
    Kind("noise, 5 MB", "noise", 1488, 60),
    Kind("noise, 40 MB", "noise", 4216, 12),
    Kind("photographs, 5 MB PNG", "PNG", 2100, 60),
    Kind("photographs, 5 MB JPEG", "JPEG", 4000, 60),
)


def _noise(seed: int, width: int, height: int) -> bytes:
    """A PNG of random pixels, which cannot be compressed."""
    row = width * 3
    pixels = random.Random(seed).randbytes(row * height)
    rows = b"".join(b"\0" + pixels[at : at + row] for at in range(0, len(pixels), row))
    stream = chunk(b"IDAT", zlib.compress(rows, 1))
    return SIGNATURE + ihdr(width, height) + stream + chunk(b"IEND")


@cache
def _photograph(form: str, width: int, height: int) -> bytes:
    """Clouds of four sizes in each colour, and grain: it takes as many bytes a pixel as a photograph does."""
    chance = random.Random(1)

    def scaled(mode: str, columns: int, rows: int) -> Image.Image:
        samples = chance.randbytes(columns * rows * len(mode))
        return Image.frombytes(mode, (columns, rows), samples).resize(
            (width, height), Image.Resampling.BICUBIC
        )

    photograph = scaled("RGB", 4, 3)
    for columns, share in ((16, 0.4), (64, 0.3), (256, 0.2)):
        photograph = Image.blend(photograph, scaled("RGB", columns, columns * 3 // 4), share)
    grain = scaled("RGB", width, height)
    if form == "PNG":
        return encode(Image.blend(photograph, grain, 0.03), "PNG")
    return encode(Image.blend(photograph, grain, 0.14), "JPEG", quality=92)
