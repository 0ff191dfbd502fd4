"""Good and bad images, all made by script: the corpus that the verdicts are tested on."""

import functools
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from receiver.verify.decoder import ExpectedSize

MAX_PIXELS = 1_000_000
"""The cap under which the corpus is judged."""

WIDTH, HEIGHT = 61, 43
"""Odd on purpose: whole blocks and bytes hide faults."""


@dataclass(frozen=True)
class Good:
    name: str
    data: bytes
    format: str
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True)
class Bad:
    name: str
    data: bytes
    reason: str
    promise: ExpectedSize = field(default_factory=ExpectedSize)


def picture(mode: str = "RGB", width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A picture with edges and gradients, the same at every call."""
    return _drawn(width, height).convert(mode)


@functools.cache
def _drawn(width: int, height: int) -> Image.Image:
    x = Image.linear_gradient("L").resize((width, height))
    y = x.transpose(Image.Transpose.ROTATE_180).point(lambda value: value * 7 % 256)
    z = Image.radial_gradient("L").resize((width, height))
    return Image.merge("RGBA", (x, y, z, z))


def encode(image: Image.Image, fmt: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    return encode(picture(mode), "JPEG", **options)


def webp(mode: str = "RGB", **options: Any) -> bytes:
    return encode(picture(mode), "WEBP", **options)


# PNG by hand: Pillow writes neither interlaced files, nor all depths, nor broken ones.

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def ihdr(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def rows(width: int, height: int, bits: int, filter_type: int = 0) -> bytes:
    length = (width * bits + 7) // 8
    body = bytes(range(256)) * (length // 256 + 1)
    return b"".join(bytes([filter_type]) + body[:length] for _ in range(height)) if width else b""


def png(
    width: int = WIDTH,
    height: int = HEIGHT,
    *,
    depth: int = 8,
    colour: int = 2,
    interlace: int = 0,
    idats: int = 1,
    pixels: bytes | None = None,
    window: int = 15,
    level: int = -1,
) -> bytes:
    """A PNG by hand; it states a window of two to the power of ``window`` whatever its coder used."""
    bits = depth * SAMPLES[colour]
    if pixels is None and interlace:
        columns_and_rows = ((len(range(x, width, dx)), len(range(y, height, dy))) for x, y, dx, dy in PASSES)
        pixels = b"".join(rows(c, r, bits) for c, r in columns_and_rows)
    elif pixels is None:
        pixels = rows(width, height, bits)
    stated = (window - 8) << 4 | 8
    check = -(stated << 8) % 31
    stream = bytes([stated, check]) + zlib.compress(pixels, level)[2:]
    step = -(-len(stream) // idats)
    parts = [chunk(b"IDAT", stream[at : at + step]) for at in range(0, len(stream), step)]
    palette = [chunk(b"PLTE", bytes(range(3)) * (1 << depth))] if colour == 3 else []
    return b"".join(
        [SIGNATURE, ihdr(width, height, depth, colour, interlace), *palette, *parts, chunk(b"IEND")]
    )


def chunks(data: bytes) -> list[bytes]:
    """A PNG's chunks, each whole."""
    found, at = [], len(SIGNATURE)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        found.append(data[at:end])
        at = end
    return found


def greedy_png() -> bytes:
    """A small file of few pixels whose texts fill memory: each has a million 4-byte characters."""
    text = zlib.compress(("\U0001f600" + "a" * 1_000_000).encode())
    texts = [chunk(b"iTXt", b"k%d\0\1\0\0\0" % number + text) for number in range(60)]
    head, *rest = chunks(png())
    return b"".join([SIGNATURE, head, *texts, *rest])


# WebP and JPEG by hand.


def riff(*parts: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(k + struct.pack("<I", len(d)) + d + b"\0" * (len(d) % 2) for k, d in parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def riff_parts(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 12
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        found.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return found


def vp8x(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X", bytes([flags, 0, 0, 0]) + size


def jpeg_frame(data: bytes, *, width: int | None = None, height: int | None = None) -> bytes:
    """The same JPEG with other numbers in its (baseline) frame header."""
    at = data.index(b"\xff\xc0") + 5
    old_height, old_width = struct.unpack_from(">HH", data, at)
    size = (old_height if height is None else height, old_width if width is None else width)
    return data[:at] + struct.pack(">HH", *size) + data[at + 4 :]


def swap(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new, 1)


@functools.cache
def good() -> tuple[Good, ...]:
    """Images of which none may be refused."""
    return (*_good_jpegs(), *_good_pngs(), *_good_webps())


def _good_jpegs() -> Iterator[Good]:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    exif[0x0112] = 6  # turned: the stored width and height stay what they are
    plain = jpeg()
    for name, data in {
        "baseline": plain,
        "progressive": jpeg(progressive=True),
        "optimised": jpeg(optimize=True),
        "quality-100": jpeg(quality=100, subsampling=0),
        "quality-1": jpeg(quality=1),
        "restart-rows": jpeg(restart_marker_rows=1),
        "restart-blocks": jpeg(restart_marker_blocks=1),
        "restart-progressive": jpeg(restart_marker_blocks=1, progressive=True),
        "exif": jpeg(exif=exif),
        "icc": jpeg(icc_profile=bytes(70_000)),
        "comment": jpeg(comment=b"PK <htm> %PDF \xff\xd9"),
        "grey": jpeg("L"),
        "grey-progressive": jpeg("L", progressive=True),
        "cmyk": jpeg("CMYK"),
        "cmyk-progressive": jpeg("CMYK", progressive=True),
        "fill-bytes": swap(swap(plain, b"\xff\xdb", b"\xff\xff\xff\xdb"), b"\xff\xda", b"\xff\xff\xda"),
        "fill-bytes-before-the-end": plain[:-2] + b"\xff\xff\xff\xd9",
        "empty-comment": plain[:2] + b"\xff\xfe\x00\x02" + plain[2:],
        "multi-picture": _multi_picture(),
        "zeros-behind": plain + bytes(70_000),
        "newline-behind": plain + b"\r\n",
        "application-data-short": plain[:2]
        + b"\xff\xe0\0\2\xff\xe0\0\x07JFIF\0\xff\xee\0\x07Adobe"
        + plain[2:],
        "jfif-revision-9": swap(plain, b"JFIF\0\1", b"JFIF\0\x09"),
    }.items():
        yield Good(f"jpeg-{name}", data, "jpeg")
    for width, height in ((65_500, 9), (9, 65_500), (9, 65_497)):  # as large as decoders take
        yield Good(
            f"jpeg-{width}x{height}", encode(picture("L", width, height), "JPEG"), "jpeg", width, height
        )
    yield Good("jpeg-one-pixel", encode(picture(width=1, height=1), "JPEG"), "jpeg", 1, 1)
    # Larger than a block of the scan, so that markers fall on its edges too.
    noise = Image.effect_noise((900, 900), 90)
    yield Good("jpeg-blocks", encode(noise, "JPEG", quality=95), "jpeg", 900, 900)
    restarts = encode(noise, "JPEG", quality=95, restart_marker_blocks=1)
    yield Good("jpeg-blocks-restart", restarts, "jpeg", 900, 900)


def _good_pngs() -> Iterator[Good]:
    for colour, depths in DEPTHS.items():
        for depth in depths:
            for interlace in (0, 1):
                data = png(depth=depth, colour=colour, interlace=interlace)
                yield Good(f"png-{colour}-{depth}-{interlace}", data, "png")
    for width, height in ((1, 1), (2, 1), (1, 5), (3, 2), (4, 4), (5, 1), (9, 9)):
        data = png(width, height, depth=1, colour=0, interlace=1)
        yield Good(f"png-interlaced-{width}x{height}", data, "png", width, height)
    text = PngInfo()
    text.add_text("Comment", "<scrip" * 9)
    text.add_text("Long", "z" * 9000, zip=True)
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    for name, data in {
        "text": encode(picture(), "PNG", pnginfo=text),
        "palette": encode(picture("P"), "PNG"),
        "palette-transparent": encode(picture("P"), "PNG", transparency=3),
        "palette-of-one": indexed(bytes(3)),
        "palette-full": indexed(bytes(768)),
        "palette-that-grey-ignores": swap(png(colour=0), chunk(b"IEND"), chunk(b"PLTE") + chunk(b"IEND")),
        "palettes-suggested": _with_chunks(chunk(b"PLTE", bytes(4)), chunk(b"PLTE", bytes(999))),
        "palette-behind-the-pixels": swap(indexed(bytes(3)), chunk(b"IEND"), chunk(b"PLTE") + chunk(b"IEND")),
        **{f"filter-{number}": png(pixels=rows(WIDTH, HEIGHT, 24, number)) for number in range(5)},
        "window-of-a-row": png(window=8),
        "16-bit": encode(picture("L").convert("I;16"), "PNG"),
        "icc-exif-dpi": encode(picture(), "PNG", icc_profile=bytes(900), exif=Image.Exif(), dpi=(72, 72)),
        "stored": encode(picture("RGBA"), "PNG", compress_level=0),
        "many-idats": png(idats=17),
        "empty-idat": swap(png(), chunk(b"IEND"), chunk(b"IDAT") + chunk(b"IEND")),
        "newline-behind": png() + b"\n",
        "gamma-and-density-short": _with_chunks(chunk(b"gAMA", b"\0"), chunk(b"pHYs", bytes(3))),
        "text-long": _with_chunks(chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000)))),
        "profile-bogus": _with_chunks(chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"none"))),
        "animation-of-none": _with_chunks(chunk(b"acTL", bytes(8))),
        "animation-control-short": _with_chunks(chunk(b"acTL", b"\0")),
        "private-chunk": swap(png(), chunk(b"IEND"), chunk(b"prVt", b"x") + chunk(b"IEND")),
    }.items():
        yield Good(f"png-{name}", data, "png")
    yield Good("png-blocks", encode(Image.effect_noise((900, 900), 90), "PNG"), "png", 900, 900)


