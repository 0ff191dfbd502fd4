"""The provider's list of jobs, read for those that ended without a delivery. Times are ms since the epoch."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from datetime import timedelta

from receiver.core.clock import Clock, milliseconds
from receiver.core.completion import split_id
from receiver.core.errors import ProviderError
from receiver.core.jobs import overdue_cutoff
from receiver.ledger import Ledger, PendingJob
from receiver.providers.api import ListOrder
from receiver.providers.base import Asked, Listed

SLACK_MS = milliseconds(timedelta(hours=1))
"""What a job may take from its submission to its end, and by how much clocks may differ."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the provider is asked.

    ``every`` is the time between two rounds, and between two questions about the same job. With ``adopt``,
    completed jobs that nobody announced are taken in.
    """

    overdue_after: timedelta
    every: timedelta
    adopt: bool


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """A job to be asked about. Candidates sort by age, since the oldest job's image ends first.

    Jobs that gave no answer the last time come after all others, and take turns: otherwise a few that never
    give one would be what each round begins with, and ends with. ``turn`` is when such a job is due again,
    or 0; ``since`` is when the job was submitted. ``pending`` is ``None`` where the list alone knows it.
    ``own_id`` is the provider's.
    """

    turn: int
    since: int
    id: str
    own_id: str = field(compare=False)
    pending: PendingJob | None = field(compare=False, default=None)

    @classmethod
    def of(cls, job: PendingJob) -> "Candidate":
        return cls(job.ask_at if job.unanswered else 0, job.submitted_at, job.id, split_id(job.id)[0], job)


@dataclass(slots=True)
class Reading:
    """The list, read over as many rounds as that takes.

    ``pages`` are still to be read. ``unended`` has the times when jobs to be adopted later were created.
    Reading can end before the list does only where its ``order`` is newest first.
    """

    pages: AsyncGenerator[list[Listed], None]
    began: int
    unended: list[int] = field(default_factory=list)
    order: ListOrder = field(default_factory=lambda: ListOrder(SLACK_MS))


@dataclass(slots=True)
class Scan:
    """The result of one round's part of the reading.

    ``wanted`` are the jobs to be asked about, by id, submitted before ``submitted_before``. No page has shown
    the ``unseen`` of those wanted at first. ``running`` has the statuses of jobs that have not ended. So many
    ``pages`` were read before the ``refusal``, if there was one.
    """

    wanted: dict[str, Candidate]
    submitted_before: int
    reading: Reading
    unseen: set[str]
    running: dict[str, str] = field(default_factory=dict)
    pages: int = 0
    refusal: ProviderError | None = None


@dataclass(eq=False)
class JobList:
    """Reads the list, and keeps the ended jobs that are to be adopted, by id, until they are recorded."""

    ledger: Ledger
    asked: Asked
    plan: Plan
    now: Clock
    to_adopt: dict[str, Candidate] = field(default_factory=dict, init=False)
    _reading: Reading | None = field(default=None, init=False)
    _read_back_to: int = field(default=0, init=False)

    async def close(self) -> None:
        if self._reading is not None:
            await self._reading.pages.aclose()

    async def read(self, queue: list[Candidate], submitted_before: int, pages: int) -> Scan:
        """Read so many pages at most, for the jobs of the queue and for others that have ended.

        The list changes while it is read. What moves on to a later page is seen twice, which does no harm.
        What is missed is asked for by itself, or seen when the list is read again. Where jobs are adopted,
        the next call goes on where this one ends.
        """
        reading = self._reading or Reading(self.asked.client.pages(), self.now())
        self._reading = None
        wanted = {candidate.id: candidate for candidate in queue}
        scan = Scan(wanted, submitted_before, reading, unseen=set(wanted))
        try:
            if await self._read_on(scan, self._horizon(queue), pages):
                self._read_back_to = min([self._overdue_before(reading.began), *reading.unended])
            elif self.plan.adopt:
                self._reading = reading
        except ProviderError as error:
            scan.refusal = error
        finally:
            if self._reading is None:
                await reading.pages.aclose()
        return scan

    async def due_to_adopt(self, ask_by: int, limit: int) -> tuple[list[Candidate], int]:
        """Return so many of the jobs to adopt that are due, and how many more there are."""
        dead = self._dead_before()
        self.to_adopt = {key: it for key, it in self.to_adopt.items() if it.since >= dead}
        due = sorted(it for it in self.to_adopt.values() if it.turn <= ask_by)
        known = await self.ledger.pending_among([it.id for it in due[:limit]])
        for key in known:  # it was delivered, or announced, since the list was read
            del self.to_adopt[key]
        return [it for it in due[:limit] if it.id not in known], len(due[limit:])

    def postpone(self, candidate: Candidate, until: int) -> None:
        self.to_adopt[candidate.id] = replace(candidate, turn=until)

    async def _read_on(self, scan: Scan, horizon: int, pages: int) -> bool:
        """Read so many pages at most. Return whether nothing of interest is left behind them."""
        for _ in range(pages):
            page = await anext(scan.reading.pages, None)
            if page is None:
                return True
            scan.pages += 1
            await self._scan_page(page, scan)
            if scan.reading.order.all_before(horizon) or not (self.plan.adopt or scan.unseen):
                return True
        return False

    async def _scan_page(self, page: list[Listed], scan: Scan) -> None:
        ids = [self.asked.provider.job_id(row.id) for row in page]
        known = await self.ledger.pending_among(ids)
        for job_id, row in zip(ids, page, strict=True):
            created, job = row.created or 0, known.get(job_id)
            scan.reading.order.see(created)
            scan.unseen.discard(job_id)
            if job_id in scan.wanted:
                if row.status and not row.ended:
                    scan.running[job_id] = row.status
            elif job is not None:
                if row.ended and job.submitted_at < scan.submitted_before:
                    scan.wanted[job_id] = Candidate.of(job)
            elif job_id not in known and self._may_adopt(row, created):
                if row.ended:
                    self.to_adopt.setdefault(job_id, Candidate(0, created, job_id, row.id))
                else:
                    scan.reading.unended.append(created)

    def _horizon(self, queue: list[Candidate]) -> int:
        """Return the time (ms) before which rows do not matter: their URLs have ended, or they were seen."""
        oldest = min((candidate.since for candidate in queue), default=self.now())
        wanted = min(oldest, self._read_back_to) if self.plan.adopt else oldest
        return max(wanted - SLACK_MS, self._dead_before())

    def _may_adopt(self, row: Listed, created: int) -> bool:
        # The completions of younger jobs may still be delivered.
        return (
            self.plan.adopt
            and row.adoptable
            and self._dead_before() <= created < self._overdue_before(self.now())
        )

    def _dead_before(self) -> int:
        return self.now() - milliseconds(self.asked.provider.url_lifetime) - SLACK_MS

    def _overdue_before(self, now: int) -> int:
        return overdue_cutoff(now, self.plan.overdue_after)
