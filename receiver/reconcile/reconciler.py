"""Asks the provider about what we have not heard, and records it through the same door as the webhook.

The provider documents no retry and no callback on failure. So a submitted job that stays silent is asked for,
and the provider's list is read back for jobs that have ended without a word.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import structlog

from receiver.core import backoff
from receiver.core.completion import Completion, Failure
from receiver.core.errors import (
    LedgerError,
    ProviderError,
    RateLimitedError,
    UnavailableError,
    UnknownJobError,
)
from receiver.core.instrumentation import NO_INSTRUMENTATION, Instrumentation
from receiver.core.jobs import overdue_cutoff
from receiver.core.references import is_ref
from receiver.intake.authentication import REF_HEADER, SUBMISSION_HEADER
from receiver.ledger import Answer, Delivery, Ledger, PendingJob
from receiver.providers.ximilar import Report, Row, Ximilar
from receiver.providers.ximilar.completions import ENDED_STATUSES

log = structlog.get_logger("receiver.reconcile")

AT_A_TIME = 200
"""Pending jobs to a round, so that a crowd of them does not keep the list's news waiting."""

PAGES_AT_A_TIME = 60
"""Pages of the list to a round where jobs are adopted: the next one goes on behind them. A list that is not
newest first is read to its end, and would else keep silent jobs waiting for as long as that takes."""

LIST_FROM = 4
"""Pending jobs from which on a page of the list says more than a question would."""

LIST_SLACK = timedelta(hours=1)
"""What a job may take from its submit to its end, and clocks may differ by."""

LEAST_HOLD = 5.0
LONGEST_HOLD = 900.0
"""Seconds without questions after the provider refused one; doubled each time."""

SILENCES = 3
"""Questions in a row without an answer after which the provider is left alone for a while. One alone may
be the fault of its job."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the provider is asked.

    Attributes:
        overdue_after: how long a submitted job may be silent.
        every: between two looks, and between two questions about the same job.
        url_lifetime: how long an image URL lives that does not say so itself.
        adopt: whether completed jobs that nobody announced are taken in.
    """

    overdue_after: timedelta
    every: timedelta
    url_lifetime: timedelta
    adopt: bool


@dataclass(slots=True)
class Summary:
    """What a round has come to.

    Attributes:
        asked: questions about single jobs.
        found: completions that no delivery had brought, failures among them.
        failed: those of them that say that the job failed.
        adopted: completions of jobs that nobody had announced.
        running: jobs that have not ended.
        unanswered: questions without an answer.
        settled: submits whose fate was unknown, and is known now.
        left: jobs that were not asked about, because the round was cut short or has its limit.
        trouble: what cut it short, or kept a part of it from being done.
    """

    asked: int = 0
    found: int = 0
    failed: int = 0
    adopted: int = 0
    running: int = 0
    unanswered: int = 0
    settled: int = 0
    left: int = 0
    trouble: ProviderError | None = None


Progress = Callable[[int, int], None]
"""Called with the number of questions asked and of those that are known to be needed."""


@dataclass(frozen=True, slots=True, order=True)
class _Candidate:
    """A job to be asked about; the oldest first, since its image dies first.

    Those that gave no answer the last time come after all others, and take turns: a few that never give one
    would else be what each round begins with, and ends with.
    """

    turn: int
    since: int
    id: str
    silent: PendingJob | None = field(compare=False, default=None)

    @classmethod
    def of(cls, silent: PendingJob) -> "_Candidate":
        turn = silent.ask_at if silent.unanswered else 0
        return cls(turn, silent.submitted_at, silent.id, silent)