def indexed(*palettes: bytes) -> bytes:
    """A PNG whose pixels are numbers of colours, with its palettes before them."""
    pixels = chunks(png(depth=8, colour=3, pixels=bytes((WIDTH + 1) * HEIGHT)))[2:]
    parts = [ihdr(WIDTH, HEIGHT, colour=3), *(chunk(b"PLTE", palette) for palette in palettes), *pixels]
    return SIGNATURE + b"".join(parts)


def _with_chunks(*parts: bytes) -> bytes:
    head, *rest = chunks(png())
    return b"".join([SIGNATURE, head, *parts, *rest])


def _good_webps() -> Iterator[Good]:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    turned = b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
    for name, data in {
        "lossy": webp(),
        "lossy-alpha": webp("RGBA"),
        "lossless": webp(lossless=True),
        "lossless-alpha": webp("RGBA", lossless=True),
        "exif": webp(exif=exif),
        "xmp": webp(xmp=b"<x:xmpmeta/>"),
        "icc": webp(icc_profile=bytes(901)),
        "all": webp("RGBA", exif=exif, xmp=b"<x:xmpmeta/>", icc_profile=bytes(901), lossless=True),
        "unknown-chunk": riff(*riff_parts(webp("RGBA")), (b"ABCD", b"odd")),
        "padding-not-zero": riff(*riff_parts(webp("RGBA")), (b"ABCD", b"odd"))[:-1] + b"x",
        "newline-behind": webp() + b"\n",
        # Behind a plain image decoders ignore all, an orientation too.
        "chunks-behind-a-plain-image": riff(*riff_parts(webp()), (b"EXIF", turned), (b"ABCD", b"odd")),
    }.items():
        yield Good(f"webp-{name}", data, "webp")
    yield Good("webp-one-pixel", encode(picture(width=1, height=1), "WEBP"), "webp", 1, 1)


