"""An image's key: a template filled with the job's values. No value can lead a key out of its prefix.

Ids, refs and endpoints are untrusted text. A value of letters, digits, dot, dash and underscore stands as it
is. Any other is reduced to those and ends in ``!`` and half of its SHA-256, so that two ids never share a
spelling. ``!`` is none of those characters, and one that S3 calls safe.
"""

import hashlib
import re
import string
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache

from receiver.core.completion import PROVIDER, PROVIDER_ID
from receiver.core.errors import ArchiveError, ConfigError
from receiver.core.jobs import Image, Job

MAX_KEY = 768
"""Bytes of a key without the bucket's prefix."""

MAX_COMPONENT = 240
"""Bytes between two slashes. File systems take 255, and the folder archive adds a few of its own."""

MAX_VALUE = 64
"""Characters of an id, a ref or an endpoint within a key."""

LONGEST = {"id": MAX_VALUE, "ref": MAX_VALUE, "endpoint": MAX_VALUE, "provider": 32, "sha256": 64, "ext": 8}
"""The most bytes of each value but the time's."""

FIELDS = {*LONGEST, "received"}
DIRECTIVES = frozenset("YmdHMSjyGVu")
"""Those of strftime that give only digits in every locale."""

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
PLAIN_ID = re.compile(rf"{PLAIN.pattern}|{PROVIDER}:{PROVIDER_ID}(?:~[0-9]+)?", re.ASCII)
NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Field:
    """One ``{…}`` of a template: its name, and the ``spec`` behind its colon. Its value may not hold the
    ``excluded`` characters here, because they border the id.
    """

    name: str
    spec: str
    excluded: frozenset[str] = frozenset()


_Component = tuple[str | _Field, ...]


def check_template(template: str) -> None:
    """Check that a template gives every job its own key, which every store accepts. Raise `ConfigError`."""
    _parse(template)


def render_key(template: str, job: Job, image: Image, received_at: datetime) -> str:
    """Return the key of a job's image: a relative path without ``.`` and ``..``, at most ``MAX_KEY`` bytes.

    Two ids never give the same key under one template, which `check_template` accepts. ``none`` stands for
    what is missing. Raise `ConfigError` where the template is invalid.
    """
    values = {
        "id": job.id,
        "provider": job.provider or "none",
        "ref": job.ref or "none",
        "sha256": image.sha256,
        "ext": image.extension,
        "endpoint": job.endpoint or "none",
    }
    moment = received_at.astimezone(UTC)

    def render(part: str | _Field) -> str:
        if isinstance(part, str):
            return part
        if part.name == "received":
            return moment.strftime(part.spec)
        return _spell(values[part.name], part.excluded, is_id=_is_id(part))

    return "/".join("".join(map(render, component)) for component in _parse(template))


def check_key(key: str) -> None:
    """Check, right before its use, that a key stays below its prefix. Raise ``archive.refused``."""
    if not key.isprintable() or "\\" in key or any(part[:1] in {"", "."} for part in key.split("/")):
        raise ArchiveError("archive.refused", "A key must be a plain relative path.")


SOURCES = ".sources/"
"""The beginning of the keys of kept sources. No part of an image's key begins with a dot."""


def source_key(job_id: str) -> str:
    """Return the key of the small picture of a job's source, which is known before the image is."""
    folder = hashlib.sha256(job_id.encode()).hexdigest()[:2]  # so that no folder holds all of them
    return f"{SOURCES}{folder}/{_spell(job_id, frozenset(), is_id=True)}.webp"


