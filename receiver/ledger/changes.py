"""Wakes tasks that wait for changes of jobs, after the commit is durable."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class ChangeNotifier:
    """Sets events after commits: some for every change, some for the changes of one job.

    Attributes:
        commits: how many commits were published so far.
    """

    def __init__(self) -> None:
        self.commits = 0
        self._any_job: set[asyncio.Event] = set()
        self._one_job: dict[str, set[asyncio.Event]] = {}

    def publish(self, jobs: Sequence[str]) -> None:
        """Wake all that wait for a change of one of these jobs, by id."""
        self.commits += 1
        for event in self._any_job:
            event.set()
        for job in jobs:
            for event in self._one_job.get(job, ()):
                event.set()

    @contextmanager
    def any_job(self) -> Iterator[asyncio.Event]:
        """Provide an event that is set after each commit; the waiting task clears it."""
        event = asyncio.Event()
        self._any_job.add(event)
        try:
            yield event
        finally:
            self._any_job.discard(event)

    @contextmanager
    def job(self, job_id: str) -> Iterator[asyncio.Event]:
        """Provide an event that is set after each commit that changed the job; the waiting task clears it."""
        event = asyncio.Event()
        self._one_job.setdefault(job_id, set()).add(event)
        try:
            yield event
        finally:
            waiting = self._one_job[job_id]
            waiting.discard(event)
            if not waiting:
                del self._one_job[job_id]
