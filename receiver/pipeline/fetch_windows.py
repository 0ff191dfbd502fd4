"""Limits the downloads of each host at a time, by the measured throughput.

Downloads that share a slow line starve each other: all of them end below the least rate, and nothing is ever
whole. So each host has a window, as TCP has for its packets (RFC 5681).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from receiver.core.errors import FetchError
from receiver.fetch.download import Progress
from receiver.ledger import Claim, HostLimits

FIRST = 4
"""Downloads of a host that nothing is known of."""

LEAST = 2
HEALTHY = 2
"""Times the least rate: what each download must get before there is one more."""

JUDGED_AFTER = 1.0
"""Seconds of a body before its rate means anything."""

MAX_HOSTS = 1000


@dataclass(slots=True)
class Window:
    """The window of one host: ``size`` downloads at a time, which may reach ``largest``.

    ``least_rate`` is that of a download that is not given up, bytes a second. Downloads that began before the
    last of the ``shrinks`` say nothing of the present size.
    """

    largest: int
    least_rate: int
    size: int
    shrinks: int = 0

    def succeeded(self, rate: float, beside: int) -> None:
        """Grow by one if the throughput suffices for one more download.

        ``rate`` is the download's, bytes a second; ``beside`` downloads shared the line with it, itself
        included.
        """
        if self.size < self.largest and rate * beside >= (self.size + 1) * HEALTHY * self.least_rate:
            self.size += 1

    def too_slow(self, others: Sequence[float], shrinks: int) -> None:
        """Shrink to a half if the line is slow, and not this download alone.

        ``others`` are the rates of the downloads that share the line, ``shrinks`` as they were when it began.
        """
        slow = bool(others) and median(others) < HEALTHY * self.least_rate
        if slow and shrinks == self.shrinks:
            self.size = max(self.size // 2, min(LEAST, self.largest))
            self.shrinks += 1


@dataclass(frozen=True, slots=True, eq=False)
class FetchWindows:
    """The windows of all hosts, with at most ``largest`` downloads at a time in all.

    ``least_rate`` is that of a download that is not given up, bytes a second.
    """

    largest: int
    least_rate: int
    _windows: dict[str, Window] = field(default_factory=dict, init=False)
    _running: dict[str, list[Progress]] = field(default_factory=dict, init=False)

    def limits(self, claims: Sequence[Claim]) -> HostLimits:
        """Return what may be claimed while these claims are in progress."""
        return HostLimits(
            running=Counter(claim.host for claim in claims),
            retried=Counter(claim.host for claim in claims if claim.job.attempts > 1),
            most={host: window.size for host, window in self._windows.items()},
            default=self._new().size,
            share=max(self.largest // 2, 1),
        )

    @contextmanager
    def download(self, host: str) -> Iterator[Progress]:
        """Watch one download of a host, which notes its progress, and change the window by how it ends."""
        window = self._window(host)
        shrinks = window.shrinks
        running = self._running.setdefault(host, [])
        progress = Progress()
        running.append(progress)
        beside = len(running)
        try:
            yield progress
            window.succeeded(progress.rate, min(beside, len(running)))
        except FetchError as error:
            if error.reason == "fetch.too_slow":
                others = [each for each in running if each is not progress and each.seconds >= JUDGED_AFTER]
                window.too_slow([each.rate for each in others], shrinks)
            raise
        finally:
            running.remove(progress)
            if not running:
                del self._running[host]

    def _window(self, host: str) -> Window:
        window = self._windows.pop(host, None) or self._new()
        self._windows[host] = window  # the one used last is the last to be forgotten
        if len(self._windows) > MAX_HOSTS:
            del self._windows[next(iter(self._windows))]
        return window

    def _new(self) -> Window:
        return Window(self.largest, self.least_rate, min(FIRST, self.largest))
