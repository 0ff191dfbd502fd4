"""Asks the provider about what we have not heard, and records it through the same door as the webhook.

The provider documents no retry and no callback on failure. So a submitted job that stays silent is asked for,
and the provider's list is read back for jobs that have ended without a word.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog

from receiver import schedule
from receiver.completion import ENDED_STATUSES, Completion, Failure
from receiver.errors import LedgerError, ProviderError, UnavailableError, UnknownJobError
from receiver.ledger import Answer, Delivery, Ledger, Silent
from receiver.sender import REF_HEADER, is_ref
from receiver.steps import UNWATCHED, Watch
from receiver.ximilar import Report, Row, Ximilar

log = structlog.get_logger("receiver.reconcile")

AT_A_TIME = 200
"""Silent jobs to a round, so that a crowd of them does not keep the list's news waiting."""

LIST_FROM = 4
"""Silent jobs from which on a page of the list says more than a question would."""

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
        left: silent jobs that were not asked about, because the round was cut short.
        trouble: what cut it short.
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
    """A job to be asked about; the oldest first, since its image dies first."""

    since: int
    id: str
    silent: Silent | None = field(compare=False, default=None)


class Reconciler:
    """Finds completions that were never delivered.

    Args:
        ledger: which jobs are silent, and where what was found is recorded.
        provider: is asked, at the pace that it was made with.
        plan: how.
        settle: finds out what became of submits whose fate is unknown; gives of how many.
        now: the time, ms since the epoch.
        watch: told of what is found.
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
        watch: Watch = UNWATCHED,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._ledger = ledger
        self._provider = provider
        self._plan = plan
        self._settle = settle
        self._now = now
        self._watch = watch
        self._sleep = sleep
        self._hold = 0.0
        self._trouble: ProviderError | None = None
        self._read_back_to = 0
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

    async def _run(self) -> None:
        while True:
            wait = self._plan.every.total_seconds()
            try:
                summary = await self.round(silent_since=self._overdue_before(), ask_by=self._now())
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
        self, *, silent_since: int, ask_by: int, limit: int = AT_A_TIME, progress: Progress | None = None
    ) -> Summary:
        """Asks once about each silent job, and looks through the list where that says more.

        Args:
            silent_since: ms since the epoch: jobs submitted before this time are asked about.
            ask_by: ms since the epoch: of them those that are due by then.
            limit: at most so many of them; ``left`` tells whether there are more.
            progress: is told how far it is.

        Raises:
            LedgerError: what was found cannot be recorded.
        """
        summary = Summary()
        told = progress or (lambda _done, _wanted: None)
        try:
            summary.settled = await self._settle()
            due = await self._ledger.silent(silent_since=silent_since, ask_by=ask_by, limit=limit + 1)
            summary.left = len(due)
            queue = [_Candidate(job.submitted_at, job.id, job) for job in due[:limit]]
            reached = self._read_back_to
            if self._plan.adopt or len(queue) >= LIST_FROM:
                try:
                    queue, reached = await self._read_list(queue, silent_since, summary)
                except ProviderError as error:
                    await self._ledger.count_unanswered(error.reason)
                    if not isinstance(error, UnavailableError):
                        raise
                    # The jobs can be asked about all the same.
                    log.warning(
                        "the provider's list cannot be read", reason=error.reason, detail=error.detail
                    )
            missed = await self._ask_all(sorted(queue), summary, told)
            self._read_back_to = min([reached, *missed])
            summary.left = max(len(due) - limit, 0)
        except ProviderError as error:
            summary.trouble = error
            self._tell(error)
        else:
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

    # The list.

    async def _read_list(
        self, queue: list[_Candidate], silent_since: int, summary: Summary
    ) -> tuple[list[_Candidate], int]:
        """Takes those out of the queue that the list says are still running, and adds others that have ended.

        The list changes while it is read: what moves on to a later page is seen twice, which does no harm,
        and what is missed is asked for by itself, or seen in the next round.

        Returns:
            The queue, and a time (ms since the epoch): of jobs created before it nothing is left to adopt,
            but for what is in the queue.
        """
        wanted = {candidate.id: candidate for candidate in queue}
        began, horizon, order = self._now(), self._horizon(queue), _Order()
        running: dict[str, str] = {}
        unended: list[int] = []
        async with contextlib.aclosing(self._provider.rows()) as rows:
            async for batch in _batches(rows, order, horizon):
                known = await self._ledger.silent_among([row.id for row in batch])
                for row in batch:
                    created, ended, job = _ms(row.created), row.status in ENDED_STATUSES, known.get(row.id)
                    if row.id in wanted:
                        if not ended:
                            running[row.id] = row.status
                    elif job is not None:
                        if ended and job.submitted_at < silent_since:
                            wanted[row.id] = _Candidate(job.submitted_at, row.id, job)
                    elif row.id not in known and self._may_adopt(row, created):
                        if ended:
                            wanted[row.id] = _Candidate(created, row.id)
                        else:
                            unended.append(created)
        for job_id in await self._ledger.seen(running, ask_at=self._now() + _span(self._plan.every)):
            log.info("asked", job=job_id, status=running[job_id])
        summary.running += len(running)
        reached = min([began - _span(self._plan.overdue_after), *unended])
        return [candidate for candidate in wanted.values() if candidate.id not in running], reached

    def _horizon(self, queue: list[_Candidate]) -> int:
        """Rows created before this time (ms) are of no interest: their images are dead, or they were seen."""
        dead = self._now() - _span(self._plan.url_lifetime + LIST_SLACK)
        oldest = min((candidate.since for candidate in queue), default=self._now())
        wanted = min(oldest, self._read_back_to) if self._plan.adopt else oldest
        return max(wanted - _span(LIST_SLACK), dead)

    def _may_adopt(self, row: Row, created: int) -> bool:
        dead = self._now() - _span(self._plan.url_lifetime + LIST_SLACK)
        of_ours = row.type in (None, "upscaler")
        # Younger ones may still tell us themselves.
        return self._plan.adopt and of_ours and dead <= created < self._overdue_before()

    # The single jobs.

    async def _ask_all(self, queue: list[_Candidate], summary: Summary, told: Progress) -> list[int]:
        """Asks about each; gives the times (ms) from which jobs to be adopted gave no answer."""
        silences, missed = 0, []
        for number, candidate in enumerate(queue):
            told(number, len(queue))
            summary.asked += 1
            try:
                report = await self._provider.get(candidate.id)
            except UnknownJobError as error:
                silences = 0
                await self._unknown(candidate, error, summary)
            except ProviderError as error:
                summary.unanswered += 1
                silences += 1
                await self._unanswered(candidate, error)
                if candidate.silent is None:
                    missed.append(candidate.since)
                if error.reason != "provider.unavailable" or silences == SILENCES:
                    raise
            else:
                silences = 0
                await self._answered(candidate, report, summary)
        told(len(queue), len(queue))
        return missed

    async def _answered(self, candidate: _Candidate, report: Report, summary: Summary) -> None:
        said = report.completion
        if said is None:
            summary.running += 1
            if candidate.silent is not None:
                answer = Answer(report.status, detail=f"The provider says {report.status}.")
                await self._asked(candidate.silent, answer)
            return
        await self._record(candidate, said, report, summary)

    async def _record(
        self, candidate: _Candidate, said: Completion, report: Report, summary: Summary
    ) -> None:
        ref = next((v for k, v in report.headers.items() if k.lower() == REF_HEADER.lower()), None)
        with self._watch.step("record", said.id) as step:
            recorded = await self._ledger.record(
                Delivery(
                    said,
                    report.body,
                    report.deadline(now=self._now(), lifetime=self._plan.url_lifetime),
                    ref=ref if is_ref(ref) else None,
                    endpoint=report.endpoint,
                    found=True,
                )
            )
            step.received_at = recorded.received_at
            step.outcome = "duplicate" if recorded.duplicate else "found"
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
            return
        await self._asked(candidate.silent, Answer(reason=error.reason, detail=error.detail))

    async def _asked(self, job: Silent, answer: Answer) -> None:
        if await self._ledger.asked(job.id, answer, ask_at=self._again_at(job)):
            said = {"status": answer.status, "reason": answer.reason, "detail": answer.detail}
            log.info("asked", job=job.id, **{name: value for name, value in said.items() if value})

    def _again_at(self, job: Silent) -> int:
        return schedule.ask_again_at(self._now(), job.submitted_at, _span(self._plan.every))

    # The provider's moods.

    def _overdue_before(self) -> int:
        return self._now() - _span(self._plan.overdue_after)

    def _hold_off(self, trouble: ProviderError) -> float:
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


async def _batches(rows: AsyncGenerator[Row, None], order: _Order, horizon: int) -> AsyncIterator[list[Row]]:
    """The rows, in pieces for which the ledger is asked at once, as far back as the horizon (ms)."""
    batch: list[Row] = []
    async for row in rows:
        batch.append(row)
        order.see(_ms(row.created))
        if order.all_before(horizon):
            break
        if len(batch) == AT_A_TIME:
            yield batch
            batch = []
    yield batch


def _ms(when: datetime | None) -> int:
    return 0 if when is None else int(when.astimezone(UTC).timestamp() * 1000)


def _span(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)
