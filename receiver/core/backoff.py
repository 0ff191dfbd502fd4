"""When to try again. Pure: the time and the random number are passed in.

Waits are drawn with full jitter: uniform between nothing and a ceiling that doubles. So jobs that failed
together do not come back together. See "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from collections.abc import Callable
from math import inf

Jitter = Callable[[], float]
"""Returns a number in [0, 1)."""

SECOND = 1000
"""Times are ms since the epoch, spans whole milliseconds, except where seconds are named."""

FETCH_BASE = 2 * SECOND
FETCH_MAX = 15 * 60 * SECOND
REFUSED_MAX = 60 * 60 * SECOND
"""For a URL that answers with what is not the promised image: it may do so for long."""
UPLOAD_BASE = SECOND
UPLOAD_MAX = 3 * 60 * SECOND
OCCUPIED_MAX = 60 * 60 * SECOND
"""For a key that another object has taken: an operator has to act, and each attempt sends all bytes."""
NOTIFY_BASE = 5 * SECOND
NOTIFY_MAX = 60 * 60 * SECOND
MIN_WAIT = SECOND

SHARE_OF_TIME_LEFT = 8
"""A wait is at most this part of the time left, so that attempts become denser towards the deadline."""

FREE_CRASHES = 2
"""So many attempts that ended with the process do not count: a kill is no fault of the job's."""

QUESTION_SHARE = 10
"""The provider is asked again about a silent job after another tenth of the job's age."""

QUESTION_MAX = 30 * 60 * SECOND


def doubled(base: float, attempts: int, ceiling: float = inf) -> float:
    """Return ``base`` doubled once per attempt, up to the ceiling."""
    # The exponent is capped: attempts grow without bound while a store is away.
    return min(base * 2.0 ** min(attempts, 30), ceiling)


class DoublingWait:
    """A wait in seconds that doubles each time, from a first value up to a longest one."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self.seconds = 0.0

    def grow(self) -> float:
        self.seconds = min(max(self.seconds * 2, self._first), self._longest)
        return self.seconds

    def reset(self) -> None:
        self.seconds = 0.0


def fetch_retry_at(
    now: int,
    attempts: int,
    deadline: int,
    jitter: Jitter,
    retry_after: float | None = None,
    *,
    longest: int = FETCH_MAX,
) -> int:
    """Return when a failed download is tried again, which ``attempts`` times (at least 1) was begun.

    That is before the deadline while at least twice the least wait is left. ``retry_after``, in seconds, is
    honoured as far as half of the time left.
    """
    left = max(deadline - now, 0)
    ceiling = min(doubled(FETCH_BASE, attempts, longest), left // SHARE_OF_TIME_LEFT)
    return now + _drawn(ceiling, jitter, retry_after, left // 2)


def upload_retry_at(now: int, attempts: int, jitter: Jitter, longest: int = UPLOAD_MAX) -> int:
    """Return when a failed upload is tried again. No deadline runs, so the ceiling is a constant."""
    return now + _drawn(doubled(UPLOAD_BASE, attempts, longest), jitter)


def notification_retry_at(now: int, attempts: int, jitter: Jitter, retry_after: float | None = None) -> int:
    """Return when a refused notification is sent again; not earlier than the endpoint asks."""
    return now + _drawn(doubled(NOTIFY_BASE, attempts, NOTIFY_MAX), jitter, retry_after, NOTIFY_MAX)


def next_question_at(now: int, submitted_at: int, every: int) -> int:
    """Return when the provider is asked again about a job: ``every`` ms later, or rarer the older it is."""
    age = max(now - submitted_at, 0)
    return now + max(every, min(age // QUESTION_SHARE, QUESTION_MAX))


def crash_retry_at(now: int, before: int, deadline: int) -> int | None:
    """Return when a job is tried again whose attempt, and ``before`` earlier ones, ended with the process.

    ``None``: it is tried at once, and the attempt does not count. One image can end each process that decodes
    it, by the memory that this takes; if it went first after each start, nothing else would ever be done.
    """
    if before < FREE_CRASHES:
        return None
    left = max(deadline - now, 0)
    return now + max(int(min(doubled(SECOND, before, FETCH_MAX), left // SHARE_OF_TIME_LEFT)), MIN_WAIT)


def _drawn(ceiling: float, jitter: Jitter, retry_after: float | None = None, most_asked: int = 0) -> int:
    wait = max(int(jitter() * ceiling), MIN_WAIT)
    return wait if retry_after is None else max(wait, int(min(retry_after * SECOND, most_asked)))
