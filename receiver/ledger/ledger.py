"""The ledger of all jobs: the interface of its commands and queries. No caller sees SQL or rows."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from receiver.core.clock import Clock
from receiver.core.errors import AuthError, LedgerError
from receiver.core.jobs import Event, Job
from receiver.ledger import archived_objects, deadlines, notifications, retention, submissions
from receiver.ledger.changes import ChangeNotifier
from receiver.ledger.commands import attempts, claims, deliveries, instances, retries
from receiver.ledger.connection import Connection
from receiver.ledger.engine import Engine, Place, opener
from receiver.ledger.group_commit import GroupCommit, OnCommit
from receiver.ledger.queries import aggregates, dashboard, history, search, unread, week
from receiver.ledger.readers import Readers
from receiver.ledger.transaction import Batched, Transaction
from receiver.ledger.types import Beat, Claim, Delivery, Recorded

P = ParamSpec("P")
T = TypeVar("T")
History = tuple[Job, tuple[Event, ...]]


def _query(
    query: Callable[Concatenate[Connection, P], T],
) -> Callable[Concatenate["LedgerReader", P], Coroutine[Any, Any, T]]:
    """Make a query a method that runs it on a snapshot."""

    @wraps(query)
    async def method(self: "LedgerReader", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._readers.read(lambda db: query(db, *args, **kwargs))

    return method


def _command(
    command: Callable[Concatenate[Transaction, P], T],
) -> Callable[Concatenate["Ledger", P], Coroutine[Any, Any, T]]:
    """Make a command a method that returns after the command is durably committed."""

    @wraps(command)
    async def method(self: "Ledger", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._writer.write(lambda tx: command(tx, *args, **kwargs))

    return method


def _claims(
    command: Callable[Concatenate[Transaction, P], list[Claim]],
) -> Callable[Concatenate["Ledger", P], Coroutine[Any, Any, list[Claim]]]:
    """Make a command that claims jobs a method.

    A call that ends in an error may have been committed all the same: the next one gives its claims back.
    """

    @wraps(command)
    async def method(self: "Ledger", /, *args: P.args, **kwargs: P.kwargs) -> list[Claim]:
        unanswered = tuple(self._unanswered)
        made: list[Claim] = []

        def claim(tx: Transaction) -> list[Claim]:
            for former in unanswered:
                claims.release(tx, former)
            claimed = command(tx, *args, **kwargs)
            made.extend(claimed)
            return claimed

        try:
            claimed = await self._writer.write(claim)
        except LedgerError:
            self._unanswered += made
            raise
        self._unanswered = [former for former in self._unanswered if former not in unanswered]
        return claimed

    return method


def _attempt(
    command: Callable[Concatenate[Transaction, Claim, P], bool],
    is_recorded: Callable[Concatenate[Transaction, Claim, P], bool] | None = None,
) -> Callable[Concatenate["Ledger", Claim, P], Coroutine[Any, Any, bool]]:
    """Make a command that records how an attempt ended a method.

    While it cannot be recorded, the claim's lease does not end: the work is done, and the holder tries again.
    The call before may have been committed although it ended in an error: ``is_recorded`` tells whether the
    ledger says already what the command would make it say.
    """

    @wraps(command)
    async def method(self: "Ledger", claim: Claim, /, *args: P.args, **kwargs: P.kwargs) -> bool:
        repeated = is_recorded if claim.holder in self._unrecorded else None

        def record(tx: Transaction) -> bool:
            done = command(tx, claim, *args, **kwargs)
            return done or (repeated is not None and repeated(tx, claim, *args, **kwargs))

        try:
            done = await self._writer.write(record)
        except LedgerError:
            self._unrecorded.add(claim.holder)
            raise
        self._unrecorded.discard(claim.holder)
        return done

    return method


class LedgerReader:
    """A ledger that is only read, such as by a command beside the server."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers

    @classmethod
    async def open(cls, place: Place) -> "LedgerReader":
        """Open an existing ledger. Raise `LedgerError` where there is none of the present version."""
        return cls(await opener(place).to_read())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._readers.close()

    @property
    def reads(self) -> int:
        return self._readers.reads

    job = _query(search.job)
    job_with_history = _query(search.job_with_history)
    jobs = _query(search.jobs)
    jobs_among = _query(search.jobs_among)
    jobs_with_prefix = _query(search.jobs_with_prefix)
    unread_deliveries = _query(unread.unread_deliveries)

    stats = _query(aggregates.stats)
    overview = _query(dashboard.overview)
    archived_lately = _query(dashboard.archived_lately)
    week = _query(week.week)

    async def check_whole(self, *, seconds: float | None = None, deep: bool = False) -> bool:
        return await self._readers.check_whole(seconds=seconds, deep=deep)

    transitions = _query(history.transitions)
    last_history_seq = _query(history.last_history_seq)
    refusal_of = _query(history.refusal_of)
    notifications_due = _query(notifications.due)
    next_notification_at = _query(notifications.next_at)

    next_event_at = _query(deadlines.next_event_at)

    pending = _query(submissions.pending)
    pending_among = _query(submissions.pending_among)
    open_intents = _query(submissions.open_intents)
    intents_among = _query(submissions.intents_among)
    job_ids_submitted_since = _query(submissions.job_ids_submitted_since)

    archived_jobs = _query(archived_objects.archived_jobs)
    archive_uris = _query(archived_objects.archive_uris)
    finding_of = _query(archived_objects.finding_of)
    checkpoint = _query(archived_objects.checkpoint)
    prunable = _query(retention.prunable)


