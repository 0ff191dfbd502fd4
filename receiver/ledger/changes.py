"""Tells whoever listens which jobs a durable commit has changed."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class ChangeNotifier:
    """Events for those who wait: one that rings for every commit, and one for each watched job.

    Attributes:
        commits: how many were announced so far.
    """

    def __init__(self) -> None:
        self.commits = 0
        self._anything: set[asyncio.Event] = set()
        self._jobs: dict[str, set[asyncio.Event]] = {}

    def announce(self, jobs: Sequence[str]) -> None:
        """Rings for these jobs' ids."""
        self.commits += 1
        for event in self._anything:
            event.set()
        for job in jobs:
            for event in self._jobs.get(job, ()):
                event.set()

    @contextmanager
    def anything(self) -> Iterator[asyncio.Event]:
        """An event that is set after each commit; whoever listens clears it."""
        event = asyncio.Event()
        self._anything.add(event)
        try:
            yield event
        finally:
            self._anything.discard(event)

    @contextmanager
    def job(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set after each commit that changed the job; whoever listens clears it."""
        event = asyncio.Event()
        self._jobs.setdefault(job_id, set()).add(event)
        try:
            yield event
        finally:
            listeners = self._jobs[job_id]
            listeners.discard(event)
            if not listeners:
                del self._jobs[job_id]