def _spell(text: str, excluded: frozenset[str], *, is_id: bool = False) -> str:
    """Return a spelling that is safe in a path and no other text's: the text itself where possible."""
    plain = PLAIN_ID if is_id else PLAIN
    if len(text) <= MAX_VALUE and plain.fullmatch(text) and excluded.isdisjoint(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    kept = "".join(c for c in NOT_PLAIN.sub("", text) if c not in excluded).lstrip("._-")
    return f"{kept[: MAX_VALUE - 33]}!{digest}"


@lru_cache(maxsize=8)
def _parse(template: str) -> tuple[_Component, ...]:
    """Return the template's path components, each a row of literals and fields, or raise ConfigError."""
    # {received:%Y/%m} is two components, and "%Y//%m" leaves an empty one, which is refused.
    spread = re.sub(
        r"(?<!\{)\{received:([^{}]+)\}",
        lambda found: "/".join(spec and f"{{received:{spec}}}" for spec in found[1].split("/")),
        template,
    )
    parsed = tuple(_guard_id(_parse_component(component)) for component in spread.split("/"))
    if not any(_is_id(part) for row in parsed for part in row):
        raise _refusal("without {id} two jobs could meet at one key")
    _check_lengths(parsed)
    return parsed


def _parse_component(text: str) -> list[str | _Field]:
    row: list[str | _Field] = []
    try:
        pieces = list(string.Formatter().parse(text))
    except ValueError:
        raise _refusal("its braces do not match") from None
    for literal, name, given, conversion in pieces:
        if literal:
            row.append(literal)
        if name is None:
            continue
        # Only a bare name: str.format would also follow attributes and indexes ({id.__class__}).
        if name not in FIELDS or conversion:
            raise _refusal(
                "its fields are {id} {ext} {ref} {sha256} {endpoint} {provider} {received:%Y/%m/%d}"
            )
        spec = given or ""
        if name == "received":
            spec = spec or "%Y%m%dT%H%M%SZ"
            if set(re.findall(r"%(.?)", spec, re.DOTALL)) - DIRECTIVES or re.search(r"[{}]", spec):
                raise _refusal("{received:…} takes %Y %m %d %H %M %S %j %y %G %V %u alone")
        elif spec:
            raise _refusal(f"{{{name}}} takes no format")
        row.append(_Field(name, spec))
    return row


def _guard_id(row: list[str | _Field]) -> _Component:
    """Keep the id recognisable between its neighbours.

    ``{ref}-{id}`` would be one key for ("a-b", "c") and ("a", "b-c"). If no other value may hold the
    characters that border the id, the id can be read back, so two ids never give the same component.
    """
    borders: set[str] = set()
    for before, part, after in zip(["/", *row], row, [*row[1:], "/"], strict=False):
        if not _is_id(part):
            continue
        if isinstance(before, _Field) or isinstance(after, _Field):
            raise _refusal("something must stand between {id} and its neighbour, such as a slash")
        borders |= {before[-1], after[0]} - {"/"}
    fields = [part for part in row if isinstance(part, _Field)]
    if any(c.isalnum() or c == "!" for c in borders) and len(fields) > 1:
        raise _refusal("put a slash, a dash, a dot or an underscore around {id}")
    return tuple(
        replace(part, excluded=frozenset(borders)) if isinstance(part, _Field) and not _is_id(part) else part
        for part in row
    )


def _is_id(part: str | _Field) -> bool:
    return isinstance(part, _Field) and part.name == "id"


def _check_lengths(parsed: tuple[_Component, ...]) -> None:
    """Refuse components that are no plain names, or that the longest values make too long."""
    total = len(parsed) - 1
    for row in parsed:
        texts = [part if isinstance(part, str) else part.spec for part in row]
        literals = "".join(texts)
        if not row or not literals.isprintable() or "\\" in literals:
            raise _refusal("it must be a relative path of printable characters, without empty parts")
        if texts[0].startswith("."):
            raise _refusal("no part of it may begin with a dot")
        size = sum(map(_longest, row))
        if size > MAX_COMPONENT:
            raise _refusal(f"a part between slashes could exceed {MAX_COMPONENT} bytes")
        total += size
    if total > MAX_KEY:
        raise _refusal(f"its keys could exceed {MAX_KEY} bytes")


def _longest(part: str | _Field) -> int:
    if isinstance(part, str):
        return len(part.encode())
    return LONGEST.get(part.name) or 2 * len(part.spec.encode())  # %Y, two characters, gives four


def _refusal(why: str) -> ConfigError:
    return ConfigError(f"RECEIVER_ARCHIVE_KEY: {why}")
