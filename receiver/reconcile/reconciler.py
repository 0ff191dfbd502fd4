"""Asks a provider about jobs without a completion, and records the answers like deliveries.

A provider may not try again, or not call back on a failure. So it is asked about a submitted job that stays
silent, and its list, where it has one, is read for jobs that have ended without a delivery.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import structlog

from receiver.core import backoff
from receiver.core.clock import Clock, milliseconds
from receiver.core.completion import Completion, Failure
from receiver.core.concurrency import cancel, run_forever
from receiver.core.errors import (
    ProviderError,
    RateLimitedError,
    UnaskableError,
    UnavailableError,
    UnknownJobError,
)
from receiver.core.instrumentation import NO_INSTRUMENTATION, Instrumentation
from receiver.core.jobs import overdue_cutoff
from receiver.ledger import Answer, Delivery, Ledger, PendingJob
from receiver.providers.base import Asked, Ending, Report
from receiver.reconcile.listing import Candidate, JobList, Plan, Scan

log = structlog.get_logger("receiver.reconcile")

JOBS_PER_ROUND = 200
"""Pending jobs, so that a crowd of them does not keep the list's news waiting."""

PAGES_PER_ROUND = 60
"""Pages of the list where jobs are adopted: the next round goes on behind them. A list that is not newest
first is read to its end, and would otherwise keep pending jobs waiting for as long as that takes."""

MIN_JOBS_FOR_LIST = 4
"""Pending jobs from which on a page of the list says more than a question would."""

FIRST_PAUSE = 5.0
LONGEST_PAUSE = 900.0
"""Seconds without questions after the provider refused one."""

MAX_UNANSWERED = 3
"""Questions in a row without an answer after which the provider is left alone for a while. One alone may
be the fault of its job."""