class Reconciler:
    """Finds completions that were never delivered.

    Args:
        ledger: which jobs are silent, and where what was found is recorded.
        provider: is asked, at the pace that it was made with.
        plan: how.
        settle: finds out what became of submits whose fate is unknown; gives of how many.
        now: the time, ms since the epoch.
        instrumentation: told of what is found.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        provider: Ximilar,
        plan: Plan,
        settle: Callable[[], Awaitable[int]],
        now: Callable[[], int],
        instrumentation: Instrumentation = NO_INSTRUMENTATION,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._provider = provider
        self._plan = plan
        self._settle = settle
        self._now = now
        self._instrumentation = instrumentation
        self._sleep = sleep
        self._hold = 0.0
        self._trouble: ProviderError | None = None
        self._answers: bool | None = None
        self._read_back_to = 0
        self._reading: _Reading | None = None
        self._to_adopt: dict[str, _Candidate] = {}
        self._running: asyncio.Task[None] | None = None

    @property
    def trouble(self) -> ProviderError | None:
        """Why the provider is left alone now, if so."""
        return self._trouble

    def alive(self) -> bool:
        """Whether it has begun and has not ended."""
        return self._running is not None and not self._running.done()

    def start(self) -> None:
        """Begins to look, again and again."""
        self._running = asyncio.create_task(self._run(), name="reconcile")

    async def stop(self) -> None:
        """Ends it; what is being recorded is recorded or not, and asked for anew after the next start."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._reading is not None:
            await self._reading.pages.aclose()

    async def _run(self) -> None:
        while True:
            wait = self._plan.every.total_seconds()
            try:
                summary = await self.round(submitted_before=self._overdue_before(), ask_by=self._now())
                if summary.trouble is not None:
                    wait = max(wait, self._hold_off(summary.trouble))
                elif summary.left:
                    wait = 0.0
            except LedgerError as error:
                log.error("ledger cannot be used", reason=error.reason, detail=error.detail)  # noqa: TRY400 - no bug of ours
            except Exception:
                log.exception("unexpected error")  # a bug of ours must not end the asking
            await self._sleep(wait)

    async def round(
        self,
        *,
        submitted_before: int,
        ask_by: int,
        limit: int = AT_A_TIME,
        pages: int = PAGES_AT_A_TIME,
        progress: Progress | None = None,
    ) -> Summary:
        """Asks once about each silent job, and looks through the list where that says more.

        Args:
            submitted_before: ms since the epoch: jobs submitted before this time are asked about.
            ask_by: ms since the epoch: of them those that are due by then.
            limit: at most so many of them; ``left`` tells whether there are more.
            pages: at most so many of the list; the next round goes on there.
            progress: is told how far it is.

        Raises:
            LedgerError: what was found cannot be recorded.
        """
        summary = Summary()
        told = progress or (lambda _done, _wanted: None)
        self._answers = None
        try:
            due = await self._ledger.pending(
                submitted_before=submitted_before, ask_by=ask_by, limit=limit + 1
            )
            summary.left = len(due)
            unsettled, unlisted = await self._settle_what_can(summary), None
            if summary.settled or unsettled is not None:
                due = await self._ledger.pending(
                    submitted_before=submitted_before, ask_by=ask_by, limit=limit + 1
                )
            beyond = len(due[limit:])
            queue = [_Candidate.of(job) for job in due[:limit]]
            if self._plan.adopt or len(queue) >= LIST_FROM:
                wanted = pages if self._plan.adopt else min(pages, len(queue))
                queue, unlisted = await self._read_list(queue, submitted_before, wanted, summary)
            unheard, more = await self._due_to_adopt(ask_by, limit)
            queue += unheard
            summary.left = len(queue) + beyond + more
            await self._ask_all(sorted(queue), summary, told)
            if unsettled is not None:
                raise unsettled
            if unlisted is not None and self._plan.adopt:
                raise unlisted
        except ProviderError as error:
            summary.trouble = error
            self._tell(error)
        else:
            if self._answers:
                self._recovered()
        if summary.found or summary.adopted or summary.settled:
            log.info(
                "reconciled",
                asked=summary.asked,
                found=summary.found,
                adopted=summary.adopted,
                running=summary.running,
                settled=summary.settled,
            )
        return summary

    async def _settle_what_can(self, summary: Summary) -> ProviderError | None:
        """Looks for lost submissions; gives why that could not be done."""
        try:
            summary.settled = await self._settle()
        except ProviderError as error:
            await self._done_without("lost submissions cannot be looked for", error)
            return error
        return None

    async def _done_without(self, said: str, error: ProviderError) -> None:
        """Notes a refusal that need not keep single jobs from being asked about.

        Raises:
            RateLimitedError: the refusal, where the provider wants fewer questions of any kind.
        """
        await self._ledger.count_unanswered(error.reason)
        if isinstance(error, RateLimitedError):
            raise error
        log.warning(said, reason=error.reason, detail=error.detail)

    # The list.

    async def _read_list(
        self, queue: list[_Candidate], submitted_before: int, pages: int, summary: Summary
    ) -> tuple[list[_Candidate], ProviderError | None]:
        """Takes those out of the queue that the list says are still running, and adds others that have ended.

        The list changes while it is read: what moves on to a later page is seen twice, which does no harm,
        and what is missed is asked for by itself, or seen when it is read anew. Where jobs are adopted, the
        next round goes on where this one ends.

        Returns:
            The queue, and why the list could not be read so far.
        """
        reading = self._reading or _Reading(self._provider.pages(), self._now())
        look = _Look({candidate.id: candidate for candidate in queue}, submitted_before, reading)
        trouble = self._reading = None
        try:
            if await self._read_on(look, self._horizon(queue), pages):
                self._read_back_to = min(
                    [overdue_cutoff(reading.began, self._plan.overdue_after), *reading.unended]
                )
            elif self._plan.adopt:
                self._reading = reading
        except ProviderError as error:
            await self._done_without("the provider's list cannot be read", error)
            trouble = error
            if self._answers is None and not isinstance(error, UnavailableError):
                self._answers = False
        finally:
            if self._reading is None:
                await reading.pages.aclose()
        for job_id in await self._ledger.record_listed(
            look.running, ask_at=self._now() + _span(self._plan.every)
        ):
            log.info("asked", job=job_id, status=look.running[job_id])
        summary.running += len(look.running)
        return [it for it in look.wanted.values() if it.id not in look.running], trouble

    async def _read_on(self, look: "_Look", horizon: int, pages: int) -> bool:
        """Reads so many pages at most. Gives whether nothing of interest is left behind them."""
        for _ in range(pages):
            page = await anext(look.reading.pages, None)
            if page is None:
                return True
            self._answers = True
            await self._look_through(page, look)
            if look.reading.order.all_before(horizon) or not (self._plan.adopt or look.unseen):
                return True
        return False

    async def _look_through(self, page: list[Row], look: "_Look") -> None:
        known = await self._ledger.pending_among([row.id for row in page])
        for row in page:
            created, ended, job = _ms(row.created), row.status in ENDED_STATUSES, known.get(row.id)
            look.reading.order.see(created)
            look.unseen.discard(row.id)
            if row.id in look.wanted:
                if row.status and not ended:
                    look.running[row.id] = row.status
            elif job is not None:
                if ended and job.submitted_at < look.submitted_before:
                    look.wanted[row.id] = _Candidate.of(job)
            elif row.id not in known and self._may_adopt(row, created):
                if ended:
                    self._to_adopt.setdefault(row.id, _Candidate(0, created, row.id))
                else:
                    look.reading.unended.append(created)

    def _horizon(self, queue: list[_Candidate]) -> int:
        """Rows created before this time (ms) are of no interest: their images are dead, or they were seen."""
        oldest = min((candidate.since for candidate in queue), default=self._now())
        wanted = min(oldest, self._read_back_to) if self._plan.adopt else oldest
        return max(wanted - _span(LIST_SLACK), self._dead_before())

    def _may_adopt(self, row: Row, created: int) -> bool:
        of_ours = row.type in (None, "upscaler")
        # Younger ones may still tell us themselves.
        return self._plan.adopt and of_ours and self._dead_before() <= created < self._overdue_before()

    async def _due_to_adopt(self, ask_by: int, limit: int) -> tuple[list[_Candidate], int]:
        """Of what the list has shown to be adopted, so many, and how many more there are."""
        dead = self._dead_before()
        self._to_adopt = {key: it for key, it in self._to_adopt.items() if it.since >= dead}
        due = sorted(it for it in self._to_adopt.values() if it.turn <= ask_by)
        known = await self._ledger.pending_among([it.id for it in due[:limit]])
        for key in known:  # it was heard of, or announced, since the list was read
            del self._to_adopt[key]
        return [it for it in due[:limit] if it.id not in known], len(due[limit:])

    # The single jobs.

    async def _ask_all(self, queue: list[_Candidate], summary: Summary, told: Progress) -> None:
        """Asks about each.

        Raises:
            ProviderError: the provider is to be left alone.
        """
        silences = 0
        for number, candidate in enumerate(queue):
            told(number, len(queue))
            summary.asked += 1
            summary.left -= 1
            try:
                report = await self._provider.get(candidate.id)
            except UnknownJobError as error:
                silences, self._answers = 0, True
                await self._unknown(candidate, error, summary)
                self._to_adopt.pop(candidate.id, None)
            except ProviderError as error:
                summary.unanswered += 1
                silences += 1
                await self._unanswered(candidate, error)
                if silences == SILENCES or not await self._is_about_the_job(error):
                    raise
            else:
                silences, self._answers = 0, True
                await self._answered(candidate, report, summary)
        told(len(queue), len(queue))

    async def _is_about_the_job(self, refusal: ProviderError) -> bool:
        """Whether others may be answered although one was refused, as another account's job may be."""
        if isinstance(refusal, RateLimitedError):
            return False
        if self._answers is None and not isinstance(refusal, UnavailableError):
            try:
                await self._provider.page()
            except ProviderError:
                return False
            self._answers = True
        return self._answers is not False

    async def _answered(self, candidate: _Candidate, report: Report, summary: Summary) -> None:
        said = report.completion
        if said is None:
            summary.running += 1
            if candidate.silent is None:
                self._put_off(candidate)
            else:
                answer = Answer(report.status, detail=f"The provider says {report.status}.")
                await self._asked(candidate.silent, answer)
            return
        await self._record(candidate, said, report, summary)

    async def _record(
        self, candidate: _Candidate, said: Completion, report: Report, summary: Summary
    ) -> None:
        headers = {name.lower(): value for name, value in report.headers.items()}
        ref, mark = headers.get(REF_HEADER.lower()), headers.get(SUBMISSION_HEADER.lower())
        with self._instrumentation.step("record", said.id) as step:
            recorded = await self._ledger.record(
                Delivery(
                    said,
                    report.body,
                    report.deadline(now=self._now(), lifetime=self._plan.url_lifetime),
                    ref=ref if is_ref(ref) else None,
                    endpoint=report.endpoint,
                    found=True,
                    mark=mark,
                )
            )
            step.received_at = recorded.received_at
            step.outcome = "duplicate" if recorded.duplicate else "found"
        self._to_adopt.pop(candidate.id, None)
        if recorded.duplicate:  # its delivery came while we asked
            log.info("completion found that came by itself", job=said.id, noted=recorded.events)
            return
        if candidate.silent is None:
            summary.adopted += 1
        else:
            summary.found += 1
            summary.failed += said.failure is not None
        log.warning(
            "completion found that was never delivered",
            job=said.id,
            state=recorded.state,
            adopted=candidate.silent is None,
            noted=recorded.events,
            **({"reason": said.failure.reason} if said.failure else {}),
        )

    async def _unknown(self, candidate: _Candidate, error: UnknownJobError, summary: Summary) -> None:
        """The provider knows no such job. While there could still be an image to fetch, it is asked on."""
        summary.unanswered += 1
        if candidate.silent is None:
            return
        if self._now() - candidate.silent.submitted_at < _span(self._plan.url_lifetime):
            await self._unanswered(candidate, error)
            return
        said = Completion(candidate.id, None, failure=Failure(error.reason, error.detail))
        recorded = await self._ledger.record(Delivery(said, b"", self._now(), found=True))
        summary.found += 1
        summary.failed += 1
        log.warning("given up", job=candidate.id, reason=error.reason, noted=recorded.events)

    async def _unanswered(self, candidate: _Candidate, error: ProviderError) -> None:
        if candidate.silent is None:
            await self._ledger.count_unanswered(error.reason)
            self._put_off(candidate)
            return
        await self._asked(candidate.silent, Answer(reason=error.reason, detail=error.detail))

    async def _asked(self, job: PendingJob, answer: Answer) -> None:
        if await self._ledger.record_answer(job.id, answer, ask_at=self._again_at(job)):
            said = {"status": answer.status, "reason": answer.reason, "detail": answer.detail}
            log.info("asked", job=job.id, **{name: value for name, value in said.items() if value})

    def _put_off(self, candidate: _Candidate) -> None:
        again_at = backoff.next_question_at(self._now(), candidate.since, _span(self._plan.every))
        self._to_adopt[candidate.id] = replace(candidate, turn=again_at)

    def _again_at(self, job: PendingJob) -> int:
        return backoff.next_question_at(self._now(), job.submitted_at, _span(self._plan.every))

    # The provider's moods.

    def _dead_before(self) -> int:
        return self._now() - _span(self._plan.url_lifetime + LIST_SLACK)

    def _overdue_before(self) -> int:
        return overdue_cutoff(self._now(), self._plan.overdue_after)

    def _hold_off(self, trouble: ProviderError) -> float:
        if self._answers and not isinstance(trouble, RateLimitedError):
            self._hold = 0.0  # it is there, and some jobs alone have none
        self._hold = min(max(self._hold * 2, LEAST_HOLD), LONGEST_HOLD)
        return max(self._hold, min(trouble.retry_after or 0.0, LONGEST_HOLD))

    def _tell(self, trouble: ProviderError) -> None:
        if self._trouble is None or self._trouble.reason != trouble.reason:
            log.error(
                "the provider does not answer our questions", reason=trouble.reason, detail=trouble.detail
            )
        self._trouble = trouble

    def _recovered(self) -> None:
        if self._trouble is not None:
            log.info("the provider answers again")
        self._trouble = None
        self._hold = 0.0


