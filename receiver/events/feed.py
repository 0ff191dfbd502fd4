"""The history as it grows, read once for all who listen.

A commit rings, what is new is read in one question, and the listeners take it from memory. Who is further
behind than that memory goes (because it comes back after a while, or reads slowly) reads the ledger itself,
in bounded pieces and one listener at a time; so no listener costs memory, and a thousand cost one question.
"""

import asyncio
import json
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import structlog

from receiver.core import serializers
from receiver.core.errors import LedgerError
from receiver.ledger import Ledger, Transition

log = structlog.get_logger("receiver.feed")

PIECE = 500
"""Lines of the history that are read at once."""

RECENT = 2_000
"""Transitions that are kept in memory."""

INSIST_SECONDS = 1.0
"""Between two attempts to read a ledger that cannot be read."""


@dataclass(frozen=True)
class Change:
    """A transition, and the form in which it is sent, which is made once for all."""

    transition: Transition

    @cached_property
    def json(self) -> str:
        """As the API gives it, in one line."""
        said = self.transition
        document = {"seq": said.seq, "id": said.id, "ref": said.ref, **serializers.event(said.event)}
        return json.dumps(document, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class News:
    """What a listener is given.

    Attributes:
        changes: oldest first; none where nothing happened for the listener's patience.
        until: the line of the history up to which it knows everything now.
        gap: up to this line there may have been others, which were removed before the listener came to them.
    """

    changes: Sequence[Change]
    until: int
    gap: int | None = None


class Feed:
    """Reads what is new whenever a commit rings, and wakes the listeners.

    While nobody listens nothing is read.

    Args:
        ledger: whose history it is.
        stopping: ends all listening when it is set.
    """

    def __init__(self, ledger: Ledger, stopping: asyncio.Event) -> None:
        self._ledger = ledger
        self._stopping = stopping
        self._listeners = 0
        self._recent: list[Change] = []
        self._begin = 0  # what came after this line and moved a job, up to `_end`, is in `_recent`
        self._end = 0
        self._stale = True
        self._reading = asyncio.Lock()
        self._behind = asyncio.Lock()
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._close())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._wake()

    async def listen(
        self, after: int, *, patience: Callable[[], float] | None = None
    ) -> AsyncGenerator[News]:
        """All transitions after a line of the history, without a gap and each once, as they come.

        Ends when the server is to end.

        Args:
            after: the last line that the listener knows.
            patience: gives seconds; where nothing happens for so long, that is told.

        Raises:
            LedgerError: ``ledger.unavailable`` or ``ledger.corrupt``, where the past cannot be read.
        """
        with self._listening():
            await self._begin_to_listen()
            known, pruned = after, after
            while not self._stopping.is_set():
                gap = None
                if known < self._begin:
                    async with self._behind:  # the ledger's few readers are there for others as well
                        stretch = await self._ledger.transitions(after=known, limit=PIECE)
                    found: Sequence[Change] = [Change(transition) for transition in stretch.transitions]
                    if stretch.pruned > max(known, pruned):  # told once, however many pieces are read
                        gap = pruned = stretch.pruned
                    # There is always a line there, unless somebody emptied the ledger by hand.
                    known = stretch.until if stretch.until > known else self._begin
                elif known < self._end:
                    found = self._since(known)
                    known = found[-1].transition.seq if len(found) == PIECE else self._end
                else:
                    news = self._news
                    if await _within(None if patience is None else patience(), news):
                        continue
                    found = ()
                yield News(found, known, gap)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        self._listeners += 1
        try:
            yield
        finally:
            self._listeners -= 1

    async def _begin_to_listen(self) -> None:
        async with self._reading:
            if self._stale:
                self._begin = self._end = await self._ledger.last_history_seq()
                self._recent = []
                self._stale = False

    def _since(self, line: int) -> Sequence[Change]:
        first = bisect_right(self._recent, line, key=lambda change: change.transition.seq)
        return self._recent[first : first + PIECE]

    async def _follow(self) -> None:
        with self._ledger.changes() as changed:
            while True:
                await changed.wait()
                changed.clear()
                async with self._reading:
                    if self._listeners == 0:
                        self._stale = True
                    if self._stale:
                        continue
                    try:
                        await self._read_on()
                    except LedgerError as error:
                        if error.reason == "ledger.stopping":
                            return
                        log.error("ledger cannot be read", reason=error.reason, detail=error.detail)  # noqa: TRY400 - no bug of ours
                        changed.set()
                        await asyncio.sleep(INSIST_SECONDS)
                    except Exception:
                        log.exception("unexpected error")  # a bug of ours must not leave all waiting for ever
                        changed.set()
                        await asyncio.sleep(INSIST_SECONDS)

    async def _read_on(self) -> None:
        more = True
        while more:
            stretch = await self._ledger.transitions(after=self._end, limit=PIECE)
            more = stretch.more
            if (
                stretch.pruned > self._end
            ):  # what nobody had read: each listener is to find that in the ledger
                self._recent, self._begin = [], stretch.until
            else:
                self._recent += map(Change, stretch.transitions)
            self._end = stretch.until
            if len(self._recent) > 2 * RECENT:
                self._begin = self._recent[-RECENT - 1].transition.seq
                del self._recent[:-RECENT]
            self._wake()

    async def _close(self) -> None:
        await self._stopping.wait()
        self._wake()

    def _wake(self) -> None:
        # An event of its own for each piece of news: nobody has to clear it, however late he looks.
        self._news.set()
        self._news = asyncio.Event()


async def _within(patience: float | None, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(patience):
            await event.wait()
    except TimeoutError:
        return False
    return True
