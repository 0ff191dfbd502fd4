"""Names the format of a file that is none of the three, by its first bytes (WHATWG MIME Sniffing, 6)."""

import re
from collections.abc import Mapping

from receiver.core.errors import REASONS, ImageError

_FORMATS: Mapping[str, str] = {
    "an AVIF image": r".{4}ftypavi[fs]",
    "a HEIC image": r".{4}ftyp(?:hei[cmsx]|hev[cmsx]|mif1|msf1)",
    "a GIF": r"GIF8[79]a",
    "a TIFF": r"II\*\0|MM\0\*",
    "a PDF": r"%PDF-",
    "a ZIP": r"PK\x03\x04",
    "a video or sound in MP4": r".{4}ftyp",
    "a video or sound in WebM or Matroska": r"\x1a\x45\xdf\xa3",
    "a video in AVI": r"RIFF.{4}AVI ",
    "sound in WAV": r"RIFF.{4}WAVE",
    "sound in MP3": r"ID3",
    "a video or sound in Ogg": r"OggS",
    "sound in FLAC": r"fLaC",
}


def refusal(head: bytes) -> ImageError:
    """Return the refusal of a file by its first 12 bytes, with the name of its format where that is known."""
    text = head.decode("latin-1")
    for name, pattern in _FORMATS.items():
        if re.match(pattern, text, re.DOTALL):
            detail = f"{REASONS['image.unknown_format'].rstrip('.')}, but {name}."
            return ImageError("image.unknown_format", detail)
    return ImageError("image.unknown_format")