@functools.cache
def bad() -> tuple[Bad, ...]:
    """Images that must be refused, each with the reason."""
    return (
        *_foreign(),
        *_cut(),
        *_glued(),
        *_bad_jpegs(),
        *_bad_pngs(),
        *_bad_webps(),
        *_bombs(),
        *_not_promised(),
    )


def _plain() -> dict[str, bytes]:
    return {
        "jpeg": jpeg(),
        "jpeg-progressive": jpeg(progressive=True),
        "png": png(),
        "webp": webp(),
        "webp-x": webp("RGBA"),
    }


def _foreign() -> Iterator[Bad]:
    for fmt in ("GIF", "BMP", "TIFF", "ICO", "PDF", "PPM", "TGA", "JPEG2000"):
        yield Bad(f"is-{fmt}", encode(picture(), fmt), "image.unknown_format")
    for name, data in {
        "empty": b"",
        "html": b"<!doctype html><title>404</title>",
        "json": b'{"detail": "expired"}',
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "zip": _zip(),
        "riff-wave": b"RIFF\x04\0\0\0WAVE",
        "signature-cut": SIGNATURE[:-1],
        "leading-newline": b"\n" + png(),
        "leading-zip": _zip() + jpeg(),
    }.items():
        yield Bad(f"is-{name}", data, "image.unknown_format")


