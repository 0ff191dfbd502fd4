"""The checkpoint of a long run: its position and findings, so that the next run resumes it.

The position is kept in the ledger: a new or restored ledger does not know runs that it has not seen.
Findings are appended to a file in the data directory as JSON lines, and are durable before the position that
they belong to. Lines behind the last saved position are cut off, because they will be found again.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

from receiver.core.errors import LedgerError
from receiver.ledger import Ledger, LedgerReader, take_lock


async def record_end(ledger: Ledger, name: str, at: int) -> None:
    """Record that a run, such as a backup, ended at a time, ms since the epoch."""
    await ledger.save_checkpoint(f"{name} ended", str(at))


async def ended_at(ledger: LedgerReader, name: str) -> int | None:
    """Return when such a run ended last, ms since the epoch."""
    at = await ledger.checkpoint(f"{name} ended")
    return None if at is None else int(at)


Finding = dict[str, Any]
"""``job``, ``uri``, ``reason`` and ``detail``; the first two can be ``None``."""


class Checkpoint:
    """The checkpoint of one kind of run; its file of findings is locked until it is closed."""

    def __init__(
        self, ledger: Ledger, name: str, file: BinaryIO, saved: dict[str, Any], *, resumed: bool
    ) -> None:
        self.resumed = resumed
        self.began_at: int = saved["began_at"]
        self.finished_at: int | None = None
        self.position: dict[str, Any] = saved["position"]
        self.counts: Counter[str] = Counter(saved["counts"])
        self._saved = saved
        self._ledger, self._name, self._file = ledger, name, file

    @classmethod
    async def open(
        cls, ledger: Ledger, folder: Path, name: str, *, plan: Mapping[str, str], from_start: bool
    ) -> Self:
        """Begin a run, or resume the one that was interrupted.

        A run with another ``plan``, its parameters, is not resumed; with ``from_start`` none is. ``folder``
        is the data directory.

        Raises:
            LedgerError: ``ledger.in_use``: the same run is active in another process;
                ``ledger.unavailable``: the file of findings belongs to another user.
            OSError: the file of findings cannot be written.
        """
        if ledger.shared:  # another receiver's findings are on another disk
            plan = {**plan, "instance": ledger.member.id}
        path = folder / f"{name}.jsonl"
        try:
            lock = take_lock(path, f"Another process runs `receiver {name}` on {folder} already.")
        except PermissionError:
            raise LedgerError(
                "ledger.unavailable",
                f"{path} belongs to another user, who ran this before;"
                " give it to this one with chown, or remove it",
            ) from None
        file = os.fdopen(lock, "r+b")
        try:
            saved = {} if from_start else json.loads(await ledger.checkpoint(name) or "{}")
            resumed = (
                saved.get("plan") == plan
                and "position" in saved  # an earlier version called it otherwise
                and saved["finished_at"] is None
                and saved["findings_bytes"] <= file.seek(0, os.SEEK_END)
            )
            if not resumed:
                new = {"position": {}, "counts": {}, "findings_bytes": 0}
                saved = {"plan": plan, "began_at": ledger.now(), **new}
            file.truncate(file.seek(saved["findings_bytes"]))
        except BaseException:
            file.close()
            raise
        return cls(ledger, name, file, saved, resumed=resumed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # of findings that were not saved, and have failed before
            self._file.close()  # which releases the lock

    def add(self, finding: Finding) -> None:
        """Add a finding; the next `save` makes it durable."""
        self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(finding, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")

    async def save(self, *, finished: bool = False) -> None:
        """Save findings, counts and position, and whether the run has ended."""
        end = self._file.seek(0, os.SEEK_END)  # which writes what is buffered
        os.fsync(self._file.fileno())
        self.finished_at = self._ledger.now() if finished else None
        self._saved |= {"finished_at": self.finished_at, "counts": self.counts, "findings_bytes": end}
        await self._ledger.save_checkpoint(self._name, json.dumps(self._saved))
        if self.finished_at is not None:
            await record_end(self._ledger, self._name, self.finished_at)

    def findings(self) -> Iterator[Finding]:
        """Read all findings since the run began, including those before an interruption."""
        self._file.seek(0)
        yield from map(json.loads, self._file)
