"""Sample pictures, drawn by code: a sky with a sun, hills and a number, different for each seed."""

import random
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

from PIL import Image, ImageColor, ImageDraw, ImageFont

Format = Literal["jpg", "png", "png-alpha", "webp", "webp-alpha"]


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture of the demo, and the factor by which it is upscaled."""

    name: str
    seed: int
    width: int
    height: int
    format: Format
    factor: Literal[2, 4, 8]

    def draw(self) -> bytes:
        return draw(self.seed, (self.width, self.height), self.format)


SAMPLES = (
    Sample("harbour.jpg", 1, 320, 213, "jpg", 2),
    Sample("dunes.png", 2, 160, 240, "png", 4),
    Sample("badge.png", 3, 96, 96, "png-alpha", 8),
    Sample("meadow.webp", 4, 240, 160, "webp", 4),
    Sample("sticker.webp", 5, 128, 96, "webp-alpha", 2),
    Sample("ridge.jpg", 6, 120, 80, "jpg", 8),
)
"""Six pictures with different formats, sizes and factors."""


def draw(seed: int, size: tuple[int, int], file_format: Format) -> bytes:
    """Draw a small landscape as a file. The same arguments give the same pixels.

    Args:
        seed: decides colours and hills, and is written on the picture.
        size: width and height in pixels, each at least 16.
        file_format: with ``-alpha``, the corners are transparent.
    """
    width, height = size
    chance = random.Random(seed)  # noqa: S311 - pictures, not secrets
    hue = chance.randrange(360)
    top, bottom = (
        Image.new("RGB", size, _colour(hue + turn, 65, light)) for turn, light in ((30, 85), (0, 50))
    )
    picture = Image.composite(top, bottom, Image.linear_gradient("L").resize(size))
    pen = ImageDraw.Draw(picture)
    sun = (chance.randint(width // 5, width * 4 // 5), chance.randint(height // 5, height * 2 // 5))
    pen.circle(sun, min(size) // 7, fill="#fff3c4")
    for layer in range(3):
        base, swing = height * (5 + layer) // 8, max(2, height // 10)
        ridge = [(width * step // 6, base + chance.randint(-swing, swing)) for step in range(7)]
        fill = _colour(hue + 40 * layer, 45, 45 - 12 * layer)
        pen.polygon([(0, height), *ridge, (width, height)], fill=fill)
    font = ImageFont.load_default(max(10, height // 8))
    pen.text((width // 2, height * 7 // 8), f"No. {seed}", fill="white", font=font, anchor="mm")

    name, _, alpha = file_format.partition("-")
    if alpha:
        mask = Image.new("L", size, 0)
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, width - 1, height - 1), min(size) // 4, fill=255)
        picture.putalpha(mask)
    file = BytesIO()
    picture.save(file, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[name], quality=90)
    return file.getvalue()


def _colour(hue: int, saturation: int, lightness: int) -> tuple[int, ...]:
    return ImageColor.getrgb(f"hsl({hue % 360}, {saturation}%, {lightness}%)")
