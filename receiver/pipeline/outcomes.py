"""What a failure means for its job. Pure: one function for each situation, over the tables below.

To change what a reason leads to, change its row here and in ``tests/unit/test_outcomes.py``. Times are ms
since the epoch; ``job`` is the job as it was claimed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import TypeVar

from receiver.core import backoff
from receiver.core.backoff import Jitter
from receiver.core.errors import FetchError, ImageError, ProviderError, ReceiverError, UrlError
from receiver.core.jobs import Job

T = TypeVar("T")

ASK_ON_MS = 60 * 60 * backoff.SECOND
"""How long a silent provider is asked on for a fresh URL, beyond the old URL's end."""


class Action(StrEnum):
    """What is done about a failure."""

    RETRY = "retry"
    """The same work is done again, at the decision's time."""
    ASK = "ask"
    """The provider is asked for a fresh URL."""
    ASK_AGAIN = "ask again"
    """The provider was silent, and is asked again at the decision's time."""
    REJECT = "reject"
    EXPIRE = "expire"
    EXAMINE = "examine"
    """Another object has the job's key. It is read, because it may be the job's own image."""
    FETCH_AGAIN = "fetch again"
    """The spooled file is lost: the job is ``received`` again, and its deadline runs."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done, when it is done again, and whether all uploads pause until a probe succeeds.

    ``deadline`` is the job's new one, if it gets one.
    ``suspect`` identifies an answer that was not the promised image: the bytes' checksum, or the refusal.
    """

    action: Action
    at: int = 0
    pause: bool = False
    deadline: int | None = None
    suspect: str | None = None


# Each table is read by reason, and where it has no row for the reason, by the reason's family.

FETCH: Mapping[str, Action] = {
    "url": Action.RETRY,
    "fetch": Action.RETRY,
    "fetch.gone": Action.ASK,
    "image": Action.RETRY,
    "spool": Action.RETRY,
    "provider": Action.RETRY,
    "provider.unknown_job": Action.REJECT,
    "provider.job_failed": Action.REJECT,
    "provider.record_failed": Action.REJECT,
    "provider.no_output": Action.REJECT,
}
"""What a failed confirmation, download or verification leads to, unless the job's own URL is refused."""

SAME_ANSWER: Mapping[str, float] = {
    "url": 3,
    "fetch": 0,
    "fetch.too_large": 3,
    "fetch.encoded": inf,
    "image": 3,
    # A machine that is short of memory or time for a while ends decoders, too. That must not cost a sound
    # image.
    "image.undecodable": 10,
    "spool": 0,
    "provider": 0,
}
"""How often the same wrong answer has to come before its job is rejected; 0 if the error is no answer.

Hosts answer with maintenance pages and placeholders for a while, so it also has to come for as long as
``reject_after`` says, or, where the deadline is near, for half of the time that was left.
"""

LAST_QUESTION: Mapping[str, Action] = {
    "provider": Action.EXPIRE,
    "provider.unavailable": Action.ASK_AGAIN,
    "provider.rate_limited": Action.ASK_AGAIN,
    "provider.token_refused": Action.ASK_AGAIN,
}
"""What a provider's refusal leads to once a job's time is over. A silence says nothing of the job."""

UPLOAD: Mapping[str, Action] = {
    "archive": Action.RETRY,
    "archive.occupied": Action.EXAMINE,
    "spool": Action.RETRY,
    "spool.lost": Action.FETCH_AGAIN,
}
"""What a failed upload leads to."""

PAUSES: Mapping[str, bool] = {
    "archive": True,
    "archive.occupied": False,
    "archive.missing": False,
    "archive.too_large": False,
    "archive.unproved": False,
    "archive.refused": False,
    "archive.unreadable": False,
    "archive.unexpected": False,
    "spool": False,
}
"""Whether a failed upload means that uploads of other objects would fail, too."""


def after_fetch(
    error: ReceiverError,
    job: Job,
    now: int,
    jitter: Jitter,
    *,
    sha256: str | None = None,
    can_ask: bool,
    reject_after: int,
) -> Decision:
    """Decide what follows when an image was not brought to the spool.

    ``sha256`` is of bytes that are not the promised image; ``can_ask``: a provider was not asked yet;
    ``reject_after``: how long the same wrong answer has to come, ms.
    """
    action = _row(FETCH, error.reason)
    if isinstance(error, UrlError | ImageError) and error.final:
        action = Action.REJECT
    if action is Action.REJECT or (action is Action.ASK and can_ask):
        return Decision(action)
    assert job.deadline is not None
    suspect = None
    longest = backoff.FETCH_MAX
    if times := _row(SAME_ANSWER, error.reason):
        suspect = sha256 or f"{error.reason}: {error.detail}"
        longest = backoff.REFUSED_MAX
        if suspect == job.suspect and job.suspects + 1 >= times and _came_for(job, now, reject_after):
            return Decision(Action.REJECT)
    retry_after = error.retry_after if isinstance(error, FetchError | ProviderError) else None
    at = backoff.fetch_retry_at(now, job.attempts, job.deadline, jitter, retry_after, longest=longest)
    return Decision(Action.RETRY, at, suspect=suspect)


def _came_for(job: Job, now: int, span: int) -> bool:
    assert job.deadline is not None
    if job.suspect_since is None:  # a ledger of an earlier version did not keep it
        return False
    return now - job.suspect_since >= min(span, (job.deadline - job.suspect_since) // 2)


def while_running(job: Job, now: int, jitter: Jitter, *, life: int) -> Decision:
    """Decide what follows when a delivery is only a hint, and the provider says that its job still runs.

    The provider is asked again, and no end of the hint counts: the life of the URL, in ms, has not begun.
    """
    at = backoff.fetch_retry_at(now, job.attempts, now + life, jitter)
    return Decision(Action.RETRY, at, deadline=now + life)


def after_last_question(refusal: ProviderError | None, job: Job, now: int, jitter: Jitter) -> Decision:
    """Decide what follows when the provider refused or gave no fresh URL of a job whose time is over."""
    assert job.deadline is not None
    action = Action.EXPIRE if refusal is None else _row(LAST_QUESTION, refusal.reason)
    if action is Action.EXPIRE or now >= job.deadline + ASK_ON_MS:
        return Decision(Action.EXPIRE)
    return Decision(action, backoff.upload_retry_at(now, job.attempts, jitter))


def fresh_url_at(job: Job, deadline: int, now: int, jitter: Jitter) -> int:
    """Return when a fresh URL is fetched: the later the more were named, for each may be another dead one."""
    times = job.refreshes + 1
    if deadline > now:
        return backoff.fetch_retry_at(now, times, deadline, jitter)
    return backoff.upload_retry_at(now, times, jitter)


def after_upload(
    error: ReceiverError, job: Job, now: int, jitter: Jitter, *, examined: bool = False
) -> Decision:
    """Decide what follows when an image was not archived; ``examined``: the object at its key was read."""
    action = _row(UPLOAD, error.reason)
    if action is Action.FETCH_AGAIN or (action is Action.EXAMINE and not examined):
        return Decision(action)
    longest = backoff.OCCUPIED_MAX if error.reason == "archive.occupied" else backoff.UPLOAD_MAX
    at = backoff.upload_retry_at(now, job.attempts, jitter, longest)
    return Decision(Action.RETRY, at, pause=_row(PAUSES, error.reason))


def _row(table: Mapping[str, T], reason: str) -> T:
    return table[reason] if reason in table else table[reason.partition(".")[0]]