def _cut() -> Iterator[Bad]:
    for name, data in _plain().items():
        for at in (
            12,
            len(data) // 100 + 12,
            len(data) // 2,
            len(data) * 99 // 100,
            len(data) - 2,
            len(data) - 1,
        ):
            yield Bad(f"cut-{name}-{at}", data[:at], "image.truncated")
    parts = chunks(png(idats=3))
    for count in range(len(parts)):
        yield Bad(f"cut-png-{count}-chunks", SIGNATURE + b"".join(parts[:count]), "image.truncated")


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("payload.html", "<script>alert(1)</script>")
    return file.getvalue()


def _glued() -> Iterator[Bad]:
    tails = {
        "zip": _zip(),
        "html": b"<html><script>1</script>",
        "pdf": b"%PDF-1.7\n",
        "script": b"\n\n#!/bin/sh\n",
        "jpeg": jpeg(),
    }
    for name, data in _plain().items():
        for kind, tail in tails.items():
            yield Bad(f"glued-{name}-{kind}", data + tail, "image.trailing_data")
    mpo = _multi_picture()
    yield Bad("glued-one-picture-too-many", mpo + jpeg(), "image.trailing_data")
    yield Bad("cut-multi-picture-jpeg", mpo[:-2], "image.truncated")


def _multi_picture() -> bytes:
    return encode(picture(), "MPO", save_all=True, append_images=[picture().rotate(90)])


def _bad_jpegs() -> Iterator[Bad]:
    plain, restarts = jpeg(), jpeg(restart_marker_blocks=1)
    coded = plain.index(b"\xff\xda") + 2
    coded += int.from_bytes(plain[coded : coded + 2])
    tables = plain.index(b"\xff\xdb")
    for name, data in {
        "height-zero": jpeg_frame(plain, height=0),
        "width-zero": jpeg_frame(plain, width=0),
        "dnl": plain[:-2] + b"\xff\xdc\x00\x04\x00\x2b\xff\xd9",
        "no-scan": plain[:tables] + b"\xff\xd9",
        "nothing-but-marks": b"\xff\xd8\xff\xd9",
        "two-frames": swap(plain, b"\xff\xda", jpeg_segment(plain, b"\xff\xc0") + b"\xff\xda"),
        "scan-before-frame": swap(plain, jpeg_segment(plain, b"\xff\xc0"), b""),
        "nested": plain[:2] + plain,
        "lossless-process": swap(plain, b"\xff\xc0", b"\xff\xc3"),
        "reserved-marker": swap(plain, b"\xff\xdb", b"\xff\x02"),
        "marker-lost": plain[:tables] + b"\0" + plain[tables + 1 :],
        "segment-too-long": plain[: tables + 3] + bytes([plain[tables + 3] + 1]) + plain[tables + 4 :],
        "segment-too-short": plain[: tables + 2] + b"\0\1" + plain[tables + 4 :],
        "frame-header-long": swap(plain, b"\xff\xc0\x00\x11", b"\xff\xc0\x00\x12"),
        "scan-header-long": swap(plain, b"\xff\xda\x00\x0c", b"\xff\xda\x00\x0d"),
        "restart-out-of-turn": swap(restarts, b"\xff\xd1", b"\xff\xd5"),
        "restart-lost": swap(restarts, b"\xff\xd2", b""),
        "restart-unannounced": plain[: coded + 9] + b"\xff\xd0" + plain[coded + 9 :],
        "huffman-table-bogus": swap(plain, b"\xff\xc4\x00\x1f\x00\x00", b"\xff\xc4\x00\x1f\x00\xf0"),
        "quantisation-absent": plain.replace(b"\xff\xdb", b"\xff\xfe"),
        "twelve-bits": swap(plain, b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
    }.items():
        yield Bad(f"jpeg-{name}", data, "image.corrupt")


def jpeg_segment(data: bytes, marker: bytes) -> bytes:
    at = data.index(marker)
    return data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4])]


