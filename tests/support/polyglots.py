"""Images that are something else as well, which stands inside of them; and such as only look so."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

from PIL import Image, ImageCms

from tests.support.images import (
    HEIGHT,
    SIGNATURE,
    WIDTH,
    Bad,
    Good,
    chunk,
    encode,
    jpeg,
    picture,
    png,
    riff,
    riff_parts,
    vp8x,
    webp,
)
from tests.support.images import chunks as png_chunks

REASON = "image.polyglot"


def a_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("payload.html", "hidden")
    return file.getvalue()


FILES = {
    "zip": a_zip(),
    "zip-without-beginning": a_zip()[a_zip().index(b"PK\x01\x02") :],
    "zip-empty": b"PK\x05\x06" + bytes(18),
}
"""What programs open that look for it from the end of a file."""

PDF = b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n%%EOF"

TEXTS = (
    b"<?php system($_GET['c']); __halt_compiler();",
    b"--><html><body onload=alert(1)>",
    b"*/=1;--><HtMl><a HREF = ' javascript:alert(1)'>",
    b"</title><script src=//example.com/x.js></script>",
    b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    b"<?=`$_GET[0]`?>",
    b'<%@ Page Language="C#" %>',
    b'<!--#exec cmd="ls"-->',
    b"#!/bin/sh\n",
    b"ustar\x0000 Rar!\x1a\x07 7z\xbc\xaf\x27\x1c PK\x03\x04 PK\x05\x06 %PDF",
)
"""What a prompt or a caption can say. As an image it is served as an image, and none of it runs."""


def stored(data: bytes) -> bytes:
    """A zlib stream that holds the data as it is."""
    return zlib.compress(data, 0)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def _in_jpeg(marker: int, prefix: bytes = b"", *, before: bytes = b"\xff\xdb") -> Callable[[bytes], bytes]:
    def place(content: bytes) -> bytes:
        plain = jpeg()
        at = len(plain) - 2 if before == b"\xff\xd9" else plain.index(before)
        return plain[:at] + segment(marker, prefix + content) + plain[at:]

    return place


def _between_scans(content: bytes) -> bytes:
    plain = jpeg(progressive=True)
    at = plain.rindex(b"\xff\xda")
    return plain[:at] + segment(0xFE, content) + plain[at:]


def _in_png(
    kind: bytes, wrap: Callable[[bytes], bytes] = lambda c: c, *, at: int = 1
) -> Callable[[bytes], bytes]:
    def place(content: bytes) -> bytes:
        parts = png_chunks(png())
        return SIGNATURE + b"".join([*parts[:at], chunk(kind, wrap(content)), *parts[at:]])

    return place


def _in_palette(content: bytes) -> bytes:
    head, _, *rest = png_chunks(png(colour=3))
    return SIGNATURE + b"".join([head, chunk(b"PLTE", content.ljust(768, b"\0")[:768]), *rest])


def _in_webp(kind: bytes, *, first: bool = False) -> Callable[[bytes], bytes]:
    def place(content: bytes) -> bytes:
        ((_, frame),) = riff_parts(webp())
        parts = [(b"VP8 ", frame), (kind, content)]
        return riff(vp8x(WIDTH, HEIGHT), *(reversed(parts) if first else parts))

    return place


PLACES: dict[str, Callable[[bytes], bytes]] = {
    "jpeg-comment": _in_jpeg(0xFE),
    "jpeg-exif": _in_jpeg(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
    "jpeg-xmp": _in_jpeg(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>"),
    "jpeg-icc": _in_jpeg(0xE2, b"ICC_PROFILE\0\1\1"),
    "jpeg-photoshop": _in_jpeg(0xED, b"Photoshop 3.0\0"),
    "jpeg-app15": _in_jpeg(0xEF),
    "jpeg-before-the-scan": _in_jpeg(0xFE, before=b"\xff\xda"),
    "jpeg-before-the-end": _in_jpeg(0xFE, before=b"\xff\xd9"),
    "jpeg-between-scans": _between_scans,
    "png-text": _in_png(b"tEXt", lambda c: b"Comment\0" + c),
    "png-text-compressed": _in_png(b"zTXt", lambda c: b"Comment\0\0" + stored(c)),
    "png-international-text": _in_png(b"iTXt", lambda c: b"XML:com.adobe.xmp\0\0\0\0\0" + c),
    "png-exif": _in_png(b"eXIf", lambda c: b"MM\0*\0\0\0\x08\0\0\0\0\0\0" + c),
    "png-icc": _in_png(b"iCCP", lambda c: b"icc\0\0" + stored(c)),
    "png-unknown": _in_png(b"prVt"),
    "png-behind-the-pixels": _in_png(b"tEXt", lambda c: b"Comment\0" + c, at=2),
    "png-palette": _in_palette,
    "webp-exif": _in_webp(b"EXIF"),
    "webp-xmp": _in_webp(b"XMP "),
    "webp-icc": _in_webp(b"ICCP", first=True),
    "webp-unknown": _in_webp(b"ABCD"),
}
"""Where it stands."""


def polyglots() -> list[Bad]:
    """Images of which each must be refused as a polyglot."""
    found = [
        Bad(f"{place}-holds-{name}", put(content), REASON)
        for place, put in PLACES.items()
        for name, content in FILES.items()
    ]
    near_the_start = [place for place in PLACES if not place.endswith(("before-the-end", "between-scans"))]
    found += [Bad(f"{place}-holds-pdf", PLACES[place](PDF), REASON) for place in near_the_start]
    return [*found, *_in_pixels()]


def _in_pixels() -> Iterator[Bad]:
    """Whole files in coded data, where their readers find them by the place alone."""
    for name, hidden in HIDDEN_IN_PIXELS.items():
        for place, put in PIXELS.items():
            yield Bad(f"{place}-hold-{name}", put(hidden), REASON)
    yield Bad("png-pixels-hold-a-pdf", _in_png_pixels(PDF), REASON)


def _in_png_pixels(content: bytes) -> bytes:
    rows = content.ljust((1 + WIDTH * 3) * HEIGHT, b"\0")
    lines = [rows[at : at + WIDTH * 3] for at in range(0, WIDTH * 3 * HEIGHT, WIDTH * 3)]
    head, _, end = png_chunks(png())
    return SIGNATURE + b"".join([head, chunk(b"IDAT", stored(b"".join(b"\0" + line for line in lines))), end])


def _in_jpeg_scan(content: bytes) -> bytes:
    return jpeg()[:-2] + content + jpeg()[-2:]


def _in_webp_frame(content: bytes) -> bytes:
    ((kind, frame),) = riff_parts(webp())
    return riff((kind, frame + content))


PIXELS: dict[str, Callable[[bytes], bytes]] = {
    "jpeg-pixels": _in_jpeg_scan,
    "webp-pixels": _in_webp_frame,
    "png-pixels": _in_png_pixels,
}
HIDDEN_IN_PIXELS = {
    "a-zip": a_zip(),
    "a-zip-with-a-comment": a_zip()[:-2] + b"\x40\x9c" + b"c" * 40_000,
    "a-zip-of-another-disk": a_zip()[:-18] + b"\1\0" + a_zip()[-16:],
    "an-empty-zip": b"PK\x05\x06" + bytes(18),
}


def innocents() -> list[Good]:
    """Images with the metadata that cameras and editors write, and such as come close to a mark."""
    return list(_innocents())


_XMP = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 6.0.0">\n'
    b' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
    b'  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    b' xmlns:pdf="http://ns.adobe.com/pdf/1.3/" pdf:Producer="Adobe PDF library 15.00">\n'
    b"   <dc:format>application/pdf</dc:format><dc:title><rdf:Alt>"
    b'<rdf:li xml:lang="x-default">2 &lt; 3, a &lt;script&gt; and PK Subban</rdf:li></rdf:Alt></dc:title>\n'
    b"  </rdf:Description>\n </rdf:RDF>\n</x:xmpmeta>\n" + b" " * 2048 + b'\n<?xpacket end="w"?>'
)


def _innocents() -> Iterator[Good]:
    exif = Image.Exif()
    exif[0x010E], exif[0x010F], exif[0x0131] = "a <b> & c", "PK Cameras", "Editor 7z (PDF export)"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for place, put in PLACES.items():
        fmt = place.partition("-")[0]
        yield Good(f"{place}-holds-texts", put(b"\n".join(TEXTS)), fmt)
    yield Good("jpeg-all", jpeg(exif=exif, icc_profile=profile, xmp=_XMP, comment=b"<"), "jpeg")
    yield Good("webp-all", webp(exif=exif, icc_profile=profile, xmp=_XMP), "webp")
    parts = [
        chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile)),
        chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + _XMP),
    ]
    head, *rest = png_chunks(png())
    yield Good("png-all", SIGNATURE + b"".join([head, *parts, *rest]), "png")
    yield Good("jpeg-thumbnail", _in_jpeg(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")(jpeg()), "jpeg")
    # In pixels the short marks stand by chance, and the long ones would have to be searched for in vain.
    pixels = b"".join(b"\0" + b"PK\x05\x06<script>".ljust(WIDTH * 3, b"\0") for _ in range(HEIGHT))
    head, _, end = png_chunks(png())
    yield Good("png-pixels", SIGNATURE + b"".join([head, chunk(b"IDAT", stored(pixels)), end]), "png")
    yield Good("jpeg-pixels", _with_coded(jpeg(), b"PK\x05\x06"), "jpeg")
    yield Good("webp-lossless-noise", encode(picture(), "WEBP", lossless=True), "webp")


def _with_coded(data: bytes, mark: bytes) -> bytes:
    """A JPEG with other bytes in its coded data, at a place where they decode all the same."""
    at = data.index(b"\xff\xda")
    at += 2 + int.from_bytes(data[at + 2 : at + 4]) + 25
    return data[:at] + mark + data[at + len(mark) :]
