"""The history as it grows, read once for all subscribers.

After a commit the new lines are read with one query, and subscribers take them from memory. A subscriber that
is further behind than that memory goes reads the ledger itself, in pages and one subscriber at a time. So no
subscriber costs memory, and a thousand cost one query.
"""

import asyncio
import json
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import structlog

from receiver.core import serializers
from receiver.core.concurrency import cancel, run_forever, set_within
from receiver.ledger import Ledger, Transition

log = structlog.get_logger("receiver.feed")

PAGE_SIZE = 250
"""Lines of the history that are read at once: others need the ledger's few readers, too."""

RECENT = 2_000
"""Transitions that are kept in memory."""


@dataclass(frozen=True)
class Change:
    """A transition and its JSON, which is rendered once for all subscribers."""

    transition: Transition

    @cached_property
    def json(self) -> str:
        """The API's form of the transition, in one line."""
        it = self.transition
        document = {"seq": it.seq, "id": it.id, "ref": it.ref, **serializers.event(it.event)}
        return json.dumps(document, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Batch:
    """What a subscriber receives.

    Attributes:
        changes: oldest first; none where nothing happened for the subscriber's heartbeat.
        until: the line of the history up to which the subscriber knows everything now.
        gap: lines up to this one may be missing: they were removed before the subscriber came to them.
    """

    changes: Sequence[Change]
    until: int
    gap: int | None = None


class Feed:
    """Reads new lines after each commit, and wakes the subscribers, until ``stopping`` is set.

    Without subscribers it reads nothing.
    """

    def __init__(self, ledger: Ledger, stopping: asyncio.Event) -> None:
        self._ledger = ledger
        self._stopping = stopping
        self._subscribers = 0
        self._recent: list[Change] = []
        self._begin = 0  # `_recent` holds what came after this line and moved a job, up to `_end`
        self._end = 0
        self._stale = True
        self._reading = asyncio.Lock()
        self._catching_up = asyncio.Lock()
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._wake_at_stop())]
        return self

    async def __aexit__(self, *_: object) -> None:
        await cancel(self._tasks)
        self._wake()

    async def subscribe(
        self, after: int, *, heartbeat: Callable[[], float] | None = None
    ) -> AsyncGenerator[Batch]:
        """Yield all transitions after a line of the history as they come, each once and without a gap.

        The subscription ends when the server stops. ``heartbeat`` returns the seconds without a change after
        which an empty batch is yielded.

        Raises:
            LedgerError: ``ledger.unavailable`` or ``ledger.corrupt``, where the past cannot be read.
        """
        self._subscribers += 1
        try:
            async with self._reading:
                if self._stale:
                    self._begin = self._end = await self._ledger.last_history_seq()
                    self._recent, self._stale = [], False
            known, pruned = after, after
            while not self._stopping.is_set():
                gap = None
                if known < self._begin:
                    async with self._catching_up:
                        page = await self._ledger.transitions(after=known, limit=PAGE_SIZE)
                    found: Sequence[Change] = [Change(transition) for transition in page.transitions]
                    if page.pruned > max(known, pruned):  # reported once, however many pages are read
                        gap = pruned = page.pruned
                    # There is always a line there, unless somebody emptied the ledger by hand.
                    known = page.until if page.until > known else self._begin
                elif known < self._end:
                    first = bisect_right(self._recent, known, key=lambda change: change.transition.seq)
                    found = self._recent[first : first + PAGE_SIZE]
                    known = found[-1].transition.seq if len(found) == PAGE_SIZE else self._end
                else:
                    if await set_within(self._news, None if heartbeat is None else heartbeat()):
                        continue
                    found = ()
                yield Batch(found, known, gap)
        finally:
            self._subscribers -= 1

    async def _follow(self) -> None:
        with self._ledger.changes() as changed:

            async def read() -> float:
                await changed.wait()
                changed.clear()
                try:
                    async with self._reading:
                        self._stale = self._stale or self._subscribers == 0
                        if not self._stale:
                            await self._read_on()
                except Exception:
                    changed.set()  # what could not be read is read again
                    raise
                return 0

            await run_forever(read, log, ledger_trouble="ledger cannot be read")

    async def _read_on(self) -> None:
        more = True
        while more:
            page = await self._ledger.transitions(after=self._end, limit=PAGE_SIZE)
            more = page.more
            if page.pruned > self._end:  # lines are gone unread: each subscriber finds that in the ledger
                self._recent, self._begin = [], page.until
            else:
                self._recent += map(Change, page.transitions)
            self._end = page.until
            if len(self._recent) > 2 * RECENT:
                self._begin = self._recent[-RECENT - 1].transition.seq
                del self._recent[:-RECENT]
            self._wake()

    async def _wake_at_stop(self) -> None:
        await self._stopping.wait()
        self._wake()

    def _wake(self) -> None:
        # A new event each time: no subscriber has to clear it, however late it looks.
        self._news.set()
        self._news = asyncio.Event()
