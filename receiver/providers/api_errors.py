"""Turns providers' error answers, which are mostly undocumented, into the errors of `core.errors`. Pure.

Ximilar's own client expects two forms: ``{"detail": …}`` and ``{"status": {"code", "text"}}``. APIs of
this kind also answer with a map of fields to complaints, a gateway's HTML page, plain text, or nothing at
all.
"""

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from receiver.core import json_text, retry_after
from receiver.core.errors import (
    InvalidRequestError,
    NoCreditsError,
    ProviderError,
    RateLimitedError,
    TokenRefusedError,
    UnavailableError,
    UnknownJobError,
)

MAX_EXPLANATION = 200
"""Characters."""

MAX_DEPTH = 5
"""How far complaints about fields within fields are followed."""

SECRET_RUN = 8
"""Characters of a secret in a row from which on they are redacted."""

_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)

_BY_STATUS: Mapping[int, type[TokenRefusedError | NoCreditsError | RateLimitedError | UnknownJobError]] = {
    401: TokenRefusedError,
    402: NoCreditsError,
    403: TokenRefusedError,
    404: UnknownJobError,
    429: RateLimitedError,
}

_TRANSIENT = frozenset({407, 408, 421, 425})
"""Statuses of a moment, or of a machine in between, which say nothing about the request."""


def api_error(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    secrets: Iterable[str],
    submitting: bool,
    about_a_job: bool,
    now: float,
    url_setting: str = "XIMILAR_API_URL",
) -> ProviderError:
    """Return the error that an answer other than 2xx stands for, without ``secrets`` in its detail.

    The headers have lower-case names. ``submitting`` tells whether the call was to make a job, and
    ``about_a_job`` whether it named one, so that a 404 can be about it. ``now``, in seconds since the epoch,
    is needed for a ``Retry-After`` that is a date. ``url_setting`` is what an operator may have set wrong.
    """
    detail = f"The provider answers {status}: {explanation(body, secrets)}"
    wait = retry_after.parse(headers.get("retry-after", ""), now)
    if status == 404 and not about_a_job:
        return UnavailableError(f"{detail} Is {url_setting} right?")
    if known := _BY_STATUS.get(status):
        return known(detail, retry_after=wait)
    if 400 <= status < 500:
        # A 4xx proves that the request was judged, and not carried out.
        return (UnavailableError if status in _TRANSIENT else InvalidRequestError)(detail, retry_after=wait)
    # A gateway's 5xx says nothing about what the server behind it has done.
    return UnavailableError(detail, retry_after=wait, maybe_sent=submitting)


def explanation(body: bytes, secrets: Iterable[str] = ()) -> str:
    """Return an error body's text as one short printable line, redacted."""
    text = body.decode("utf-8", "replace").strip()
    try:
        text = "; ".join(_complaints(json_text.loads(text)))
    except ValueError:
        title = _TITLE.search(text)
        text = html.unescape(title[1] if title else "" if text.startswith(("<", "{", "[")) else text)
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: MAX_EXPLANATION * 10]).split())
    line = redact(line, secrets)
    if len(line) > MAX_EXPLANATION:
        line = line[: MAX_EXPLANATION - 1] + "…"
    if not line:
        return "it does not say why."
    return line if line.endswith((".", "!", "?", "…")) else line + "."


def redact(line: str, secrets: Iterable[str]) -> str:
    """Replace every run of characters that repeats a part of a secret by an ellipsis."""
    hidden = [False] * len(line)
    for secret in secrets:
        size = min(SECRET_RUN, len(secret))
        if size < SECRET_RUN // 2:  # no secret is that short, and it would stand in any sentence
            continue
        for start in range(len(line) - size + 1):
            if line[start : start + size] in secret:
                hidden[start : start + size] = [True] * size
    kept = ("\0" if hide else character for character, hide in zip(line, hidden, strict=True))
    return re.sub("\0+", "…", "".join(kept))


def _complaints(document: Any, depth: int = 0) -> Iterator[str]:
    """Yield the sentences in an error's JSON, each after the name of its field."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, list) and depth < MAX_DEPTH:
        for item in document[:10]:
            yield from _complaints(item, depth + 1)
    elif isinstance(document, dict) and depth < MAX_DEPTH:
        for name in ("detail", "status", "error", "message", "non_field_errors"):
            value = document.get(name)
            if name == "status" and isinstance(value, dict):
                value = value.get("text")
            if found := list(_complaints(value, depth + 1)):
                yield from found
                return
        for name, value in list(document.items())[:10]:
            yield from (f"{name}: {complaint}" for complaint in _complaints(value, depth + 1))
