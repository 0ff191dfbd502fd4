"""Wakes tasks that wait for changes of jobs, after the commit is durable."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class ChangeNotifier:
    """Sets events after commits that changed jobs, and counts these commits."""

    def __init__(self) -> None:
        self.commits = 0
        self._events: dict[str | None, set[asyncio.Event]] = {}

    def publish(self, jobs: Sequence[str]) -> None:
        """Wake all that wait for a change of one of these jobs, by id, or of any job."""
        self.commits += 1
        for job_id in (None, *jobs):
            for event in self._events.get(job_id, ()):
                event.set()

    @contextmanager
    def subscribe(self, job_id: str | None = None) -> Iterator[asyncio.Event]:
        """Provide an event that is set after each change of the job, or of any job; the task clears it."""
        event = asyncio.Event()
        self._events.setdefault(job_id, set()).add(event)
        try:
            yield event
        finally:
            self._events[job_id].discard(event)
            if not self._events[job_id]:
                del self._events[job_id]
