"""Reads what providers send: values of any type and size, and secrets among them, which are hidden."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NoReturn

from receiver.core import json_text
from receiver.core.completion import MAX_OUTPUTS, MAX_SIDE, MAX_URL, Failure, is_provider_id
from receiver.core.errors import BodyError
from receiver.core.urls import percent_encoded
from receiver.providers.base import Output


def decode_json(body: bytes) -> Any:
    """Return the JSON of a body of any encoding. Raise `BodyError` ``body.not_json``, however deep it is."""
    try:
        return json_text.loads(body, _DECODER)
    except ValueError:
        raise BodyError("body.not_json") from None


def refuse(problem: str) -> NoReturn:
    """Raise the `BodyError` of a body that is no completion; ``problem`` holds nothing of a secret."""
    raise BodyError("body.not_a_completion", f"The body is no completion: {problem}.")


def own_id(value: object, name: str = "id") -> str:
    """Return a body's id of its job, or `refuse`: it must be a text that `is_provider_id`."""
    if not is_provider_id(value):
        refuse(f"{name} is no job's id")
    return value


def output_of(
    url: object,
    name: str = "the output",
    *,
    width: object = None,
    height: object = None,
    size: object = None,
    content_type: object = None,
    ends_at: int | None = None,
) -> Output:
    """Return an output of values of any type; ``name`` is its place, for what is no URL.

    A promise that cannot be one counts as none, since only the URL matters to the image.
    """
    text = percent_encoded(url) if isinstance(url, str) else ""
    if not 0 < len(text) <= MAX_URL or not text.isprintable():
        what = f"longer than {MAX_URL} characters" if len(text) > MAX_URL else "no URL"
        return Output(None, failure=Failure("url.malformed", f"{name[:1].upper()}{name[1:]} is {what}."))
    kind = content_type.partition(";")[0].strip().lower() if isinstance(content_type, str) else ""
    plain = len(kind) <= MAX_WORD and kind.isascii() and kind.isprintable() and kind.count("/") == 1
    if kind.endswith("/octet-stream"):  # which says nothing of the file
        plain = False
    return Output(
        text,
        _number(width, MAX_SIDE),
        _number(height, MAX_SIDE),
        _number(size, MAX_BYTES),
        kind if plain else None,
        ends_at,
    )


def bounded(outputs: Sequence[Output]) -> Sequence[Output]:
    """Return the outputs, or `refuse` a body with more of them than are recorded together."""
    if len(outputs) > MAX_OUTPUTS:
        refuse(f"it has more than {MAX_OUTPUTS} outputs")
    return outputs


def walk(value: object) -> Iterator[object]:
    """Yield a JSON value and all values within it, in the order of the text, however deep."""
    left = [value]
    while left:
        item = left.pop()
        yield item
        if isinstance(item, dict):
            left += reversed(item.values())
        elif isinstance(item, list):
            left += reversed(item)


def time_at(value: object) -> int | None:
    """Return an ISO 8601 time since the epoch, in UTC where it names no zone; ``None`` for what is none."""
    try:
        when = datetime.fromisoformat(value if isinstance(value, str) else "")
        at = int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):  # the last: at an end of the calendar
        return None
    return at if at >= 0 else None


def moment(value: object, since: int, unit: int = 1000) -> int | None:
    """Return a time in ms: of ISO 8601, a number since the epoch, or a span from ``since``.

    ``unit`` is that of a span, in ms. Of a number since the epoch the size tells it.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        return time_at(value)
    if not 0 <= value < 10**16:  # what no calendar has, and what is no number
        return None
    if value * unit < LONGEST_SPAN:
        return since + int(value * unit)
    return int(value) if value >= FIRST_MS else int(value * 1000)


def short(text: object, longest: int = 200) -> str:
    """Return a text of the provider as one short printable line; empty for what is no text."""
    if not isinstance(text, str):
        return ""
    head = text[: longest * 10]
    line = " ".join("".join(c if c.isprintable() else " " for c in head).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def word(text: object) -> str:
    """Return a status of the provider's, as `short` does."""
    return short(text, MAX_WORD)


def without_members(body: bytes, names: Collection[str]) -> bytes:
    """Return a body without members of these names, however deep; what is no JSON stays as it is."""
    try:
        document = json_text.loads(body)
    except ValueError:
        return body
    found = [it for it in walk(document) if isinstance(it, dict) and not it.keys().isdisjoint(names)]
    for item in found:
        for name in names:
            item.pop(name, None)
    return json.dumps(document).encode() if found else body


def mask(body: bytes, secrets: Iterable[str]) -> bytes:
    """Return a body with each of the secrets hidden, in all `spellings_in_json`."""
    for secret in secrets:
        body = hide(body, spellings_in_json(secret))
    return body


@lru_cache
def spellings_in_json(text: str) -> frozenset[bytes]:
    """Return the forms of a text in JSON: encoders differ in what they escape beyond what they must."""
    found = set()
    for ascii_alone in (True, False):
        plain = json.dumps(text, ensure_ascii=ascii_alone)[1:-1]
        found |= {plain, plain.replace("/", r"\/")}
        for form in _ESCAPES:
            found.add("".join(form % ord(c) if c in _ESCAPED else c for c in plain))
    return frozenset(it.encode() for it in found)


def hide(body: bytes, texts: Iterable[bytes]) -> bytes:
    """Return a body with each of these texts hidden. JSON may be UTF-16 or UTF-32, too."""
    encodings = _WIDE if b"\0" in body else ()
    for text in texts:
        body = body.replace(text, MASK)
        for encoding in encodings:
            wide = text.decode("utf-8", "backslashreplace").encode(encoding)
            body = body.replace(wide, MASK.decode().encode(encoding))
    return body


MASK = b"**********"

MIN_MASKED = 6
"""Characters of a secret that is masked; a shorter one would occur in ordinary words."""

_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
"""Encodings of JSON in which even ASCII is no ASCII."""

_ESCAPED = "&'+<>`"
_ESCAPES = (r"\u%04X", r"\u%04x")
"""What .NET and Go escape in JSON beyond what must be."""

MAX_WORD = 64
"""Characters of a status or a media type."""

MAX_BYTES = 2**53
"""Of a promised size."""

LONGEST_SPAN = 10**9
"""ms. A smaller number is a span, and no time since the epoch."""

FIRST_MS = 10**12
"""A number from here on counts milliseconds since the epoch."""


def _number(value: object, most: int) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most else None


def _no_constant(name: str) -> NoReturn:
    # Python reads NaN and Infinity, which are not JSON (RFC 8259, 6).
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_no_constant)  # json.loads() would make one for each call
