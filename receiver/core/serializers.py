"""Jobs as plain JSON values; times in RFC 3339 with ``Z``."""

import re
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from receiver.core.jobs import Event, Image, Job

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - in UTC, and formatted without its offset, which takes a third longer


def time(at: int | None) -> str | None:
    """Format milliseconds since the epoch as RFC 3339 in UTC."""
    if at is None:
        return None
    return (_EPOCH + timedelta(milliseconds=at)).isoformat(timespec="milliseconds") + "Z"


def job(job: Job) -> dict[str, Any]:
    """Return a job as JSON values; what has no value yet is ``None``."""
    image, stored, problem = job.image, job.stored, job.problem
    return {
        "id": job.id,
        "state": job.state.value,
        "provider": job.provider,
        "provider_id": job.provider_id,
        "output": job.output,
        "ref": job.ref,
        "attempts": job.attempts,
        "next_attempt_at": time(job.next_attempt_at),
        "url_expires_at": time(job.deadline),
        "image_url": job.image_url,
        "source_url": job.source_url,
        "endpoint": job.endpoint,
        "promised": _promised(job),
        "image": image and _image(image),
        "archive": stored and {"uri": stored.uri, "etag": stored.etag, "version": stored.version},
        "error": problem and {"reason": problem.reason, "detail": problem.detail, "at": time(problem.at)},
        "submitted_at": time(job.submitted_at),
        "received_at": time(job.received_at),
        "fetched_at": time(job.fetched_at),
        "archived_at": time(job.archived_at),
        "updated_at": time(job.updated_at),
    }


def _promised(job: Job) -> dict[str, Any]:
    promised: dict[str, Any] = {"width": job.promised_width, "height": job.promised_height}
    if job.promised_bytes is not None:
        promised["bytes"] = job.promised_bytes
    if job.promised_type is not None:
        promised["type"] = job.promised_type
    return promised


def _image(image: Image) -> dict[str, Any]:
    # Not `dataclasses.asdict`, which copies and takes ten times as long.
    accepted = {"accepted": image.accepted} if image.accepted else {}
    return {
        "format": image.format,
        "width": image.width,
        "height": image.height,
        "bytes": image.bytes,
        "sha256": image.sha256,
        **accepted,
    }


def event(event: Event) -> dict[str, Any]:
    return {
        "at": time(event.at),
        "event": event.event,
        "from": event.before and event.before.value,
        "to": event.after.value,
        "reason": event.reason,
        "detail": event.detail,
    }


_USER = re.compile(r"^([^/?#]*//)[^/?#]*@")


def plain_url(url: str) -> str:
    """Return a URL without what may be a secret: its query, and a user's name and password."""
    head, mark, _ = url.partition("?")
    head = _USER.sub("\\1\N{HORIZONTAL ELLIPSIS}@", head)
    return f"{head}?\N{HORIZONTAL ELLIPSIS}" if mark else head.partition("#")[0]


def detail_without_keys(event: Event) -> str | None:
    """Return the detail of a history entry; where it is a URL, without what may be a secret."""
    is_url = event.event == "other_url" and event.detail is not None
    return plain_url(event.detail or "") if is_url else event.detail


def is_web(url: str | None) -> bool:
    """Return whether a link to this URL leads to a web server, and runs no script."""
    try:
        return url is not None and urlsplit(url).scheme in {"http", "https"}
    except ValueError:
        return False
