"""What a process and all its children cost: CPU seconds, and memory at its peak."""

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.memory import children

EVERY = 0.1
"""Seconds between two looks at the memory."""

GONE = (FileNotFoundError, ProcessLookupError)


def tree(pid: int) -> list[int]:
    """The process and all that live below it."""
    return [pid, *(below for child in children(pid) for below in tree(child))]


def cpu_seconds(pid: int) -> float:
    """The time, user's and system's, of the process, its children and those of them that have ended."""
    ticks = 0
    for each in tree(pid):
        with contextlib.suppress(*GONE):
            ticks += sum(map(int, Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Bytes that the tree holds; what several processes share counts once (PSS)."""
    kilobytes = 0
    for each in tree(pid):
        with contextlib.suppress(*GONE):
            rollup = Path(f"/proc/{each}/smaps_rollup").read_text("ascii")
            kilobytes += int(re.findall(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)[0])
    return kilobytes * 1024


@dataclass
class Peak:
    """The most memory at any look, in bytes."""

    bytes: int = 0


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Peak]:
    """Looks at a tree's memory until the block ends."""
    peak, ended = Peak(), threading.Event()

    def look() -> None:
        while not ended.wait(EVERY):
            peak.bytes = max(peak.bytes, memory(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
        peak.bytes = max(peak.bytes, memory(pid))
