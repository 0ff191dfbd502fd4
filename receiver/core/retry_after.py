"""The ``Retry-After`` header of an answer (RFC 9110, 10.2.3)."""

from email.utils import parsedate_to_datetime

MAX_SECONDS = 24 * 3600.0


def parse(text: str, now: float | None = None) -> float | None:
    """Return the seconds to wait, from 0 to a day; ``None`` where the header's text does not say.

    Without ``now``, seconds since the epoch, the form that is a date is ignored.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:10])
    elif now is None:
        return None
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), MAX_SECONDS)
