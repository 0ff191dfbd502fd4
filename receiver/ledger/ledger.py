"""The ledger of all jobs: an interface of verbs and questions. No caller sees SQL or rows."""

import asyncio
import os
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TypeVar

from receiver.archive.metadata import ArchivedImage
from receiver.core.clock import monotonic_clock, wall_clock
from receiver.core.completion import Completion
from receiver.core.errors import AuthError, LedgerError, ReceiverError
from receiver.core.jobs import Event, Image, Job, StoredObject
from receiver.ledger import commands, maintenance, notifications, overview, queries, readings, retention
from receiver.ledger.changes import ChangeNotifier
from receiver.ledger.commands import Answer, Claim, Delivery, Lease, Recorded, Submission
from receiver.ledger.group_commit import Committed, Transaction, Writer, untold
from receiver.ledger.maintenance import ArchivedJob, AuditFinding, Rebuilt
from receiver.ledger.notifications import Render
from receiver.ledger.overview import Overview
from receiver.ledger.queries import Filter, Page, Stats, UnreadPage
from receiver.ledger.readings import Gauges
from receiver.ledger.retention import PruneBatch, RecordKind
from receiver.ledger.sqlite import schema
from receiver.ledger.sqlite.connections import Door, open_to_read, open_to_write, translate
from receiver.ledger.sqlite.driver import sqlite3
from receiver.ledger.sqlite.lock import DirectoryLock, open_for_owner
from receiver.ledger.types import Intent, Notification, PendingJob, TransitionPage

T = TypeVar("T")

FILE_NAME = "ledger.sqlite3"
READERS = 2
MARKED_AT_ONCE = 500


