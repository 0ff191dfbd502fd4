"""An object's metadata: enough to rebuild the job's row from the archive alone.

Values are printable ASCII, which HTTP carries unchanged. Any other text becomes an encoded word of RFC 2047,
the form in which S3 itself returns it.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from receiver.archive.base import ObjectInfo, SpooledImage
from receiver.core.completion import is_job_id, is_ref, provider_of
from receiver.core.errors import REASONS
from receiver.core.jobs import Image, StoredObject

MAX_SIDE = 10_000_000
"""Pixels. More than any image has, and far less than the ledger can hold."""

MAX_VALUE = 256
"""Bytes of a value that every store takes: Swift's limit, which it counts percent-encoded."""

_PART = re.compile(r"(.+)-part([1-9])")
_ENCODED_WORD = re.compile(r"=\?UTF-8\?B\?([A-Za-z0-9+/]*={0,2})\?=")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SIDE = re.compile(r"[0-9]{1,8}")


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """An archived image and its job, as the object's metadata describe them. Times are ms since the epoch."""

    id: str
    ref: str | None
    image: Image
    stored: StoredObject
    received_at: int
    archived_at: int


def write(item: SpooledImage) -> dict[str, str]:
    """Return the metadata to keep beside an image's bytes, encoded."""
    pairs = {
        **of_image(item.job_id, item.image),
        "ref": item.ref,
        "received-at": item.received_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
    }
    return encode_all({name: value for name, value in pairs.items() if value is not None})


def of_image(job_id: str, image: Image) -> dict[str, str | None]:
    """Return what an object's metadata must say of its image; ``None`` where they must say nothing."""
    return {
        "job-id": job_id,
        "sha256": image.sha256,
        "width": str(image.width) if image.width else None,
        "height": str(image.height) if image.height else None,
        "accepted": image.accepted,
        "provider": provider_of(job_id),
    }


def read(info: ObjectInfo) -> ArchivedImage | None:
    """Return the image that an object's metadata describe; ``None`` unless `write` can have made them."""
    pairs = info.metadata
    job_id, sha256 = pairs.get("job-id"), pairs.get("sha256", "")
    width, height = _side(pairs.get("width", "")), _side(pairs.get("height", ""))
    received_at, accepted = _milliseconds(pairs.get("received-at", "")), pairs.get("accepted")
    if (
        not is_job_id(job_id)
        or pairs.get("provider") != provider_of(job_id)
        or not _SHA256.fullmatch(sha256)
        or received_at is None
        or accepted not in {None, *REASONS}
        or (accepted is None and None in (width, height, info.format))
    ):
        return None
    ref = pairs.get("ref")
    return ArchivedImage(
        job_id,
        ref if is_ref(ref) else None,
        Image(info.format, width, height, info.bytes, sha256, accepted),
        info.stored,
        received_at=received_at,
        archived_at=int(info.modified_at.timestamp() * 1000),
    )


def encode(text: str) -> str:
    """Return a header value for any text.

    HTTP drops blanks at a value's ends (RFC 9110, 5.5), and stores drop an empty value, so both are encoded.
    A text that looks like an encoded word is encoded as well, so that `decode` restores every text.
    """
    plain = text.isascii() and text.isprintable() and text == text.strip() != ""
    if plain and not _ENCODED_WORD.fullmatch(text):
        return text
    return f"=?UTF-8?B?{base64.b64encode(text.encode('utf-8', 'surrogatepass')).decode()}?="


def decode(value: str) -> str:
    """Return the text of a value that `encode` made. Raise `ValueError` for another encoded word."""
    word = _ENCODED_WORD.fullmatch(value)
    return base64.b64decode(word[1]).decode("utf-8", "surrogatepass") if word else value


def encode_all(pairs: Mapping[str, str]) -> dict[str, str]:
    """Encode each value; one that is too long for some stores in several parts: ``ref``, ``ref-part2``, …"""
    encoded = {}
    for name, value in pairs.items():
        size = len(value)
        while any(len(quote(encode(part), safe="")) > MAX_VALUE for part in _slices(value, size)):
            size = (size + 1) // 2
        for number, part in enumerate(_slices(value, size), start=1):
            encoded[name if number == 1 else f"{name}-part{number}"] = encode(part)
    return encoded


def decode_all(values: Mapping[str, str]) -> dict[str, str]:
    """Decode each value of an object's metadata, and put together what `encode_all` split. Raise `ValueError`
    for a value that `encode` did not make.
    """
    pairs: dict[str, str] = {}
    # A part sorts behind the name that it belongs to, and behind the parts before it.
    for name, value in sorted(values.items()):
        part = _PART.fullmatch(name)
        if part is not None and part[1] in pairs:
            pairs[part[1]] += decode(value)
        else:
            pairs[name] = decode(value)
    return pairs


def _slices(text: str, size: int) -> Iterator[str]:
    return (text[at : at + size] for at in range(0, max(len(text), 1), max(size, 1)))


def _side(text: str) -> int | None:
    return int(text) if _SIDE.fullmatch(text) and 1 <= int(text) <= MAX_SIDE else None


def _milliseconds(text: str) -> int | None:
    """RFC 3339 as ms since the epoch; ``None`` for anything else, and for times before 1970."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    if at.tzinfo is None or at.year < 1970:
        return None
    return round(at.astimezone(UTC).timestamp() * 1000)
