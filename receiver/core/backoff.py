"""When to try again, and what is too late. Pure: the time and the dice are passed in.

Waits are drawn with full jitter (uniform between nothing and a ceiling that doubles), so that jobs which
failed together do not come back together. See "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from collections.abc import Callable

SECOND = 1000
"""All times and spans here are whole milliseconds."""

FETCH_BASE = 2 * SECOND
FETCH_CEILING = 15 * 60 * SECOND
UPLOAD_BASE = SECOND
UPLOAD_CEILING = 3 * 60 * SECOND
OCCUPIED_CEILING = 60 * 60 * SECOND
"""Of waits for a key that something else has taken: a person ends that, and each attempt sends all bytes."""
NOTIFY_BASE = 5 * SECOND
NOTIFY_CEILING = 60 * 60 * SECOND
LEAST_WAIT = SECOND

SHARE_OF_TIME_LEFT = 8
"""A wait is at most this part of the time left, so that attempts become denser towards the deadline."""

FORGIVEN = 2
"""So many attempts that ended with the process count as none: a kill is no fault of the job's."""

RISK_SHARE = 10
"""A job is at risk when less than this part of its life is left."""


ASK_SHARE = 10
"""A silent job is asked about after another tenth of its age."""

ASK_CEILING = 30 * 60 * SECOND


def fetch_again_at(
    now: int, attempts: int, deadline: int, dice: Callable[[], float], retry_after: float | None = None
) -> int:
    """When a failed download is tried again.

    Args:
        now: ms since the epoch.
        attempts: how many were made, at least 1.
        deadline: ms since the epoch.
        dice: gives a number in [0, 1).
        retry_after: seconds that the host asked for; honoured as far as half of the time left.

    Returns:
        ms since the epoch. Never at or after the deadline while at least twice the least wait is left.
    """
    left = max(deadline - now, 0)
    ceiling = min(_doubled(FETCH_BASE, attempts, FETCH_CEILING), left // SHARE_OF_TIME_LEFT)
    wait = max(int(dice() * ceiling), LEAST_WAIT)
    if retry_after is not None:
        wait = max(wait, int(min(retry_after * SECOND, left // 2)))
    return now + wait


def upload_again_at(now: int, attempts: int, dice: Callable[[], float], longest: int = UPLOAD_CEILING) -> int:
    """When a failed upload is tried again: no deadline runs, and the wait has a ceiling of minutes."""
    ceiling = _doubled(UPLOAD_BASE, attempts, longest)
    return now + max(int(dice() * ceiling), LEAST_WAIT)


def ask_again_at(now: int, submitted_at: int, every: int) -> int:
    """When the provider is asked again about a job that has not ended: the rarer the older it is.

    Args:
        now: ms since the epoch.
        submitted_at: ms since the epoch.
        every: the least wait between two questions about the same job, ms.
    """
    age = max(now - submitted_at, 0)
    return now + max(every, min(age // ASK_SHARE, ASK_CEILING))


def cut_off_again_at(now: int, before: int, deadline: int) -> int | None:
    """When a job is tried again whose attempt ended with the process.

    One image can end each process that takes it, by the memory that its decoding takes. Where it went first
    at each start, nothing else would ever be done.

    Args:
        now: ms since the epoch.
        before: how many of its attempts had ended so before this one.
        deadline: ms since the epoch.

    Returns:
        ms since the epoch; ``None``: at once, and the attempt is none.
    """
    if before < FORGIVEN:
        return None
    left = max(deadline - now, 0)
    return now + max(min(_doubled(SECOND, before, FETCH_CEILING), left // SHARE_OF_TIME_LEFT), LEAST_WAIT)


def notify_again_at(
    now: int, attempts: int, dice: Callable[[], float], retry_after: float | None = None
) -> int:
    """When a notification is sent again that was not taken; not earlier than the endpoint asks."""
    ceiling = _doubled(NOTIFY_BASE, attempts, NOTIFY_CEILING)
    wait = max(int(dice() * ceiling), LEAST_WAIT)
    if retry_after is not None:
        wait = max(wait, int(min(retry_after * SECOND, NOTIFY_CEILING)))
    return now + wait


def _doubled(base: int, attempts: int, ceiling: int) -> int:
    # The exponent is capped before the shift: attempts grow without bound while a store is away.
    return min(base << min(attempts, 30), ceiling)
