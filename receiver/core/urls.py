"""Reads URLs as browsers and curl do."""

import re
from urllib.parse import quote

_BEFORE_PATH = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?(?://[^/?#]*)?")
_NO_ASCII = re.compile(rb"[\x80-\xff]")
_RAW = re.compile("[ \xa0-\ud7ff\ue000-\U0010ffff]+")  # no controls and no surrogates


def percent_encoded(url: str | bytes) -> str:
    """Return a URL, or a reference to one, without blanks around it and with its raw characters encoded.

    Raw characters are blanks and what is not ASCII, behind the host (WHATWG URL, 1.3 and 4.4). The host,
    control characters and all of ASCII stay as they are: whether they are allowed is checked in the result.
    The bytes of a header need not be UTF-8.
    """
    text = _decoded(url).strip(" ") if isinstance(url, bytes) else url.strip(" ")
    if text.isascii() and " " not in text:
        return text
    start = _BEFORE_PATH.match(text)
    path_at = start.end() if start else 0
    return text[:path_at] + _RAW.sub(lambda raw: quote(raw[0]), text[path_at:])


def _decoded(header: bytes) -> str:
    try:
        return header.decode()
    except UnicodeDecodeError:
        return _NO_ASCII.sub(lambda byte: b"%%%02X" % ord(byte[0]), header).decode("ascii")
