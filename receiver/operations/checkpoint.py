"""The checkpoint of a long run: its position and findings, so that the next run resumes it.

The position is kept in the ledger: a new or restored ledger does not know runs that it has not seen.
Findings are appended to a file in the data directory as JSON lines, and are durable before the position that
they belong to. Lines behind the last saved position are cut off, because they will be found again.
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


class Checkpoint:
    """The checkpoint of one kind of run.

    Args:
        ledger: keeps the position.
        name: of the run.
        file: descriptor of the findings, locked; closed with the checkpoint.
    """

    def __init__(self, ledger: Ledger, name: str, file: int) -> None:
        self._ledger = ledger
        self._name = name
        self._file = file
        self._unsaved = b""
        self._end = 0
        self.resumed = False
        self.plan: Mapping[str, str] = {}
        self.began_at = 0
        self.finished_at: int | None = None
        self.position: dict[str, Any] = {}
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
        """Begin a run, or resume the one that was interrupted.

        Args:
            ledger: keeps the position.
            folder: the data directory.
            name: ``audit`` or ``rebuild``.
            plan: the run's parameters; a run with others is not resumed.
            now: ms since the epoch.
            from_start: begin anew in any case.

        Raises:
            LedgerError: ``ledger.in_use``: the same run is active in another process;
                ``ledger.unavailable``: the file of findings belongs to another user.
            OSError: the file of findings cannot be written.
        """
        checkpoint = cls(ledger, name, _open_locked(folder, name))
        try:
            saved = None if from_start else await ledger.checkpoint(name)
            checkpoint._begin(json.loads(saved or "{}"), dict(plan), now)
        except BaseException:
            os.close(checkpoint._file)
            raise
        return checkpoint

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)  # which releases the lock

    def add(self, finding: Finding) -> None:
        """Add a finding; the next `save` makes it durable."""
        self._unsaved += json.dumps(finding, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"

    async def save(self, *, finished_at: int | None = None) -> None:
        """Save findings, counts and position.

        Raises:
            LedgerError: the ledger cannot be written.
            OSError: the file of findings cannot be written.
        """
        while self._unsaved:
            written = os.pwrite(self._file, self._unsaved, self._end)
            self._unsaved, self._end = self._unsaved[written:], self._end + written
        os.fsync(self._file)
        self.finished_at = finished_at
        state = {
            "plan": self.plan,
            "began_at": self.began_at,
            "finished_at": finished_at,
            "place": self.position,
            "counts": self.counts,
            "findings_bytes": self._end,
        }
        await self._ledger.save_checkpoint(self._name, json.dumps(state))

    def findings(self) -> Iterator[Finding]:
        """Read all findings since the run began, including those before an interruption."""
        with open(os.dup(self._file), "rb") as file:  # noqa: PTH123 - takes a descriptor, not a path
            file.seek(0)
            for line in file:
                yield json.loads(line)

    def _begin(self, saved: Mapping[str, Any], plan: Mapping[str, str], now: int) -> None:
        size = os.fstat(self._file).st_size
        self.resumed = (
            saved.get("plan") == plan and saved["finished_at"] is None and saved["findings_bytes"] <= size
        )
        self.plan, self.began_at = plan, now
        if self.resumed:
            self.began_at = saved["began_at"]
            self.position = saved["place"]
            self.counts = Counter(saved["counts"])
            self._end = saved["findings_bytes"]
        os.ftruncate(self._file, self._end)


def _open_locked(folder: Path, name: str) -> int:
    path = folder / f"{name}.jsonl"
    try:
        file = open_for_owner(path)
    except PermissionError:
        raise LedgerError(
            "ledger.unavailable",
            f"{path} belongs to another user, who ran this before;"
            " give it to this one with chown, or remove it",
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise LedgerError(
            "ledger.in_use", f"Another process runs `receiver {name}` on {folder} already."
        ) from None
    return file