class Ledger(LedgerReader):
    """The ledger with this process's one writer; ``now`` is the clock of its times."""

    def __init__(self, engine: Engine, *, on_commit: OnCommit | None = None) -> None:
        super().__init__(engine.readers)
        self.now = engine.now
        self.member = engine.member
        self.shared = engine.shared
        """Whether other receivers may share the ledger."""
        self._engine = engine
        self._notifier = ChangeNotifier()
        self._writer = GroupCommit(engine.commit, on_change=self._notifier.publish, on_commit=on_commit)
        self.interrupted: list[str] = []
        """Jobs whose download was interrupted by the end of an earlier process."""
        self._unrecorded: set[str] = set()
        self._unanswered: list[Claim] = []
        self._shared: dict[tuple[str, int], asyncio.Task[History | None]] = {}

    @classmethod
    async def serve(
        cls,
        place: Place,
        *,
        now: Clock | None = None,
        monotonic: Clock | None = None,
        on_commit: OnCommit | None = None,
    ) -> "Ledger":
        """Open the ledger for the server, create or migrate it, and void the claims of earlier processes.

        The caller holds the data directory's lock. Without clocks, the engine has its own: of times, and of
        leases.
        """
        engine = await opener(place, now, monotonic).to_serve()
        ledger = cls(engine, on_commit=on_commit)
        try:
            ledger.interrupted = await ledger._writer.write(engine.recover)
        except LedgerError:
            await ledger.close()  # an open connection's thread would keep the process from ending
            raise
        return ledger

    @classmethod
    async def open_beside(
        cls, place: Place, *, make: bool = True, now: Clock | None = None, monotonic: Clock | None = None
    ) -> "Ledger":
        """Open the ledger for a command; claims stand. ``make``: create it where there is none."""
        return cls(await opener(place, now, monotonic).beside(make=make))

    async def close(self) -> None:
        """Commit what waits, and close."""
        await super().close()  # the last connection to close writes the WAL back, and must be able to write
        await self._writer.close()
        await self._engine.close()

    @property
    def waiting(self) -> int:
        return self._writer.waiting

    async def check_for_damage(self) -> None:
        await self._engine.check_for_damage()

    async def check_writable(self) -> None:
        """Make a durable commit that changes nothing."""
        await self._writer.write(self._engine.write_nothing)

    def changes(self, job_id: str | None = None) -> AbstractContextManager[asyncio.Event]:
        """Provide an event that is set after each commit that changed the job, or any job."""
        return self._notifier.subscribe(job_id)

    async def job_with_history_shared(self, job_id: str) -> History | None:
        """Return what `job_with_history` does; tasks that one commit has woken share one read."""
        key = (job_id, self._notifier.commits)  # a read that began before the last commit may have missed it

        def forget(done: asyncio.Task[History | None]) -> None:
            del self._shared[key]
            if not done.cancelled():
                done.exception()  # marks it as retrieved: all who waited may have been cancelled

        if (task := self._shared.get(key)) is None:
            task = self._shared[key] = asyncio.create_task(self.job_with_history(job_id))
            task.add_done_callback(forget)
        return await asyncio.shield(task)

    async def detect_foreign_commits(self) -> None:
        """Wake the waiting for what other processes, such as commands, have committed meanwhile."""
        if changed := await self._engine.changed_by_others():
            self._notifier.publish(changed)

    async def record(self, delivery: Delivery) -> Recorded:
        """Record a completion durably. Raise `AuthError` where its ticket or mark belongs to another job."""
        recorded = await self._writer.write(Batched(deliveries.record_all, delivery, len(delivery.body)))
        if recorded is None:
            raise AuthError(
                "auth.refused",
                f"The ticket or mark that came with job {delivery.completion.id} is another's.",
            )
        return recorded

    record_together = _command(deliveries.record_together)
    record_unread = _command(deliveries.record_unread)

    expect = _command(submissions.expect)
    forget = _command(submissions.forget)
    give_up_disk = _command(instances.give_up_disk)
    record_intent = _command(submissions.record_intent)
    confirm_intent = _command(submissions.confirm_intent)
    withdraw_intent = _command(submissions.withdraw_intent)
    record_answer = _command(submissions.record_answer)
    record_listed = _command(submissions.record_listed)

    count_unanswered = _command(submissions.count_unanswered)

    claim_to_fetch = _claims(claims.claim_to_fetch)
    claim_past_deadline = _claims(claims.claim_past_deadline)
    claim_to_archive = _claims(claims.claim_to_archive)
    release = _command(claims.release)

    async def spool_names(self) -> frozenset[str]:
        return await self._readers.read(lambda db: deadlines.spool_names(db, self.member.id))

    async def spool_bytes(self) -> int:
        return await self._readers.read(lambda db: deadlines.spool_bytes(db, self.member.id))

    async def beat(self) -> Beat:
        """Tell the other instances that this one lives. Raise ``ledger.in_use`` where it is replaced."""
        return await self._writer.write(lambda tx: instances.beat(tx, self.member))

    async def resign(self) -> None:
        await self._writer.write(lambda tx: instances.resign(tx, self.member))

    def refuse(self, error: LedgerError) -> None:
        """Raise this error for whatever is to be written from now on."""
        self._writer.refusal = error

    next_call = _command(instances.next_call)

    async def release_expired_leases(self) -> None:
        """Void claims whose lease has ended, except those whose end could not be recorded yet."""
        kept = frozenset(self._unrecorded)
        await self._writer.write(lambda tx: claims.release_expired_leases(tx, kept))

    async def release_orphans(self) -> None:
        """Void the claims of a server that is gone, such as in a restored backup, where none is running."""
        with self._engine.no_server() as is_alone:
            if is_alone:
                await self._writer.write(self._engine.recover)

    confirmed = _command(attempts.confirmed)
    url_refreshed = _attempt(attempts.url_refreshed)
    expired = _attempt(attempts.expired)
    fetched = _attempt(attempts.fetched, attempts.was_fetched)
    archived = _attempt(attempts.archived, attempts.was_archived)
    recognised = _attempt(attempts.recognised, attempts.was_recognised)
    rejected = _attempt(attempts.rejected)
    retry_later = _attempt(attempts.retry_later)
    spool_lost = _attempt(attempts.spool_lost)

    retry = _command(retries.retry)

    async def try_now(self, job_id: str) -> Job:
        """Do what `retry` does, but return a job that is being tried at this moment as it is."""
        try:
            return await self.retry(job_id)
        except retries.NotRetriableError as error:
            if error.in_progress is None:
                raise
            return error.in_progress

    accept = _command(retries.accept)
    spool_file_recovered = _command(retries.spool_file_recovered)
    expire = _command(deadlines.expire)
    end_trial = _command(deadlines.end_trial)
    mark_at_risk = _command(deadlines.mark_at_risk)
    shift_waits = _command(deadlines.shift_waits)

    start_notifications = _command(notifications.start)
    stop_notifications = _command(notifications.stop)
    enqueue_notifications = _command(notifications.enqueue)
    notification_sent = _command(notifications.sent)
    notification_failed = _command(notifications.failed)
    give_up_old_notifications = _command(notifications.give_up_old)

    save_checkpoint = _command(archived_objects.save_checkpoint)
    replace_checkpoint = _command(archived_objects.replace_checkpoint)
    record_audit = _command(archived_objects.record_audit)
    relocated = _command(archived_objects.relocated)
    readdress = _command(archived_objects.readdress)
    rebuild = _command(archived_objects.rebuild)
    prune = _command(retention.prune)
