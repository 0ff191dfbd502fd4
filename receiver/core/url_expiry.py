"""Reads the time at which a signed URL stops working from the URL itself.

Each form that signers write is a row or a small function below. A form counts only beside the signature that
belongs to it, so that a word such as ``expires`` alone says nothing. Where a URL states several ends, the
earliest counts. What cannot be read for certain gives no end.

Sources: the public documentation and SDKs of the services named beside each form, November 2026.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

from receiver.core.clock import milliseconds

_LATEST = datetime(9999, 1, 1, tzinfo=UTC)
_LATEST_MS = int(_LATEST.timestamp() * 1000)
_SECONDS_FROM = 10**6
"""A smaller number is a span, or says never, as 0 and -1 do: as seconds since the
epoch it would lie in early January 1970."""
_MS_FROM = 10**12
"""A number from here on counts milliseconds: as seconds it would lie after the year 33,000."""

BELIEVED_LIVES = 7
"""A stated end is believed up to this multiple of the provider's own life of URLs. Of one day, that is seven
days: the longest that Signature Version 4 allows."""

MAX_QUERY = 8192
"""Characters of a query that are looked at. No signer writes more."""

_HINTS = ("exp", "sign=", "token", "auth", "policy", "jwt", "eyj", "time", "valid")
_SHORT_HINTS = ("se", "ex", "t", "e", "ik-t", "_upt", "pbe")
_SHORT_HINT = re.compile(r"(?<![a-z])(?:se|ex|t|e|ik-t|_upt|pbe)$")
_HASH_HINT = re.compile(r"/[0-9a-f]{32}/")
_HASH_PATH = re.compile(r"^/[0-9a-f]{32}/([0-9a-f]{8})/", re.ASCII)
_JWT = re.compile(r"eyJ[\w-]+\.(eyJ[\w-]+)\.[\w-]*", re.ASCII)
_SPAN = re.compile(r"x-(?:[a-z0-9]+-)?expires")
_LIST_END = re.compile(r"(?:^|[/=~])exp=(\d{9,13})(?=~|$)", re.ASCII)
_LIST_PROOF = re.compile(r"(?:^|[/=~])hmac=")
_EDGE = re.compile(r"(?:^|/)edge-cache-token=(?:[^/?]*?[~&])?expires=([0-9]{9,13})(?=[~&/]|$)", re.IGNORECASE)
_BUNNY = re.compile(r"/bcdn_token=[^/]*?&expires=(\d{9,13})(?=[&/]|$)", re.ASCII)

_SIGNATURES = frozenset({"signature", "sig", "s", "sign", "token", "md5", "hmac", "hash", "st"})


def stated_expiry(url: str) -> datetime | None:
    """Return the end of life that a URL states, in UTC and whole seconds; ``None`` where it states none."""
    if not _may_state_one(url.lower()):
        return None  # most URLs state none, and taking one apart costs much more than a look
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if "http:/" in parts.path or "https:/" in parts.path or len(parts.query) > MAX_QUERY:
        return None  # a proxy's URL: the query belongs to the URL that is nested in the path
    ends = []
    query = _query(parts.query)
    for form in _FORMS:
        try:
            ends += [end for end in form(query, parts.path) if end is not None]
        except (ValueError, OverflowError, OSError, LookupError, TypeError, RecursionError):
            continue
    end = min(ends, default=None)
    return end.replace(microsecond=0) if end is not None and end < _LATEST else None


def _may_state_one(text: str) -> bool:
    if any(map(text.__contains__, _HINTS)):  # a third of the time of a generator
        return True
    for name in text.split("=")[:-1]:  # to search all of the text for a short one takes much longer
        if name.endswith(_SHORT_HINTS) and _SHORT_HINT.search(name[-5:]):
            return True
    return _HASH_HINT.search(text) is not None


@dataclass(slots=True)  # a frozen one takes three times as long to make, and each delivery makes one
class Deadline:
    """When an image URL's life ends, ms since the epoch; and the end that it states, if that is another."""

    at: int
    disbelieved: datetime | None = None