def _bad_pngs() -> Iterator[Bad]:
    plain = png()
    head, pixels, end = chunks(plain)
    data = rows(WIDTH, HEIGHT, 24)
    stream = zlib.compress(data)

    def whole(*parts: bytes) -> bytes:
        return SIGNATURE + b"".join(parts)

    for name, content in {
        "height-doubled": whole(ihdr(WIDTH, HEIGHT * 2), pixels, end),
        "height-halved": whole(ihdr(WIDTH, HEIGHT // 2), pixels, end),
        "one-row-more": whole(ihdr(WIDTH, HEIGHT + 1), pixels, end),
        "one-row-fewer": whole(ihdr(WIDTH, HEIGHT - 1), pixels, end),
        "width-doubled": whole(ihdr(WIDTH * 2, HEIGHT), pixels, end),
        "interlace-claimed": whole(ihdr(WIDTH, HEIGHT, interlace=1), pixels, end),
        "interlaced-height-doubled": whole(
            ihdr(WIDTH, HEIGHT * 2, interlace=1), *chunks(png(interlace=1))[1:]
        ),
        "height-zero": whole(ihdr(WIDTH, 0), pixels, end),
        "depth-3": whole(ihdr(WIDTH, HEIGHT, depth=3), pixels, end),
        "colour-5": whole(ihdr(WIDTH, HEIGHT, colour=5), pixels, end),
        "interlace-2": whole(ihdr(WIDTH, HEIGHT, interlace=2), pixels, end),
        "no-header": whole(pixels, end),
        "two-headers": whole(head, head, pixels, end),
        "no-pixels": whole(head, end),
        "no-palette": whole(ihdr(WIDTH, HEIGHT, colour=3), pixels, end),
        "pixels-in-two-pieces": whole(
            head, chunk(b"IDAT", stream[:9]), chunk(b"tIME", bytes(7)), chunk(b"IDAT", stream[9:]), end
        ),
        "critical-chunk": whole(head, chunk(b"ABCD"), pixels, end),
        "chunk-type": whole(head, chunk(b"a\0CD"), pixels, end),
        "chunk-length": whole(head, b"\x80\0\0\0IDAT", pixels, end),
        "end-not-empty": whole(head, pixels, chunk(b"IEND", b"x")),
        "header-checksum": whole(head[:-1] + bytes([head[-1] ^ 1]), pixels, end),
        "pixel-checksum": whole(head, pixels[:-1] + bytes([pixels[-1] ^ 1]), end),
        "pixel-flipped": whole(head, pixels[:30] + bytes([pixels[30] ^ 1]) + pixels[31:], end),
        "end-checksum": whole(head, pixels, end[:-1] + b"\0"),
        "stream-cut": whole(head, chunk(b"IDAT", stream[:-20]), end),
        "stream-without-checksum": whole(head, chunk(b"IDAT", stream[:-4]), end),
        "stream-checksum": whole(head, chunk(b"IDAT", stream[:-4] + bytes(4)), end),
        "stream-garbage": whole(head, chunk(b"IDAT", b"<html>" * 9), end),
        "filter-unknown": png(pixels=rows(WIDTH, HEIGHT, 24, filter_type=9)),
        "palette-empty": indexed(b""),
        "palette-of-two-thirds": indexed(bytes(4)),
        "palette-too-long": indexed(bytes(771)),
        "palette-twice": indexed(bytes(3), bytes(3)),
        "palette-suggested-empty": _with_chunks(chunk(b"PLTE")),
        "window-too-large": png(window=16),
        "window-shorter-than-a-distance": png(400, HEIGHT, window=8),
    }.items():
        yield Bad(f"png-{name}", content, "image.corrupt")

    hidden = whole(head, chunk(b"IDAT", stream + _zip()), end)
    yield Bad("png-zip-behind-the-stream", hidden, "image.trailing_data")
    hidden = whole(head, pixels, chunk(b"IDAT", b"hidden"), end)
    yield Bad("png-chunk-behind-the-stream", hidden, "image.trailing_data")
    frames = [picture().rotate(90)]
    yield Bad("png-animated", encode(picture(), "PNG", save_all=True, append_images=frames), "image.animated")


def _bad_webps() -> Iterator[Bad]:
    lossy, lossless = webp(), webp(lossless=True)
    ((_, frame),) = riff_parts(lossy)
    ((_, coded),) = riff_parts(lossless)
    canvas = vp8x(WIDTH, HEIGHT)
    for name, data in {
        "canvas-taller": riff(vp8x(WIDTH, HEIGHT * 2), (b"VP8 ", frame)),
        "canvas-smaller": riff(vp8x(WIDTH, HEIGHT // 2), (b"VP8L", coded)),
        "height-doubled": riff((b"VP8 ", frame[:8] + struct.pack("<H", HEIGHT * 2) + frame[10:])),
        "height-zero": riff((b"VP8 ", frame[:8] + b"\0\0" + frame[10:])),
        "two-images": riff(canvas, (b"VP8 ", frame), (b"VP8L", coded)),
        "canvas-behind-the-image": riff((b"VP8 ", frame), canvas),
        "image-behind-the-image": riff((b"VP8 ", frame), (b"VP8L", coded)),
        "two-canvases": riff(canvas, canvas, (b"VP8 ", frame)),
        "no-image": riff(canvas),
        "nothing": riff(),
        "unknown-first": riff((b"ABCD", b"odd"), (b"VP8 ", frame)),
        "canvas-short": riff((b"VP8X", bytes(9)), (b"VP8 ", frame)),
        "no-start-code": riff((b"VP8 ", swap(frame, b"\x9d\x01\x2a", b"\x9d\x01\x2b"))),
        "no-key-frame": riff((b"VP8 ", bytes([frame[0] | 1]) + frame[1:])),
        "lossless-signature": riff((b"VP8L", b"\0" + coded[1:])),
        "lossless-version": riff((b"VP8L", coded[:4] + bytes([coded[4] | 0xE0]) + coded[5:])),
        "lossy-cut-inside": riff((b"VP8 ", frame[: len(frame) // 2])),
        "lossless-cut-inside": riff((b"VP8L", coded[: len(coded) // 2])),
        "odd-length": lossy[:4] + struct.pack("<I", len(lossy) - 9) + lossy[8:],
        "chunk-too-long": lossy[:16] + struct.pack("<I", len(frame) + 2) + lossy[20:],
        "half-a-chunk": riff(canvas, (b"VP8 ", frame))[:4]
        + struct.pack("<I", len(riff(canvas, (b"VP8 ", frame))) - 8 + 4)
        + riff(canvas, (b"VP8 ", frame))[8:]
        + b"EXIF",
    }.items():
        yield Bad(f"webp-{name}", data, "image.corrupt")
    yield Bad("webp-length-short", lossy[:4] + struct.pack("<I", 4) + lossy[8:], "image.corrupt")
    yield Bad("webp-longer-than-file", riff(canvas, (b"VP8 ", frame))[:-2], "image.truncated")
    frames = [picture().rotate(90)]
    yield Bad(
        "webp-animated", encode(picture(), "WEBP", save_all=True, append_images=frames), "image.animated"
    )
    yield Bad("webp-animation-flag", riff(vp8x(WIDTH, HEIGHT, 2), (b"VP8 ", frame)), "image.animated")
    yield Bad("webp-frame-chunk", riff(canvas, (b"ANMF", bytes(24))), "image.animated")


def _bombs() -> Iterator[Bad]:
    huge = (
        SIGNATURE
        + ihdr(2**31 - 1, 2**31 - 1)
        + chunk(b"IDAT", zlib.compress(bytes(5_000_000)))
        + chunk(b"IEND")
    )
    ((_, coded),) = riff_parts(webp(lossless=True))
    for name, data in {
        "png-header": huge,
        "png-zeros": png(20_000, 20_000, depth=1, colour=0, pixels=bytes(20_000 * 2501)),
        "png-one-too-many": png(1_000_001, 1, depth=1, colour=0),
        "jpeg-header": jpeg_frame(jpeg(), width=65_500, height=65_500),
        "webp-canvas": riff(vp8x(16_384, 16_384), (b"VP8L", coded)),
        "webp-lossless-header": riff((b"VP8L", b"\x2f\xff\xff\xff\x0f" + coded[5:])),
    }.items():
        yield Bad(f"bomb-{name}", data, "image.too_many_pixels")


def _not_promised() -> Iterator[Bad]:
    for name, data in _plain().items():
        for what, promise in {
            "wider": ExpectedSize(WIDTH * 2, HEIGHT),
            "taller": ExpectedSize(WIDTH, HEIGHT * 2),
            "turned": ExpectedSize(HEIGHT, WIDTH),
            "width-alone": ExpectedSize(WIDTH - 1, None),
            "height-alone": ExpectedSize(None, HEIGHT + 1),
        }.items():
            yield Bad(f"promised-{name}-{what}", data, "image.wrong_size", promise)
    halved = jpeg_frame(jpeg(), height=HEIGHT // 2)
    yield Bad("jpeg-height-halved", halved, "image.wrong_size", ExpectedSize(WIDTH, HEIGHT))
    doubled = jpeg_frame(jpeg(), height=HEIGHT * 2)
    yield Bad("jpeg-height-doubled", doubled, "image.wrong_size", ExpectedSize(WIDTH, HEIGHT))
