"""Text as it stands in an image's metadata: printable ASCII, which HTTP carries as it is, and back again."""

import base64
import re
from collections.abc import Mapping

ENCODED = re.compile(r"=\?UTF-8\?B\?([A-Za-z0-9+/]*={0,2})\?=")
"""An encoded word of RFC 2047, the form in which S3 itself returns what is not ASCII."""


def encode(text: str) -> str:
    """A header's value for any text: itself, or an encoded word where a header would change it.

    HTTP drops blanks at a value's ends (RFC 9110, 5.5), and stores drop a value without anything else. A text
    that looks like an encoded word is encoded as well, so that `decode` gives back every text.
    """
    plain = text.isascii() and text.isprintable() and text == text.strip() != ""
    if plain and not ENCODED.fullmatch(text):
        return text
    return f"=?UTF-8?B?{base64.b64encode(text.encode('utf-8', 'surrogatepass')).decode()}?="


def decode(value: str) -> str:
    """The text of which `encode` made a value.

    Raises:
        ValueError: an encoded word that `encode` did not make.
    """
    word = ENCODED.fullmatch(value)
    return base64.b64decode(word[1]).decode("utf-8", "surrogatepass") if word else value


def decode_all(kept: Mapping[str, str]) -> dict[str, str]:
    """The pairs of `Item.metadata` as they were before they were encoded; of a missing ref there is none.

    Args:
        kept: an object's user metadata, or the file beside an image in a folder.

    Raises:
        ValueError: a value that `Item.metadata` did not make.
    """
    return {name: decode(value) for name, value in kept.items()}
