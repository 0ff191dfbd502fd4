"""Reports each step of a job when it ends: to counters, to a tracer, or to nobody."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Self

from receiver.core.errors import ReceiverError

StepName = Literal["delivery", "record", "confirm", "ask", "fetch", "verify", "archive"]
Work = Literal["fetch", "archive"]

UNFORESEEN = "unforeseen"
"""The reason of a step that a bug or a stop has ended, so that no `ReceiverError` names one."""


@dataclass(slots=True)
class Step:
    """One step, which lasts as long as its ``with`` block. The block fills in what becomes known.

    ``received_at`` of the job is in ms, ``started_at`` in ns since the epoch; attempts are counted from 1.
    ``url`` may carry a signature, which is a secret. A step has an ``outcome`` where it succeeded, else a
    ``reason``: one of ``errors.REASONS``, or `UNFORESEEN`.
    """

    on_end: "Callable[[Step], None]"
    name: StepName
    job: str | None = None
    received_at: int | None = None
    attempt: int | None = None
    provider: str | None = None
    url: str | None = None
    started_at: int = 0
    seconds: float = 0.0
    bytes: int | None = None
    outcome: str | None = None
    reason: str | None = None
    _started: float = field(default=0.0, repr=False)

    def __enter__(self) -> Self:
        # The wall clock says when it was; the duration must not depend on somebody setting that clock.
        self.started_at = time.time_ns()
        self._started = time.perf_counter()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.seconds = time.perf_counter() - self._started
        if error is not None:
            self.reason = error.reason if isinstance(error, ReceiverError) else UNFORESEEN
        self.on_end(self)


@dataclass(frozen=True, slots=True)
class Instrumentation:
    """The callbacks that steps and failed attempts are reported to. They must not raise."""

    on_step: Callable[[Step], None] = lambda _: None
    on_failed_attempt: Callable[[Work, str], None] = lambda _work, _reason: None
    """Called with the work and the reason."""

    def step(
        self,
        name: StepName,
        job: str | None = None,
        received_at: int | None = None,
        attempt: int | None = None,
    ) -> Step:
        return Step(self.on_step, name, job, received_at, attempt)


NO_INSTRUMENTATION = Instrumentation()