def deadline(
    url: str | None, *, since: int, now: int, lifetime: timedelta, stated: int | None = None
) -> Deadline:
    """Return when an image URL's life ends: at the end that is stated, else a lifetime after ``since``.

    ``since`` is of the completion, or else the receipt of it; ms since the epoch, as ``now`` and ``stated``,
    which is what the completion says beside the URL, and counts before what the URL says. A stated end in the
    past, or absurdly far, is not believed: a wrong clock or signer must not cost the image, and only the host
    can say that a URL is dead.
    """
    life = milliseconds(lifetime)
    # The provider's clock may say anything; a time that no calendar has could not be shown any more.
    own = min(since + life, _LATEST_MS)
    end = None if url is None else stated_expiry(url)
    if stated is not None and 0 <= stated < _LATEST_MS:
        end = datetime.fromtimestamp(stated / 1000, UTC)
    if end is None:
        return Deadline(own)
    at = int(end.timestamp() * 1000)
    return Deadline(at) if now < at <= since + BELIEVED_LIVES * life else Deadline(own, end)


def _query(text: str) -> Mapping[str, str]:
    """Return the parameters by their name in lower case; of a name that is repeated, the first.

    A plus stays a plus. A parameter that holds a whole URL unescaped ends the reading: what follows it may
    belong to the nested URL.
    """
    query: dict[str, str] = {}
    for part in text.split("&")[:100]:
        name, _, value = part.partition("=")
        if "://" in value and "?" in value:
            break
        query.setdefault(unquote(name).lower(), unquote(value))
    return query


# How one value is read.


def _moment(text: str) -> datetime | None:
    """Return the time of seconds or milliseconds since the epoch, of a date, or of an ISO 8601 time."""
    if re.fullmatch(r"-?\d{1,16}", text, re.ASCII):
        number = int(text)
        if number < _SECONDS_FROM:
            return None
        return datetime.fromtimestamp(number / 1000 if number >= _MS_FROM else number, UTC)
    if text[:4].isdigit() and "-" in text:
        end = datetime.fromisoformat(text)
        return end.replace(tzinfo=UTC) if end.tzinfo is None else end.astimezone(UTC)
    return None  # `inf` and other words


def _seconds(number: Any) -> datetime:
    return datetime.fromtimestamp(int(number), UTC)


def _hex(text: str) -> datetime | None:
    return _seconds(int(text, 16)) if re.fullmatch(r"[0-9a-fA-F]{8}", text) else None


def _written(text: str, form: str) -> datetime:
    return datetime.strptime(text, form).replace(tzinfo=UTC)


def _decoded(text: str) -> Any:
    """Return the JSON in a value of base64, in the plain, the URL-safe or CloudFront's alphabet."""
    plain = text.rstrip("=_~.").translate(str.maketrans("-_~", "+/=")) if "_" in text or "-" in text else text
    # CloudFront writes - for +, _ for = and ~ for /; elsewhere - and _ stand for + and /.
    for candidate in (text.translate(str.maketrans("-_~", "+=/")), plain):
        try:
            body = candidate.rstrip("=")
            return json.loads(base64.b64decode(body + "=" * (-len(body) % 4), validate=True))
        except ValueError:
            continue
    return None


# The forms.

_MOMENTS: tuple[tuple[str, frozenset[str], Callable[[str], datetime | None]], ...] = (
    ("expires", _SIGNATURES, _moment),  # S3 V2, GCS V2, CloudFront, OSS V1, OBS, KS3, imgix, Bunny, Intercom
    ("exp", frozenset({"sig"}), _moment),  # Ideogram, Cloudflare Images, Civitai, Bytescale
    ("se", frozenset({"sig"}), _moment),  # Azure
    ("ske", frozenset({"sig"}), _moment),  # Azure, the end of a user delegation key
    ("expires_at", frozenset({"signature"}), _moment),  # Cloudinary's API
    ("expiry", frozenset({"signature"}), _moment),  # Sanity
    ("expirationtimestamp", frozenset({"signature"}), _moment),  # Notion, ms
    ("e", frozenset({"token", "st"}), _moment),  # Qiniu, nginx's secure links
    ("ik-t", frozenset({"ik-s"}), _moment),  # ImageKit
    ("pbe", frozenset({"pbs", "pbt"}), _moment),  # Pixelbin
    ("vercel-blob-valid-until", frozenset({"vercel-blob-signature"}), _moment),  # ms
    ("ex", frozenset({"hm"}), _hex),  # Discord
    ("kstime", frozenset({"kssecret"}), _hex),  # Kling
    # Qiniu's CDN; others begin a life of the console's length
    ("t", frozenset({"sign"}), lambda text: _hex(text) or _moment(text)),
)
"""Name, the names of which one must stand beside it, and how it is read."""


def _moments(query: Mapping[str, str], _: str) -> Iterator[datetime | None]:
    for name, companions, read in _MOMENTS:
        if name in query and not companions.isdisjoint(query):
            yield read(query[name])


