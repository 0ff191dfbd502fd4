"""The time at which a presigned URL stops working, read from the URL itself."""

import base64
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

_HINT = re.compile(r"[?&](?:x-amz-expires|x-goog-expires|expires|policy|se)=", re.IGNORECASE)
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)


def stated_expiry(url: str) -> datetime | None:
    """Return the expiry in a URL's signature, UTC; ``None`` where the URL carries none that can be read.

    Supported: AWS Signature Version 4 (``X-Amz-Date`` + ``X-Amz-Expires``) and Google's V4 (``X-Goog-Date`` +
    ``X-Goog-Expires``); the older query signatures of S3 and Google (``Expires``, seconds since the epoch,
    beside ``Signature``); CloudFront's canned (``Expires``) and custom policy (``Policy``); Azure's shared
    access signature (``se`` beside ``sig``).
    """
    if _HINT.search(url) is None:  # most URLs carry none, and parsing costs much more than this search
        return None
    try:
        query = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True, max_num_fields=100))
    except ValueError:
        return None
    try:
        when = _signed_span(query) or _epoch(query) or _policy(query) or _azure(query)
        when = when and when.astimezone(UTC)
    except (ValueError, OverflowError, OSError, LookupError, TypeError, RecursionError):
        return None
    return when if when is not None and when < _LATEST else None


def deadline(url: str | None, *, since: int, lifetime: timedelta) -> int:
    """Return when an image URL expires, ms since the epoch: as it states, else a lifetime after ``since``.

    Args:
        url: of the image, if there is one.
        since: ms since the epoch: the completion, or else its receipt.
        lifetime: of URLs that state no expiry.
    """
    stated = stated_expiry(url) if url is not None else None
    if stated is not None:
        return int(stated.timestamp() * 1000)
    # The provider's clock may be wrong, and a time beyond the calendar could not be shown.
    return min(since + int(lifetime.total_seconds() * 1000), int(_LATEST.timestamp() * 1000))


def _signed_span(query: Mapping[str, str]) -> datetime | None:
    lowered = {name.lower(): value for name, value in query.items()}
    for brand in ("amz", "goog"):
        date, span = lowered.get(f"x-{brand}-date"), lowered.get(f"x-{brand}-expires")
        if date is not None and span is not None:
            begin = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            return begin + timedelta(seconds=int(span))
    return None


def _epoch(query: Mapping[str, str]) -> datetime | None:
    if "Expires" in query and "Signature" in query:
        return datetime.fromtimestamp(int(query["Expires"]), UTC)
    return None


def _policy(query: Mapping[str, str]) -> datetime | None:
    if "Policy" not in query or "Signature" not in query:
        return None
    # CloudFront's own base64 alphabet for URLs: - _ ~ for + = /.
    text = query["Policy"].translate(str.maketrans("-_~", "+=/"))
    statement = json.loads(base64.b64decode(text, validate=True))["Statement"][0]
    return datetime.fromtimestamp(int(statement["Condition"]["DateLessThan"]["AWS:EpochTime"]), UTC)


def _azure(query: Mapping[str, str]) -> datetime | None:
    if "se" not in query or "sig" not in query:
        return None
    end = query["se"]
    if re.fullmatch(r"\d{4}-\d\d-\d\d", end):
        end += "T00:00Z"
    when = datetime.fromisoformat(end)
    return when if when.tzinfo else when.replace(tzinfo=UTC)