class _Order:
    """Notices whether rows come newest first; only then can reading end before the list does."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._oldest = 0
        self._falling = True

    def see(self, created: int) -> None:
        """The next row was created at this time, ms; 0 where it does not say."""
        if self._first is None:
            self._first = self._oldest = created
        self._falling = self._falling and 0 < created <= self._oldest + _span(LIST_SLACK)
        self._oldest = min(created, self._oldest)

    def all_before(self, horizon: int) -> bool:
        """Whether all further rows were created before this time. One row alone shows no order."""
        return self._falling and self._first is not None and self._oldest < min(self._first, horizon)


@dataclass(slots=True)
class _Reading:
    """The list, read over as many rounds as that takes.

    Attributes:
        pages: those that are still to be read.
        began: when the first was, ms.
        order: of the rows.
        unended: when jobs to be adopted later were created, ms.
    """

    pages: AsyncGenerator[list[Row], None]
    began: int
    order: _Order = field(default_factory=_Order)
    unended: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Look:
    """What a round's part of reading the list has come to.

    Attributes:
        wanted: jobs to be asked about, by their ids.
        submitted_before: jobs submitted before this time (ms) are asked about.
        reading: of the list.
        unseen: ids of those wanted at first that no page has shown.
        running: the states of those that have not ended.
    """

    wanted: dict[str, _Candidate]
    submitted_before: int
    reading: _Reading
    unseen: set[str] = field(init=False)
    running: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.unseen = set(self.wanted)


def _ms(when: datetime | None) -> int:
    return 0 if when is None else int(when.astimezone(UTC).timestamp() * 1000)


def _span(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)
