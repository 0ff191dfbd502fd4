"""The provider's refusals, whose forms are documented nowhere, become one tree of errors. Pure.

Two forms are expected by the vendor's own client: ``{"detail": …}`` and ``{"status": {"code", "text"}}``.
Others are usual among APIs of this kind: a map of fields to complaints, a gateway's HTML page, plain text,
and nothing at all.
"""

import email.utils
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from receiver.core.errors import (
    InvalidRequestError,
    NoCreditsError,
    ProviderError,
    RateLimitedError,
    TokenRefusedError,
    UnavailableError,
    UnknownJobError,
)

LONGEST_RETRY_AFTER = 24 * 3600.0
LONGEST_WORDS = 200
DEEPEST = 5
"""How far complaints about fields within fields are followed."""

WINDOW = 8
"""Characters in a row that are ours, from which on they are taken out of the provider's words."""

_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)

_CLASSES: Mapping[int, type[TokenRefusedError | NoCreditsError | RateLimitedError | UnknownJobError]] = {
    401: TokenRefusedError,
    402: NoCreditsError,
    403: TokenRefusedError,
    404: UnknownJobError,
    429: RateLimitedError,
}

_NOT_OUR_FAULT = frozenset({407, 408, 421, 425})
"""Refusals of a moment or of a machine in between, which say nothing of what was asked for."""


def refusal(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    ours: Iterable[str],
    submitting: bool,
    about_a_job: bool,
    now: float,
) -> ProviderError:
    """The error that an answer other than 2xx stands for.

    Args:
        status: of the answer.
        headers: of the answer, by lower-case names.
        body: as much of it as was read.
        ours: what was sent and must not stand in the detail.
        submitting: whether the call was to make a job.
        about_a_job: whether the call named a job, so that a 404 can be about it.
        now: seconds since the epoch, to read a ``Retry-After`` that is a date.
    """
    detail = f"The provider answers {status}: {words(body, ours)}"
    wait = retry_after(headers.get("retry-after", ""), now)
    if status == 404 and not about_a_job:
        return UnavailableError(f"{detail} Is XIMILAR_API_URL right?")
    if known := _CLASSES.get(status):
        return known(detail, retry_after=wait)
    if 400 <= status < 500:
        # Whoever answers 4xx has judged the request, and did not do it.
        return (UnavailableError if status in _NOT_OUR_FAULT else InvalidRequestError)(
            detail, retry_after=wait
        )
    # A gateway's 5xx says nothing of what the server behind it has done.
    return UnavailableError(detail, retry_after=wait, maybe_sent=submitting)


def retry_after(text: str, now: float) -> float | None:
    """Seconds to wait, from either form of RFC 9110, 10.2.3; not below 0, and not above a day."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:10])
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def words(body: bytes, ours: Iterable[str] = ()) -> str:
    """What a refusal's body says, as one short printable line, without what was sent."""
    text = body.decode("utf-8", "replace").strip()
    try:
        said = "; ".join(_complaints(json.loads(text)))
    except (ValueError, RecursionError):
        title = _TITLE.search(text)
        said = html.unescape(title[1] if title else "" if text.startswith(("<", "{", "[")) else text)
    line = " ".join("".join(c if c.isprintable() else " " for c in said[: LONGEST_WORDS * 10]).split())
    line = without(line, ours)
    if len(line) > LONGEST_WORDS:
        line = line[: LONGEST_WORDS - 1] + "…"
    if not line:
        return "it does not say why."
    return line if line.endswith((".", "!", "?", "…")) else line + "."


def without(line: str, ours: Iterable[str]) -> str:
    """The provider's words without what they repeat of ours, which may be a secret."""
    hidden = [False] * len(line)
    for own in ours:
        size = min(WINDOW, len(own))
        if size < WINDOW // 2:  # no secret is that short, and it would stand in any sentence
            continue
        for start in range(len(line) - size + 1):
            if line[start : start + size] in own:
                hidden[start : start + size] = [True] * size
    kept = ("\0" if hide else character for character, hide in zip(line, hidden, strict=True))
    return re.sub("\0+", "…", "".join(kept))


def _complaints(document: Any, depth: int = 0) -> Iterator[str]:
    """The sentences in a refusal's JSON, each after the name of its field."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, list) and depth < DEEPEST:
        for item in document[:10]:
            yield from _complaints(item, depth + 1)
    elif isinstance(document, dict) and depth < DEEPEST:
        for name in ("detail", "status", "error", "message", "non_field_errors"):
            value = document.get(name)
            if name == "status" and isinstance(value, dict):
                value = value.get("text")
            if found := list(_complaints(value, depth + 1)):
                yield from found
                return
        for name, value in list(document.items())[:10]:
            yield from (f"{name}: {complaint}" for complaint in _complaints(value, depth + 1))