def _signed_spans(query: Mapping[str, str], _: str) -> Iterator[datetime | None]:
    """Signature Version 4 and its relatives: AWS, Google, OSS, TOS, OBS; ByteDance's hosts; Pinata.

    Beside a date the value is a span of seconds, else a moment. ``v2`` and ``OSS2`` make it a moment too.
    """
    for name in query:
        if not _SPAN.fullmatch(name):
            continue
        brand, value = name.removesuffix("expires"), query[name]
        date = query.get(f"{brand}date")
        if query.get(f"{brand}algorithm") == "v2" or query.get(f"{brand}signature-version") == "OSS2":
            date = None
        if date is not None:
            begin = _written(date, "%Y%m%dT%H%M%SZ") if "T" in date else _moment(date)
            yield begin and begin + timedelta(seconds=int(value))
        elif f"{brand}signature" in query:
            yield _moment(value)


def _policies(query: Mapping[str, str], _: str) -> Iterator[datetime | None]:
    """A policy in base64: CloudFront, Huawei OBS, Kingsoft, Filestack, Vercel Blob."""
    for name in ("policy", "fs-policy", "x-kss-policy", "x-obs-policy"):
        policy = _decoded(query[name]) if name in query else None
        if not isinstance(policy, dict):
            continue
        for statement in policy.get("Statement", ()):
            yield _seconds(statement["Condition"]["DateLessThan"]["AWS:EpochTime"])
        for end in ("expiration", "expiry"):
            if end in policy:
                yield _moment(str(policy[end]))
    if "vercel-blob-delegation" in query:
        yield _moment(str(_decoded(query["vercel-blob-delegation"].partition(".")[0])["validUntil"]))


def _tencent_cos(query: Mapping[str, str], _: str) -> Iterator[datetime | None]:
    nested = _query(query["sign"]) if "q-sign-time=" in query.get("sign", "") else query
    for name in ("q-sign-time", "q-key-time"):
        if name in nested:
            yield _seconds(nested[name].split(";")[1])


def _token_lists(query: Mapping[str, str], path: str) -> Iterator[datetime | None]:
    """``exp=…~hmac=…``: Akamai, Cloudinary, Uploadcare, Freepik; under any name, or none."""
    for text in (*(f"{name}={value}" for name, value in query.items()), unquote(path)):
        ends = set(_LIST_END.findall(text)) if "hmac=" in text else ()
        if len(ends) == 1 and _LIST_PROOF.search(text):
            yield _moment(ends.pop())


def _json_web_tokens(query: Mapping[str, str], path: str) -> Iterator[datetime | None]:
    """The claim ``exp`` counts seconds, always (RFC 7519, 4.1.4): Supabase, Runway, Cloudflare Stream."""
    for text in (*(query.get(name, "") for name in ("token", "_jwt", "jwt")), *path.split("/")):
        if "eyJ" in text and (match := _JWT.fullmatch(text)):
            yield _seconds(_decoded(match[1])["exp"])


def _listed(query: Mapping[str, str], _: str) -> Iterator[datetime | None]:
    """Ends inside a list of a service's own."""
    if (fields := query.get("authorization", "").split("/"))[0].startswith("bce-auth-v"):  # Baidu BOS
        span = int(fields[3])
        begin = _moment(fields[2])
        yield begin + timedelta(seconds=span) if begin is not None and span != -1 else None  # -1 never ends
    if len(fields := query.get("authorization", "").split("_")) > 5 and fields[0] == "3":  # Backblaze B2
        yield _written(fields[5], "%Y%m%d%H%M%S")
    if "_upt" in query and (match := re.fullmatch(r"[0-9a-f]{8}(\d{10})", query["_upt"], re.ASCII)):  # UpYun
        yield _seconds(match[1])
    for name in ("auth_key", "sign"):  # CDNs of Aliyun and Tencent, type A
        if len(fields := query.get(name, "").split("-")) == 4:
            ends = {field for field in fields[:2] if re.fullmatch(r"\d{10}", field, re.ASCII)}
            if len(ends) == 1:
                yield _seconds(ends.pop())


def _paths(query: Mapping[str, str], path: str) -> Iterator[datetime | None]:
    """Ends in the path: Bunny, Google Media CDN, CDNs of type C."""
    token = "edge-cache-token=" + query.get("edge-cache-token", "")
    for pattern, text in ((_BUNNY, path), (_EDGE, path), (_EDGE, token)):
        if match := pattern.search(text):
            yield _moment(match[1])
    if match := _HASH_PATH.search(path):
        yield _hex(match[1])


_FORMS = (_moments, _signed_spans, _policies, _tencent_cos, _token_lists, _json_web_tokens, _listed, _paths)