@dataclass(slots=True)
class Summary:
    """The result of a round.

    ``found`` completions no delivery had brought; ``failed`` of them say that the job failed. Nobody had
    announced the jobs of the ``adopted`` ones. ``settled`` submissions had an outcome that was unknown.
    ``left`` jobs were not asked about, because the round ended early or has its limit; ``error`` is what
    ended it early, or kept a part of it from being done.
    """

    asked: int = 0
    found: int = 0
    failed: int = 0
    adopted: int = 0
    running: int = 0
    unanswered: int = 0
    settled: int = 0
    left: int = 0
    error: ProviderError | None = None

    def __iadd__(self, other: "Summary") -> Self:
        for name in ("asked", "found", "failed", "adopted", "running", "unanswered", "settled", "left"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.error = self.error or other.error
        return self


Progress = Callable[[int, int], None]
"""Called with the number of questions asked and of those that are known to be needed."""


@dataclass(kw_only=True, eq=False)
class Reconciler:
    """Finds completions of one provider that were never delivered.

    ``settle`` resolves submissions whose outcome is unknown, and returns how many. ``error`` is why the
    provider is left alone now, if so.
    """

    ledger: Ledger
    asked: Asked
    plan: Plan
    settle: Callable[[], Awaitable[int]]
    now: Clock
    instrumentation: Instrumentation = NO_INSTRUMENTATION
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    def __post_init__(self) -> None:
        self._pause = backoff.DoublingWait(FIRST_PAUSE, LONGEST_PAUSE)
        self.error: ProviderError | None = None
        self._answered = False  # this round: a question, or for the list
        self._list_refused = False  # this round
        self._list = JobList(self.ledger, self.asked, self.plan, self.now)
        self._every_ms = milliseconds(self.plan.every)
        self._task: asyncio.Task[None] | None = None

    def alive(self) -> bool:
        """Return whether it has not ended by itself."""
        return self._task is None or not self._task.done()

    def start(self) -> None:
        """Begin one round after the other, also again after a stop."""
        self._list = JobList(self.ledger, self.asked, self.plan, self.now)
        self._task = asyncio.create_task(self._run(), name=f"reconcile {self.asked.provider.name}")

    async def stop(self) -> None:
        """End the rounds. What is not recorded by then is asked for again after the next start."""
        if self._task is not None:
            await cancel([self._task])
            self._task = None
        await self._list.close()

    async def _run(self) -> None:
        every = self.plan.every.total_seconds()

        async def step() -> float:
            summary = await self.round(
                submitted_before=overdue_cutoff(self.now(), self.plan.overdue_after), ask_by=self.now()
            )
            if summary.error is not None:
                return max(every, self._pause_after(summary.error))
            return 0 if summary.left else every

        await run_forever(step, log, retry=every, sleep=self.sleep)

    async def round(
        self,
        *,
        submitted_before: int,
        ask_by: int,
        limit: int = JOBS_PER_ROUND,
        pages: int = PAGES_PER_ROUND,
        on_progress: Progress = lambda _asked, _wanted: None,
    ) -> Summary:
        """Ask once about each pending job, and read the list where that says more.

        Jobs are left alone that were submitted or are due later than these times, in ms since the epoch. At
        most ``limit`` jobs of the ledger and ``pages`` of the list are taken; the next round goes on behind
        them. ``on_progress`` is called before each question. Raise `LedgerError` where what was found cannot
        be recorded.
        """
        summary = Summary()
        self._answered = self._list_refused = False
        pending = partial(  # one job more than the limit, where there are more
            self.ledger.pending,
            self.asked.provider.name,
            submitted_before=submitted_before,
            ask_by=ask_by,
            limit=limit + 1,
        )
        try:
            due = await pending()
            summary.left = len(due)
            unsettled, unlisted = await self._settle_submissions(summary), None
            if summary.settled or unsettled is not None:
                due = await pending()
            beyond = len(due[limit:])
            queue = [Candidate.of(job) for job in due[:limit]]
            if self.asked.client.lists and (self.plan.adopt or len(queue) >= MIN_JOBS_FOR_LIST):
                most = pages if self.plan.adopt else min(pages, len(queue))
                scan = await self._list.read(queue, submitted_before, most)
                unlisted = await self._take_listed(scan, summary)
                queue = [it for it in scan.wanted.values() if it.id not in scan.running]
            adoptable, more = await self._list.due_to_adopt(ask_by, limit)
            queue += adoptable
            summary.left = len(queue) + beyond + more
            await self._ask_all(sorted(queue), summary, on_progress)
            if unsettled is not None:
                raise unsettled
            if unlisted is not None and self.plan.adopt:
                raise unlisted
        except ProviderError as error:
            summary.error = error
            self._note_error(error)
        else:
            if self._answered:
                self._note_recovery()
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

    async def _settle_submissions(self, summary: Summary) -> ProviderError | None:
        """Resolve submissions without an answer. Return why that could not be done."""
        try:
            summary.settled = await self.settle()
        except ProviderError as error:
            await self._tolerate("lost submissions cannot be looked for", error)
            return error
        return None

    async def _tolerate(self, text: str, error: ProviderError) -> None:
        """Log a refusal that need not keep single jobs from being asked about. Raise a `RateLimitedError`."""
        await self.ledger.count_unanswered(error.reason)
        if isinstance(error, RateLimitedError):
            raise error
        log.warning(text, reason=error.reason, detail=error.detail)

    async def _take_listed(self, scan: Scan, summary: Summary) -> ProviderError | None:
        """Record the running jobs of the list. Return why the list could not be read to its end."""
        self._answered = scan.pages > 0
        if scan.refusal is not None:
            await self._tolerate("the provider's list cannot be read", scan.refusal)
            self._list_refused = not isinstance(scan.refusal, UnavailableError)
        for job_id in await self.ledger.record_listed(scan.running, ask_at=self.now() + self._every_ms):
            log.info("asked", job=job_id, status=scan.running[job_id])
        summary.running += len(scan.running)
        return scan.refusal

    async def _ask_all(self, queue: list[Candidate], summary: Summary, on_progress: Progress) -> None:
        """Ask about each; raise the `ProviderError` after which the provider is to be left alone."""
        unanswered = 0
        for number, candidate in enumerate(queue):
            on_progress(number, len(queue))
            summary.asked += 1
            summary.left -= 1
            try:
                endpoint = candidate.pending.endpoint if candidate.pending else None
                report = await self.asked.client.get(candidate.own_id, endpoint)
            except UnknownJobError as error:
                unanswered, self._answered = 0, True
                await self._unknown(candidate, error, summary)
                self._list.to_adopt.pop(candidate.id, None)
            except UnaskableError as error:  # which says nothing of the provider
                summary.unanswered += 1
                await self._unanswered(candidate, error)
            except ProviderError as error:
                summary.unanswered += 1
                unanswered += 1
                await self._unanswered(candidate, error)
                if unanswered == MAX_UNANSWERED or not await self._is_about_the_job(error):
                    raise
            else:
                unanswered, self._answered = 0, True
                await self._record_report(candidate, report, summary)
        on_progress(len(queue), len(queue))

    async def _is_about_the_job(self, refusal: ProviderError) -> bool:
        """Return whether others may be answered although one was refused, as another account's job may be."""
        if isinstance(refusal, RateLimitedError):
            return False
        if self._answered or self._list_refused or isinstance(refusal, UnavailableError):
            return self._answered or not self._list_refused
        try:
            await self.asked.client.probe()
        except ProviderError:
            return False
        self._answered = True
        return True

    async def _record_report(self, candidate: Candidate, report: Report, summary: Summary) -> None:
        if report.ending is not None and (report.ending.outputs or report.ending.failure):
            await self._record(candidate, report.ending, report, summary)
            return
        summary.running += 1
        if candidate.pending is None:
            self._list.postpone(candidate, self._next_question_at(candidate.since))
        else:
            answer = Answer(report.status, detail=f"The provider says {report.status}.")
            await self._record_answer(candidate.pending, answer)

    async def _record(self, candidate: Candidate, ending: Ending, report: Report, summary: Summary) -> None:
        deliveries = [
            Delivery(
                completion,
                b"" if at else report.body,
                end.at,
                ref=report.ref,
                endpoint=ending.endpoint,
                found=True,
                mark=report.mark,
            )
            for at, (completion, end) in enumerate(self.asked.provider.completions(ending, self.now()))
        ]
        completion = deliveries[0].completion
        with self.instrumentation.step("record", completion.id) as step:
            recorded = (await self.ledger.record_together(deliveries))[0]
            step.received_at = recorded.received_at
            step.outcome = "duplicate" if recorded.duplicate else "found"
        self._list.to_adopt.pop(candidate.id, None)
        if recorded.duplicate:  # it was delivered while the provider was asked
            log.info("completion found that came by itself", job=completion.id, noted=recorded.events)
            return
        if candidate.pending is None:
            summary.adopted += 1
        else:
            summary.found += 1
            summary.failed += completion.failure is not None
        log.warning(
            "completion found that was never delivered",
            job=completion.id,
            state=recorded.state,
            adopted=candidate.pending is None,
            noted=recorded.events,
            **({"reason": completion.failure.reason} if completion.failure else {}),
        )

    async def _unknown(self, candidate: Candidate, error: UnknownJobError, summary: Summary) -> None:
        """Give up a job that the provider does not know, once no image could be fetched any more."""
        summary.unanswered += 1
        if candidate.pending is None:
            return
        if self.now() - candidate.pending.submitted_at < milliseconds(self.asked.provider.url_lifetime):
            await self._unanswered(candidate, error)
            return
        completion = Completion(candidate.id, None, failure=Failure(error.reason, error.detail))
        recorded = await self.ledger.record(Delivery(completion, b"", self.now(), found=True))
        summary.found += 1
        summary.failed += 1
        log.warning("given up", job=candidate.id, reason=error.reason, noted=recorded.events)

    async def _unanswered(self, candidate: Candidate, error: ProviderError) -> None:
        if candidate.pending is None:
            await self.ledger.count_unanswered(error.reason)
            self._list.postpone(candidate, self._next_question_at(candidate.since))
            return
        await self._record_answer(candidate.pending, Answer(reason=error.reason, detail=error.detail))

    async def _record_answer(self, job: PendingJob, answer: Answer) -> None:
        again_at = self._next_question_at(job.submitted_at)
        if await self.ledger.record_answer(job.id, answer, ask_at=again_at):
            fields = {"status": answer.status, "reason": answer.reason, "detail": answer.detail}
            log.info("asked", job=job.id, **{name: value for name, value in fields.items() if value})

    def _next_question_at(self, since: int) -> int:
        return backoff.next_question_at(self.now(), since, self._every_ms)

    def _pause_after(self, error: ProviderError) -> float:
        if self._answered and not isinstance(error, RateLimitedError):
            self._pause.reset()  # it answers, except for some jobs
        return max(self._pause.grow(), min(error.retry_after or 0.0, LONGEST_PAUSE))

    def _note_error(self, error: ProviderError) -> None:
        if self.error is None or self.error.reason != error.reason:
            log.error("the provider does not answer our questions", reason=error.reason, detail=error.detail)
        self.error = error

    def _note_recovery(self) -> None:
        if self.error is not None:
            log.info("the provider answers again")
        self.error = None
        self._pause.reset()
