"""When a condition counts as an alert, and when that is over. Pure; times are ms since the epoch.

An alert begins once its condition has held for the rule's time, and ends once it has not held for a longer
one, which doubles with each further alert of a day: what comes and goes makes a few messages, and no flood.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from receiver.core.backoff import doubled

MINUTE = 60_000
CALM_MS = 10 * MINUTE
"""How long the condition of a first alert must not hold until the alert is over."""
MAX_CALM_MS = 6 * 60 * MINUTE
FORGET_MS = 24 * 60 * MINUTE
"""An alert that ended so long ago does not count any more."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One condition, of one series of a metric.

    Attributes:
        text: what it is, with its numbers when it began.
        active: whether it is an alert.
        at: when it began, or was over.
        turning_at: since when the condition says otherwise than ``active``; ``None`` if it agrees.
        times: how often it began within a day.
        told: by channel, whether the last message there said that it is active.
        value: the number in ``text``.
    """

    text: str = ""
    active: bool = False
    at: int = 0
    turning_at: int | None = None
    times: int = 0
    told: Mapping[str, bool] = field(default_factory=dict)
    value: float = 0

    def is_due(self, channel: str) -> bool:
        """Whether the channel is to be told of a change."""
        return self.told.get(channel, False) is not self.active

    def after(self, text: str | None, now: int, wait: int, value: float = 0) -> "Alert":
        """Return the alert after a look: ``text`` if the condition holds; ``wait`` until it is one, ms.

        It is told again whenever its number has doubled: one lost image must not hide the next thousand.
        """
        holds = text is not None
        if text is not None and self.active and value >= 2 * max(self.value, 1):
            return replace(self, text=text, value=value, told={}, turning_at=None)
        if holds is self.active:
            return replace(self, turning_at=None)
        turning_at = now if self.turning_at is None else min(self.turning_at, now)  # clocks are set back
        calm = int(doubled(CALM_MS, self.times - 1, MAX_CALM_MS))
        if now - turning_at < (wait if holds else calm):
            return replace(self, turning_at=turning_at)
        if text is None:
            return replace(self, active=False, at=now, turning_at=None)
        times = self.times + 1
        return replace(self, text=text, active=True, at=now, turning_at=None, times=times, value=value)

    def is_over(self, now: int) -> bool:
        """Whether nothing of it needs to be kept."""
        idle = not self.active and self.turning_at is None and not any(self.told.values())
        return idle and (not self.times or now - self.at >= FORGET_MS)
