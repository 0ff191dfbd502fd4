"""The images to submit: named one by one or in a list, each with the key that identifies it.

The key of a list's image depends on what its line says, and not on the line's place. So a list continues
where it stopped, also when lines were added.
"""

import hashlib
import json
import os
import re
import secrets
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from receiver.core.completion import is_ref
from receiver.core.errors import InvalidRequestError
from receiver.providers.ximilar.request import Options, Upscale

ImageLike = str | os.PathLike[str] | bytes
"""A URL, a file, or the bytes of an image."""

_PASSWORD = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/?#@]*:[^/?#]*@")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

READABLE = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Pillow's names of the formats that the provider takes; HEIC is another, which Pillow does not know."""

_HEIC = re.compile(rb"....ftyp(?:heic|heix|hevc|heim|heis|mif1|msf1)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Item:
    """One image to be submitted: a URL, a file or bytes. Its key is its name in the ledger."""

    key: str
    name: str
    image: str | Path | bytes = field(repr=False)
    ref: str | None = None


class Line(NamedTuple):
    """A line of a list: its URL or file as it is written there, and where that file is."""

    image: str
    ref: str | None = None
    file: Path | None = None


def named(images: Sequence[ImageLike], ref: str | None) -> list[Item]:
    """Return images that were named one by one, with new keys in each call.

    Raise `InvalidRequestError` if one is neither an http(s) URL nor a file that begins like an image.
    """
    call = secrets.token_hex(16)
    return [_named(f"call:{call}:{number}", image, ref) for number, image in enumerate(images)]


def _named(key: str, given: ImageLike, ref: str | None) -> Item:
    if isinstance(given, bytes):
        return Item(key, "bytes", given, ref)
    text = os.fspath(given)
    if isinstance(given, str) and _URL.match(text):
        try:
            _check_url(text)
        except InvalidRequestError as error:
            shown = _PASSWORD.sub(r"\1**********@", text)
            raise InvalidRequestError(f"{shown}: {error.detail}") from None
        return Item(key, text, text, ref)
    _check_file(Path(text))
    return Item(key, text, Path(text), ref)


def listed(lines: Sequence[Line], name: str, options: Options, ref: str | None) -> list[Item]:
    """Return the images of a list. Their keys are the same in each call with the same name and options.

    ``ref`` is the reference of lines that have none.
    """
    times: Counter[Line] = Counter()
    items = []
    for given in lines:
        line = given._replace(ref=ref if given.ref is None else given.ref)
        times[line] += 1
        identity = json.dumps([name, line.image, line.ref, list(astuple(options)), times[line]])
        key = f"list:{hashlib.sha256(identity.encode()).hexdigest()}"
        items.append(Item(key, line.image, line.file or line.image, line.ref))
    return items


def read_list(path: Path) -> list[Line]:
    """Read a list: a URL or a file to a line, and behind a tab its reference. Skip blank lines and ``#``.

    A file's path begins at the list's folder.

    Raises:
        InvalidRequestError: it cannot be read, or a line is neither; the text names it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise InvalidRequestError(f"{path}: cannot be read ({why}).") from None
    lines = []
    for number, line in enumerate((line.strip() for line in text.split("\n")), 1):
        if not line or line.startswith("#"):
            continue
        image, *refs = (part.strip() for part in line.split("\t", 1))
        ref = refs[0] if refs else None
        file = None if _URL.match(image) else path.parent / image
        where = f"{path}: line {number}"
        try:
            if file is None:
                _check_url(image)
            else:
                _check_file(file)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{where}: {error.detail}") from None
        if ref is not None and not is_ref(ref):
            raise InvalidRequestError(f"{where}: a reference is 1 to 200 printable ASCII characters.")
        lines.append(Line(image, ref, file))
    return lines


def _check_url(url: str) -> None:
    if _PASSWORD.match(url):
        problem = "carries a password, which the provider would get and keep; use a URL without one."
        raise InvalidRequestError(problem)
    try:
        Upscale(url)
    except InvalidRequestError as error:
        raise InvalidRequestError(error.detail.removeprefix("image ")) from None


def _check_file(path: Path) -> None:
    """Check a file's beginning, so that nothing is sent and billed that is surely no image."""
    try:
        with path.open("rb") as file:
            if _HEIC.match(file.read(12)):
                return
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it is not decoded
                Image.open(file, formats=READABLE).close()
    except FileNotFoundError:
        raise InvalidRequestError(f"{path}: there is no such file.") from None
    except Image.DecompressionBombError:
        return  # the provider decides how large it may be
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        why = f"cannot be read ({reason})" if reason else "is no image that the provider takes"
        raise InvalidRequestError(f"{path}: {why}.") from None
