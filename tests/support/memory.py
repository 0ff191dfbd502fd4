"""What a process and its children hold in memory, as the kernel counts it."""

import re
from contextlib import suppress
from pathlib import Path

MIB = 1 << 20


def resident(pid: int, figure: str = "VmRSS") -> int:
    """Bytes of a process's memory; ``VmHWM``: the most that it ever had."""
    found = re.search(rf"{figure}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("ascii"))
    assert found
    return int(found[1]) * 1024


def children(pid: int) -> list[int]:
    """The process ids of its living children."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found.extend(map(int, task.read_text("ascii").split()))
    return found


def of_children(pid: int) -> int:
    """The most that any of its living children ever had, in bytes; 0 where there is none."""
    peaks = [0]
    for child in children(pid):
        try:
            peaks.append(resident(child, "VmHWM"))
        except (FileNotFoundError, ProcessLookupError, AssertionError):
            continue  # it ended meanwhile
    return max(peaks)
