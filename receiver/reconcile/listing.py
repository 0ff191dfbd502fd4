"""What a reconciler knows while it reads the provider's list of jobs. All times are ms since the epoch."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import timedelta

from receiver.core.clock import milliseconds
from receiver.ledger import PendingJob
from receiver.providers.ximilar.responses import Row

SLACK_MS = milliseconds(timedelta(hours=1))
"""What a job may take from its submission to its end, and by how much clocks may differ."""


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A job to be asked about. Candidates sort by age, since the oldest job's image ends first.

    Jobs that gave no answer the last time come after all others, and take turns: otherwise a few that never
    give one would be what each round begins with, and ends with. ``turn`` is when such a job is due again,
    or 0; ``since`` is when the job was submitted. ``pending`` is ``None`` where the list alone knows it.
    """

    turn: int
    since: int
    id: str
    pending: PendingJob | None = field(compare=False, default=None)

    @classmethod
    def of(cls, job: PendingJob) -> "Candidate":
        return cls(job.ask_at if job.unanswered else 0, job.submitted_at, job.id, job)


class RowOrder:
    """Detects whether rows come newest first. Only then can reading end before the list does."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._oldest = 0
        self._newest_first = True

    def see(self, created: int) -> None:
        """Take the next row's time of creation; 0 where the row has none."""
        if self._first is None:
            self._first = self._oldest = created
        self._newest_first = self._newest_first and 0 < created <= self._oldest + SLACK_MS
        self._oldest = min(created, self._oldest)

    def all_before(self, horizon: int) -> bool:
        """Return whether all further rows were created before this time. One row alone shows no order."""
        return self._newest_first and self._first is not None and self._oldest < min(self._first, horizon)


@dataclass(slots=True)
class Reading:
    """The list, read over as many rounds as that takes.

    ``pages`` are still to be read. ``unended`` has the times when jobs to be adopted later were created.
    """

    pages: AsyncGenerator[list[Row], None]
    began: int
    order: RowOrder = field(default_factory=RowOrder)
    unended: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Scan:
    """The result of one round's part of the reading.

    ``wanted`` are the jobs to be asked about, by id, submitted before ``submitted_before``. No page has shown
    the ``unseen`` of those wanted at first. ``running`` has the statuses of jobs that have not ended.
    """

    wanted: dict[str, Candidate]
    submitted_before: int
    reading: Reading
    unseen: set[str]
    running: dict[str, str] = field(default_factory=dict)
