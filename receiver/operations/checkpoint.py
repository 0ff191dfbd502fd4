"""How far a long run has come, and what it has found, so that the next one goes on after any end of it.

How far it is stands in the ledger, because that is what it is about: a ledger that is made anew or restored
knows of no run that it has not seen. Findings are appended to a file in the data directory, one JSON object
to a line, and are durable before the place that they belong to; what stands behind the last known place is
cut off, because it will be found again.
"""

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from receiver.core.errors import LedgerError
from receiver.ledger import Ledger, open_for_owner

Finding = Mapping[str, Any]
"""``job``, ``uri``, ``reason`` and ``detail``; the first two can be ``None``."""


class Journal:
    """The journal of one kind of run.

    Args:
        ledger: keeps how far it is.
        name: of the run.
        found: the file of the findings, locked; closed with the journal.
    """

    def __init__(self, ledger: Ledger, name: str, found: int) -> None:
        self._ledger = ledger
        self._name = name
        self._found = found
        self._waiting = b""
        self._end = 0
        self.resumed = False
        self.plan: Mapping[str, str] = {}
        self.began_at = 0
        self.finished_at: int | None = None
        self.place: dict[str, Any] = {}
        self.counts: Counter[str] = Counter()

    @classmethod
    async def open(
        cls,
        ledger: Ledger,
        folder: Path,
        name: str,
        *,
        plan: Mapping[str, str],
        now: int,
        from_start: bool,
    ) -> Self:
        """Begins a run, or goes on with the one that was cut off.

        Args:
            ledger: keeps how far it is.
            folder: the data directory.
            name: of the run: ``audit`` or ``rebuild``.
            plan: what the run is about; one with another plan does not go on with it.
            now: ms since the epoch.
            from_start: whether to begin anew in any case.

        Raises:
            LedgerError: ``ledger.in_use``: the same run is under way in another process;
                ``ledger.unavailable``: the file of the findings is another user's.
            OSError: the file of the findings cannot be written.
        """
        journal = cls(ledger, name, _locked(folder, name))
        try:
            kept = None if from_start else await ledger.checkpoint(name)
            journal._begin(json.loads(kept or "{}"), dict(plan), now)
        except BaseException:
            os.close(journal._found)
            raise
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._found)  # and the lock with it

    def note(self, finding: Finding) -> None:
        """Notes a finding; it is kept with the next `save`."""
        self._waiting += json.dumps(finding, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"

    async def save(self, *, finished_at: int | None = None) -> None:
        """Keeps what was noted, counted and reached so far.

        Raises:
            LedgerError: the ledger cannot be written.
            OSError: the file of the findings cannot be.
        """
        while self._waiting:
            written = os.pwrite(self._found, self._waiting, self._end)
            self._waiting, self._end = self._waiting[written:], self._end + written
        os.fsync(self._found)
        self.finished_at = finished_at
        state = {
            "plan": self.plan,
            "began_at": self.began_at,
            "finished_at": finished_at,
            "place": self.place,
            "counts": self.counts,
            "findings_bytes": self._end,
        }
        await self._ledger.save_checkpoint(self._name, json.dumps(state))

    def findings(self) -> Iterator[Finding]:
        """All that was found since the run began, also before it was interrupted."""
        with open(os.dup(self._found), "rb") as file:  # noqa: PTH123 - takes a descriptor, not a path
            file.seek(0)
            for line in file:
                yield json.loads(line)

    def _begin(self, kept: Mapping[str, Any], plan: Mapping[str, str], now: int) -> None:
        there = os.fstat(self._found).st_size
        self.resumed = (
            kept.get("plan") == plan and kept["finished_at"] is None and kept["findings_bytes"] <= there
        )
        self.plan, self.began_at = plan, now
        if self.resumed:
            self.began_at = kept["began_at"]
            self.place = kept["place"]
            self.counts = Counter(kept["counts"])
            self._end = kept["findings_bytes"]
        os.ftruncate(self._found, self._end)


def _locked(folder: Path, name: str) -> int:
    """The file of the findings, open and held."""
    path = folder / f"{name}.jsonl"
    try:
        found = open_for_owner(path)
    except PermissionError:
        raise LedgerError(
            "ledger.unavailable",
            f"{path} belongs to another user, who ran this before;"
            " give it to this one with chown, or remove it",
        ) from None
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(found)
        raise LedgerError(
            "ledger.in_use", f"Another process runs `receiver {name}` on {folder} already."
        ) from None
    return found