class ReaderPool:
    """Connections that only read, each with a thread of its own; so a question never waits for a commit."""

    def __init__(self, doors: Sequence[Door]) -> None:
        self.asked = 0
        self._doors = doors
        self._closing = False
        self._free: asyncio.Queue[Door] = asyncio.Queue()
        for door in doors:
            self._free.put_nowait(door)

    @classmethod
    async def open(cls, path: Path, count: int = READERS) -> "ReaderPool":
        """Opens the connections.

        Raises:
            LedgerError: ``ledger.unavailable`` or ``ledger.corrupt``.
        """
        return cls([await open_to_read(path) for _ in range(count)])

    async def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Runs the question on a snapshot of one moment.

        Raises:
            LedgerError: ``ledger.unavailable``, ``ledger.corrupt`` or ``ledger.stopping``.
        """
        door = await self._free.get()
        try:
            if self._closing:
                raise LedgerError("ledger.stopping")
            self.asked += 1
            return await door.run(partial(_in_one_moment, question))
        except sqlite3.Error as error:
            raise translate(error) from error
        finally:
            self._free.put_nowait(door)

    async def close(self) -> None:
        """Answers what was asked already, and closes all connections."""
        self._closing = True
        for door in self._doors:
            await door.close()


def _in_one_moment(question: Callable[[sqlite3.Connection], T], db: sqlite3.Connection) -> T:
    db.execute("BEGIN")
    try:
        return question(db)
    finally:
        if db.in_transaction:  # some errors end it by themselves
            db.execute("ROLLBACK")


def _in_place(path: Path) -> Callable[[], None]:
    """A look whether the file at the path is still the one that is there now.

    An open file that was moved away or replaced takes commits as before, and no start would ever read them.
    """
    opened = path.stat()

    def look() -> None:
        try:
            present = path.stat()
        except OSError as error:
            raise LedgerError(
                "ledger.unavailable", f"The ledger's file is gone ({path}: {error.strerror})."
            ) from None
        if (present.st_dev, present.st_ino) != (opened.st_dev, opened.st_ino):
            raise LedgerError(
                "ledger.unavailable",
                f"Another file stands where the ledger was opened ({path}). Restart the receiver to use it,"
                " or put the former one back.",
            )

    return look


async def _refuse_unfit(path: Path, look: Callable[[sqlite3.Connection, Path], None]) -> None:
    # Through a connection that cannot write: opening to write would already change a file that is not ours.
    door = await open_to_read(path)
    try:
        # Of one moment: a server that starts beside may be bringing it to another version.
        await door.run(partial(_in_one_moment, lambda db: look(db, path)))
    except sqlite3.Error as error:
        raise translate(error, path) from error
    finally:
        await door.close()


def _nowhere(data_dir: Path) -> LedgerError:
    return LedgerError(
        "ledger.unavailable", f"There is no ledger in {data_dir}; RECEIVER_DATA_DIR says where to look."
    )


class LedgerReader:
    """What can be asked of the ledger; enough for a command that runs beside the server."""

    def __init__(self, readers: ReaderPool) -> None:
        self._readers = readers

    @classmethod
    async def open(cls, data_dir: Path) -> "LedgerReader":
        """Opens an existing ledger to read.

        Raises:
            LedgerError: ``ledger.unavailable`` where there is none of the present version,
                ``ledger.newer``, ``ledger.corrupt``.
        """
        path = data_dir / FILE_NAME
        if not path.is_file():
            raise _nowhere(data_dir)
        readers = await ReaderPool.open(path, 1)
        try:
            await readers.ask(lambda db: schema.check_present(db, path))
        except (
            BaseException
        ):  # an interruption, too: a thread that is left behind answers a loop that is gone
            await readers.close()
            raise
        return cls(readers)

    async def close(self) -> None:
        """Closes the connections."""
        await self._readers.close()

    @property
    def reads(self) -> int:
        """How many questions were asked of the file so far."""
        return self._readers.asked

    async def job(self, job_id: str) -> Job | None:
        """One job, or ``None`` where there is none of this id."""
        return await self._readers.ask(lambda db: queries.job(db, job_id))

    async def job_with_history(self, job_id: str) -> tuple[Job, tuple[Event, ...]] | None:
        """One job with its history, oldest first; or ``None`` where there is none of this id."""
        return await self._readers.ask(lambda db: queries.job_with_history(db, job_id))

    async def jobs(self, wanted: Filter, *, before: int | None = None, limit: int = 100) -> Page:
        """A page of jobs, newest first. ``before`` is the ``next`` of the page before."""
        return await self._readers.ask(lambda db: queries.jobs(db, wanted, before, limit))

    async def jobs_with_prefix(self, prefix: str, limit: int) -> tuple[Job, ...]:
        """Jobs whose ids begin so, in the ids' order."""
        return await self._readers.ask(lambda db: queries.jobs_with_prefix(db, prefix, limit))

    async def similar_jobs(self, text: str, limit: int) -> tuple[Job, ...]:
        """Jobs that somebody may have meant by a text that is no id, by reference or by beginning."""
        return await self._readers.ask(lambda db: queries.similar_jobs(db, text, limit))

    async def check_whole(self, *, seconds: float | None, deep: bool = False) -> bool:
        """Looks for damage in the file. Gives whether the look was finished.

        Args:
            seconds: how long it may take; without, to the end.
            deep: whether indexes are compared with their tables, too.

        Raises:
            LedgerError: ``ledger.corrupt`` where it is damaged.
        """
        return await self._readers.ask(lambda db: schema.check_whole(db, seconds=seconds, deep=deep))

    async def unread_deliveries(
        self, outcome: str | None = None, *, before: int | None = None, limit: int = 100
    ) -> UnreadPage:
        """Deliveries that were no completions, newest first."""
        return await self._readers.ask(lambda db: queries.unread_deliveries(db, outcome, before, limit))

    async def stats(self, *, overdue_before: int) -> Stats:
        """The ledger in numbers; jobs submitted before ``overdue_before`` and still silent are overdue."""
        return await self._readers.ask(lambda db: queries.stats(db, overdue_before))

    async def overview(self, *, overdue_before: int, limit: int) -> Overview:
        """The ledger at a glance, of one moment, with at most ``limit`` jobs in each list."""
        return await self._readers.ask(lambda db: overview.overview(db, overdue_before, limit))

    async def archived_lately(self, limit: int) -> tuple[int, tuple[int, ...]]:
        """How many jobs are archived, and when (ms since the epoch) the newest ``limit`` of them were."""
        return await self._readers.ask(lambda db: overview.archived_lately(db, limit))

    async def gauges(self, *, overdue_before: int) -> Gauges:
        """The gauges of one moment, at the same cost however many jobs there are."""
        return await self._readers.ask(lambda db: readings.readings(db, overdue_before))

    async def spool_names(self) -> frozenset[str]:
        """The names of all spool files that the ledger counts on."""
        return await self._readers.ask(queries.spool_names)

    async def spool_bytes(self) -> int:
        """Bytes of all images that wait in the spool for the archive."""
        return await self._readers.ask(queries.spool_bytes)

    async def next_event_at(self) -> int | None:
        """When a wait or a deadline ends next, ms since the epoch."""
        return await self._readers.ask(queries.next_event_at)

    async def pending(self, *, submitted_before: int, ask_by: int, limit: int) -> tuple[PendingJob, ...]:
        """Submitted jobs to ask the provider about, the longest waiting for it first.

        Args:
            submitted_before: ms since the epoch.
            ask_by: ms since the epoch: due to be asked for at this time or before.
            limit: at most so many.
        """
        return await self._readers.ask(lambda db: queries.silent(db, submitted_before, ask_by, limit))

    async def pending_among(self, ids: Sequence[str]) -> Mapping[str, PendingJob | None]:
        """Of these ids those that are known: with what they are if they are silent, ``None`` if not."""
        return await self._readers.ask(lambda db: queries.silent_among(db, ids))

    async def archived_jobs(self, *, after: int, limit: int) -> tuple[ArchivedJob, ...]:
        """Archived jobs in the order in which they came, behind a position (0: from the beginning)."""
        return await self._readers.ask(lambda db: maintenance.archived(db, after, limit))

    async def archive_uris(self, ids: Collection[str]) -> Mapping[str, str]:
        """Of these ids those of archived jobs, each with where its image lies."""
        return await self._readers.ask(lambda db: maintenance.places(db, ids))

    async def finding_of(self, job_id: str) -> AuditFinding | None:
        """What the last audit found to be wrong with a job's object; ``None`` where it is sound."""
        return await self._readers.ask(lambda db: maintenance.finding_of(db, job_id))

    async def checkpoint(self, name: str) -> str | None:
        """What a long run, such as an audit, has kept of its state."""
        return await self._readers.ask(lambda db: maintenance.run(db, name))

    async def prunable(
        self, kind: RecordKind, *, after: int | str | None, before: int, size: int
    ) -> PruneBatch:
        """Looks through rows for what is older than ``before`` (ms since the epoch), ``size`` at most."""
        return await self._readers.ask(lambda db: retention.window(db, kind, after, before, size))

    async def open_intents(self, *, before: int, limit: int = 100) -> tuple[Intent, ...]:
        """What was about to be submitted before this time, and of which no id is known; oldest first."""
        return await self._readers.ask(lambda db: queries.open_intents(db, before, limit))

    async def intents_among(self, keys: Sequence[str]) -> Mapping[str, Intent]:
        """Of these keys those that something was noted for, open or not."""
        return await self._readers.ask(lambda db: queries.intents_among(db, keys))

    async def job_ids_submitted_since(self, at: int) -> frozenset[str]:
        """The jobs' ids of all that was about to be submitted at this time (ms since the epoch) or later."""
        return await self._readers.ask(lambda db: queries.job_ids_submitted_since(db, at))

    async def jobs_among(self, ids: Sequence[str]) -> Mapping[str, Job]:
        """Of these ids those that the ledger knows, each with its job."""
        return await self._readers.ask(lambda db: queries.jobs_among(db, ids))

    async def transitions(self, *, after: int, limit: int) -> TransitionPage:
        """Jobs that came or moved after a line of the history; at most so many of its lines are read."""
        return await self._readers.ask(lambda db: queries.transitions(db, after, limit))

    async def last_history_seq(self) -> int:
        """The last line of the history; 0 where there is none. Its number is never given out again."""
        return await self._readers.ask(queries.last_history_seq)

    async def notifications_due(self, *, by: int, limit: int) -> tuple[Notification, ...]:
        """What is to be sent by a time (ms since the epoch); of each job nothing but the oldest."""
        return await self._readers.ask(lambda db: notifications.due(db, by, limit))

    async def next_notification_at(self) -> int | None:
        """When the next notification is due, ms since the epoch."""
        return await self._readers.ask(notifications.next_at)

    async def notifications_given_up(self, *, limit: int = 100) -> tuple[Notification, ...]:
        """Notifications that nobody took, the newest first."""
        return await self._readers.ask(lambda db: notifications.given_up(db, limit))


