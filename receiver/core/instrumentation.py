"""The steps of a job's way, told to whoever measures them.

A step is told when it has ended, with its times, its size and its outcome. The rooms that work know nothing
of who listens: counters, a tracer, or nobody.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

from receiver.core.errors import ReceiverError

Name = Literal["delivery", "record", "confirm", "ask", "fetch", "verify", "archive"]
Work = Literal["fetch", "archive"]

UNFORESEEN = "unforeseen"
"""The reason of a step that a bug of ours or a stop has ended, so that no `ReceiverError` tells one."""


class Step:
    """One step, which lasts as long as its ``with`` block.

    Whoever takes the step fills in what becomes known on the way.

    Args:
        tell: called with the step when it has ended.
        name: what is done.
        job: the job's id; ``None`` while it is not known.
        received_at: of the job, ms since the epoch.
        attempt: of the job's present work, beginning with 1.

    Attributes:
        url: what was spoken to; may carry a signature, which is a secret.
        began: ns since the epoch.
        seconds: how long it took.
        bytes: that were moved.
        outcome: a word for how it ended well.
        reason: why it did not: one of ``errors.REASONS``, or `UNFORESEEN`; ``None`` where it did.
    """

    __slots__ = (
        "_since",
        "_tell",
        "attempt",
        "began",
        "bytes",
        "job",
        "name",
        "outcome",
        "reason",
        "received_at",
        "seconds",
        "url",
    )

    def __init__(
        self,
        tell: "Callable[[Step], None]",
        name: Name,
        job: str | None = None,
        received_at: int | None = None,
        *,
        attempt: int | None = None,
    ) -> None:
        self._tell = tell
        self.name: Name = name
        self.job = job
        self.received_at = received_at
        self.attempt = attempt
        self.url: str | None = None
        self.began = 0
        self.seconds = 0.0
        self.bytes: int | None = None
        self.outcome: str | None = None
        self.reason: str | None = None

    def __enter__(self) -> Self:
        # The wall clock says when it was; how long it took must not depend on somebody setting that clock.
        self.began = time.time_ns()
        self._since = time.perf_counter()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.seconds = time.perf_counter() - self._since
        if error is not None:
            self.reason = error.reason if isinstance(error, ReceiverError) else UNFORESEEN
        self._tell(self)


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told of steps, and of work that did not succeed.

    Attributes:
        ended: called with each step that has ended; must not raise.
        failed: called with the work and the reason of each attempt that failed.
    """

    ended: Callable[[Step], None]
    failed: Callable[[Work, str], None]

    def step(
        self,
        name: Name,
        job: str | None = None,
        received_at: int | None = None,
        *,
        attempt: int | None = None,
    ) -> Step:
        """A step to be taken in a ``with``; the arguments are those of `Step`."""
        return Step(self.ended, name, job, received_at, attempt=attempt)


def _nobody(*_: object) -> None:
    """Does not listen."""


UNWATCHED = Watch(_nobody, _nobody)
"""Nobody is told."""