class Ledger(LedgerReader):
    """The ledger as the server has it: the one writer, and readers."""

    def __init__(
        self,
        writer: Writer,
        readers: ReaderPool,
        announcer: ChangeNotifier,
        *,
        now: Callable[[], int],
        monotonic: Callable[[], int],
    ) -> None:
        super().__init__(readers)
        self._writer = writer
        self._announcer = announcer
        self._now = now
        self._monotonic = monotonic
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._claims = 0
        self._others: int | None = None
        self._last = 0
        self.interrupted: list[str] = []
        """Jobs in whose download a process has ended before this one began."""
        self._unsettled: set[str] = set()
        self._looks: dict[str, tuple[int, asyncio.Task[tuple[Job, tuple[Event, ...]] | None]]] = {}

    @classmethod
    async def serve(
        cls,
        data_dir: Path,
        *,
        now: Callable[[], int] = wall_clock,
        monotonic: Callable[[], int] = monotonic_clock,
        on_commit: Committed = untold,
    ) -> "Ledger":
        """Opens the ledger to write, makes or migrates it, and voids the claims of processes that are gone.

        The caller holds the data directory's lock.

        Args:
            data_dir: where it lies.
            now: the wall clock, ms since the epoch.
            monotonic: ms, of a clock that nobody sets.
            on_commit: called after each commit.

        Raises:
            LedgerError: ``ledger.unavailable``; ``ledger.corrupt`` or ``ledger.newer``, and the file was left
                as it is.
        """
        path = data_dir / FILE_NAME
        if not path.exists():
            os.close(open_for_owner(path))
        await _refuse_unfit(path, schema.check)
        door = await open_to_write(path)
        try:
            await door.run(lambda db: schema.prepare(db, path))
            readers = await ReaderPool.open(path)
        except sqlite3.Error as error:
            await door.close()
            raise translate(error, path) from error
        except LedgerError:
            await door.close()
            raise
        announcer = ChangeNotifier()
        writer = Writer(door, announcer.announce, in_place=_in_place(path), committed=on_commit)
        ledger = cls(writer, readers, announcer, now=now, monotonic=monotonic)
        try:
            ledger.interrupted = await ledger._write(lambda tx: commands.release_all(tx, now()))
        except LedgerError:
            await ledger.close()  # an open connection's thread would keep the process from ending
            raise
        return ledger

    @classmethod
    async def open_beside(
        cls,
        data_dir: Path,
        *,
        make: bool = True,
        now: Callable[[], int] = wall_clock,
        monotonic: Callable[[], int] = monotonic_clock,
    ) -> "Ledger":
        """Opens the ledger to write from a command, beside a server or without one.

        It is made or migrated only where no server holds it. Claims are left to whoever holds them.

        Args:
            data_dir: where it lies.
            make: whether one is made where there is none.
            now: the time, ms since the epoch.
            monotonic: a clock that nobody sets, ms.

        Raises:
            LedgerError: ``ledger.unavailable``, ``ledger.corrupt`` or ``ledger.newer``; ``ledger.in_use``
                where it is older than this program and a server holds it.
        """
        path = data_dir / FILE_NAME
        if not path.exists():
            if not make:
                raise _nowhere(data_dir)
            os.close(open_for_owner(path))
        await _refuse_unfit(path, schema.check_structure)
        door = await open_to_write(path)
        try:
            if await door.run(lambda db: schema.is_older(db, path)):
                lock = DirectoryLock(data_dir)
                try:
                    await door.run(lambda db: schema.prepare(db, path))
                finally:
                    lock.release()
            readers = await ReaderPool.open(path, 1)
        except sqlite3.Error as error:
            await door.close()
            raise translate(error, path) from error
        except LedgerError:
            await door.close()
            raise
        announcer = ChangeNotifier()
        writer = Writer(door, announcer.announce, in_place=_in_place(path))
        return cls(writer, readers, announcer, now=now, monotonic=monotonic)

    async def close(self) -> None:
        """Commits what waits, and closes."""
        await super().close()  # the last connection to close writes the WAL back, and must be able to write
        await self._writer.close()

    async def release_orphans(self, data_dir: Path) -> None:
        """Voids all claims, if no server holds the ledger: whoever took them is gone.

        So it is with a ledger that was restored from a copy of one that was at work.
        """
        try:
            lock = DirectoryLock(data_dir)
        except LedgerError:
            return
        try:
            await self._write(lambda tx: commands.release_all(tx, self._now()))
        finally:
            lock.release()

    @property
    def waiting(self) -> int:
        """How many verbs wait for the next commit."""
        return self._writer.waiting

    async def check_writable(self) -> None:
        """Makes a durable commit that changes nothing of worth.

        Raises:
            LedgerError: ``ledger.unavailable`` where it cannot.
        """
        await self._write(commands.touch)

    def changes(self) -> AbstractContextManager[asyncio.Event]:
        """An event that is set after each commit that changed a job."""
        return self._announcer.anything()

    def changes_of(self, job_id: str) -> AbstractContextManager[asyncio.Event]:
        """An event that is set after each commit that changed this job."""
        return self._announcer.job(job_id)

    async def job_with_history_shared(self, job_id: str) -> tuple[Job, tuple[Event, ...]] | None:
        """One job with its history, for those whom one commit has woken: it is read once for all of them."""
        commits = self._announcer.commits
        begun, task = self._looks.get(job_id, (-1, None))
        if task is None or begun != commits:  # one that began before the last commit may have missed it
            task = asyncio.create_task(self.job_with_history(job_id))
            self._looks[job_id] = (commits, task)
            task.add_done_callback(lambda done: self._looked(job_id, done))
        return await asyncio.shield(task)

    def _looked(self, job_id: str, task: "asyncio.Task[tuple[Job, tuple[Event, ...]] | None]") -> None:
        if self._looks.get(job_id, (0, None))[1] is task:
            del self._looks[job_id]
        if not task.cancelled():
            task.exception()  # whoever waited has it; where nobody did any more, it is nobody's

    async def detect_foreign_commits(self) -> None:
        """Tells whoever waits of what other processes, such as commands, have committed meanwhile."""
        self._others, self._last = await self._write(
            lambda tx: commands.changed_by_others(tx, self._others, self._last)
        )

    async def record(self, delivery: Delivery) -> Recorded:
        """Records a completion durably.

        Raises:
            AuthError: ``auth.refused`` where its ticket belongs to another job.
            LedgerError: where it could not be recorded.
        """
        recorded = await self._write(lambda tx: commands.record(tx, delivery, self._now()))
        if recorded is None:
            raise AuthError(
                "auth.refused", f"The ticket that came with job {delivery.completion.id} is another's."
            )
        return recorded

    async def record_unread(self, error: ReceiverError, body: bytes) -> None:
        """Keeps a body that is no completion."""
        await self._write(
            lambda tx: commands.record_unread(tx, error.reason, error.detail, body, self._now())
        )

    async def expect(self, submission: Submission) -> bool:
        """Notes a submitted job. Gives whether it was unknown."""
        return await self._write(lambda tx: commands.expect(tx, submission, self._now()))

    async def record_answer(self, job_id: str, answer: Answer, *, ask_at: int) -> bool:
        """The provider had no completion for a silent job, which is asked about again at ``ask_at`` (ms).

        Gives whether that is another answer than the last one, and so stands in the history.
        """
        return await self._write(lambda tx: commands.asked(tx, job_id, answer, ask_at, self._now()))

    async def record_listed(self, statuses: Mapping[str, str], *, ask_at: int) -> list[str]:
        """The provider's list names these jobs' states, none of which is an end. Gives those that are new."""
        return await self._write(lambda tx: commands.seen(tx, statuses, ask_at, self._now()))

    async def count_unanswered(self, reason: str) -> None:
        """The provider gave no answer to a question that was about no silent job."""
        await self._write(lambda tx: commands.count(tx, commands.ASKED, reason))

    async def record_intent(self, intent: Intent) -> Intent:
        """Notes what is about to be submitted; gives what was noted for its key before, if anything was."""
        return await self._write(lambda tx: commands.intend(tx, intent, self._now()))

    async def confirm_intent(self, key: str, job_id: str) -> bool:
        """The provider has taken what was intended, as the job of this id. Gives whether it was unknown."""
        return await self._write(lambda tx: commands.submitted(tx, key, job_id, self._now()))

    async def withdraw_intent(self, key: str) -> None:
        """What was intended was certainly not taken."""
        await self._write(lambda tx: commands.withdraw(tx, key))

    async def claim_to_fetch(self, limit: int, *, again: int, lease: int) -> list[Claim]:
        """Claims jobs to download for ``lease`` ms, the earliest deadline first.

        Args:
            limit: at most so many.
            again: at most so many of them that were tried before.
            lease: ms.
        """
        terms = self._terms(limit, lease)
        return await self._write(lambda tx: commands.claim_to_fetch(tx, terms, self._now(), again=again))

    async def claim_past_deadline(self, limit: int, *, lease: int) -> list[Claim]:
        """Claims jobs whose time is over, for a last question before they expire."""
        terms = self._terms(limit, lease)
        return await self._write(lambda tx: commands.claim_past_deadline(tx, terms, self._now()))

    async def claim_to_archive(self, limit: int, *, lease: int) -> list[Claim]:
        """Claims jobs to upload for ``lease`` ms: those tried least, and of them the longest waiting."""
        terms = self._terms(limit, lease)
        return await self._write(lambda tx: commands.claim_to_archive(tx, terms, self._now()))

    async def confirmed(self, claim: Claim, said: Completion, deadline: int) -> Claim | None:
        """The provider confirms the job. Gives the claim with what it said; ``None``: the claim is void."""
        return await self._write(lambda tx: commands.confirmed(tx, claim, said, deadline, self._now()))

    async def url_refreshed(self, claim: Claim, said: Completion, deadline: int, at: int) -> bool:
        """The provider names another URL, to be tried at ``at``. False: the claim is void."""
        return await self._settle(
            claim, lambda tx: commands.url_refreshed(tx, claim, said, deadline, at=at, now=self._now())
        )

    async def expired(self, claim: Claim) -> bool:
        """The URL's life is over, and there is no other. False: the claim is void."""
        return await self._settle(claim, lambda tx: commands.expired(tx, claim, self._now()))

    async def fetched(self, claim: Claim, image: Image, spool: str) -> bool:
        """The verified image lies in the spool under this name, fsynced. False: the claim is void."""
        return await self._settle(claim, lambda tx: commands.fetched(tx, claim, image, spool, self._now()))

    async def archived(self, claim: Claim, stored: StoredObject) -> bool:
        """The archive has proved that it holds the image. False: the claim is void."""
        return await self._settle(claim, lambda tx: commands.archived(tx, claim, stored, self._now()))

    async def recognised(self, claim: Claim, archived: ArchivedImage) -> bool:
        """An image that lay in the archive already was proved to be the job's. False: the claim is void."""
        return await self._settle(
            claim, lambda tx: commands.recognised(tx, claim, archived.image, archived.stored, self._now())
        )

    async def rejected(self, claim: Claim, error: ReceiverError) -> bool:
        """The image cannot be had as promised. False: the claim is void."""
        return await self._settle(claim, lambda tx: commands.rejected(tx, claim, error, self._now()))

    async def retry_later(
        self, claim: Claim, at: int, error: ReceiverError, *, suspect: str | None = None
    ) -> bool:
        """The attempt failed; the job waits until ``at``, ms since the epoch. False: the claim is void.

        ``suspect`` is the checksum of bytes that came and were not the promised image.
        """
        return await self._settle(
            claim, lambda tx: commands.retry_later(tx, claim, at, error, self._now(), suspect=suspect)
        )

    async def spool_lost(self, claim: Claim, error: ReceiverError) -> bool:
        """The spooled image is gone or damaged; the job is to be fetched again. False: the claim is void."""
        return await self._settle(claim, lambda tx: commands.spool_lost(tx, claim, error.detail, self._now()))

    async def spool_file_recovered(self, job_id: str) -> None:
        """A whole file of the job was found in the spool: it is taken next, even where its time is over."""
        await self._write(lambda tx: commands.spool_file_recovered(tx, job_id))

    async def release(self, claim: Claim) -> bool:
        """Gives an unused claim back. False: it was void."""
        return await self._write(lambda tx: commands.release(tx, claim))

    async def retry(self, job_id: str) -> Job:
        """An operator wants the job tried now.

        Raises:
            LedgerError: ``ledger.unknown_job`` or ``ledger.wrong_state``.
        """
        return await self._write(lambda tx: commands.retry(tx, job_id, self._now()))

    async def start_notifications(self) -> int:
        """Where notifying goes on in the history: at its present end, when it is switched on."""
        return await self._write(notifications.begin)

    async def stop_notifications(self) -> None:
        """Notifying is switched off: what happens until it is on again is told to nobody."""
        await self._write(notifications.end)

    async def enqueue_notifications(self, *, until: int, render: Render) -> int:
        """Notes what is to be told of the history up to a line. Gives how much that is."""
        return await self._write(lambda tx: notifications.note(tx, until, render, self._now()))

    async def notification_sent(self, seq: int) -> None:
        """A notification was taken."""
        await self._write(lambda tx: notifications.sent(tx, seq))

    async def notification_failed(self, seq: int, detail: str, *, at: int) -> None:
        """A notification was not taken; it is sent again at ``at``, ms since the epoch."""
        await self._write(lambda tx: notifications.failed(tx, seq, detail, at))

    async def give_up_notification(self, seq: int, detail: str) -> None:
        """A notification was not taken, and is kept only for a look."""
        await self._write(lambda tx: notifications.give_up(tx, seq, detail, self._now()))

    async def give_up_old_notifications(self, *, before: int) -> int:
        """Gives up what was to be told of jobs that became final before this time. Gives how many."""
        return await self._write(lambda tx: notifications.give_up_old(tx, before, self._now()))

    async def release_overdue_leases(self) -> None:
        """Voids claims whose lease has ended, but for those whose outcome could not be recorded yet."""
        kept = frozenset(self._unsettled)
        await self._write(lambda tx: commands.release_overdue_leases(tx, self._monotonic(), kept))

    async def expire(self) -> list[str]:
        """Expires jobs whose time is over and which were tried. Gives their ids."""
        return await self._write(lambda tx: commands.expire(tx, self._now()))

    async def mark_at_risk(self) -> Sequence[str]:
        """Finds jobs that less than a tenth of their life is left to. Gives each id once."""
        now = self._now()
        found = await self._readers.ask(lambda db: queries.newly_at_risk(db, now, MARKED_AT_ONCE))
        if found:
            await self._write(lambda tx: commands.mark_at_risk(tx, found, now))
        return found

    async def shift_waits(self, by: int) -> None:
        """Moves the ends of waits by so many ms, after the wall clock was set by as much just now."""
        await self._write(lambda tx: commands.shift_waits(tx, by, self._now()))

    async def save_checkpoint(self, name: str, state: str) -> None:
        """Keeps how far a long run is."""
        await self._write(lambda tx: maintenance.save_checkpoint(tx, name, state))

    async def record_audit(self, sound: Sequence[int], damage: Sequence[AuditFinding]) -> None:
        """Notes what an audit found of these jobs; an archived job stays archived."""
        await self._write(lambda tx: maintenance.audited(tx, sound, damage, self._now()))

    async def relocated(self, job_id: str, before: StoredObject, after: StoredObject) -> bool:
        """An archived image was proved to lie in another place as well. False: the job moved on meanwhile."""
        return await self._write(lambda tx: maintenance.relocated(tx, job_id, before, after, self._now()))

    async def rebuild(self, archived: ArchivedImage) -> Rebuilt:
        """Makes a job of its object in the archive; a known job is changed only by legal moves."""
        return await self._write(lambda tx: maintenance.rebuild(tx, archived, self._now()))

    async def prune(self, kind: RecordKind, old: Sequence[int | str], *, before: int) -> Mapping[str, int]:
        """Removes what `prunable` found, where it is still so. Gives how many rows of each table went."""
        return await self._write(lambda tx: retention.remove(tx, kind, old, before))

    def _terms(self, limit: int, lease: int) -> Lease:
        self._claims += 1
        return Lease(f"{self._name}:{self._claims}", self._monotonic() + lease, limit)

    async def _settle(self, claim: Claim, verb: Callable[[Transaction], bool]) -> bool:
        """Records the outcome of a claim. Until that could be done, the claim's lease does not end.

        Whoever holds it has done the work, and tries to record it again as soon as he can.
        """
        try:
            done = await self._write(verb)
        except LedgerError:
            self._unsettled.add(claim.holder)
            raise
        self._unsettled.discard(claim.holder)
        return done

    async def _write(self, verb: Callable[[Transaction], T]) -> T:
        return await self._writer.write(verb)
