"""What each fault did to the jobs, as one table at the end of a run.

A test records its row through the fixture `matrix`; the row travels in the test's report, so it comes back
from pytest-xdist's workers as well. Rows of the same fault are added up.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TypedDict

import pytest

from tests.support.processes import Receiver
from tests.support.seaweed import Seaweed

PROPERTY = "fault"
PARTS = ("crash", "deadline", "store", "disk", "provider", "burst", "time", "upgrade", "cluster")
"""The kinds of fault in the table's order; each has a file ``test_PART.py``."""

FINAL = frozenset({"archived", "failed", "rejected", "expired"})

Archive = Mapping[str, Sequence[str]]
"""Of each job with an object in the archive: the SHA-256 of every object that is its own."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the jobs that met a fault.

    Attributes:
        acknowledged: deliveries of as many jobs were answered with 200.
        archived: ended ``archived``, and the archive holds the bytes that the source served.
        refused: ended ``rejected``, ``failed`` or ``expired`` with a reason, as they had to: the promised
            image was never to be had.
        lost: are unknown to the ledger, or ended without the image that was to be had.
        duplicated: objects in the archive beyond the first of each job.
        human: have not ended, so that someone would have to look.
    """

    acknowledged: int = 0
    archived: int = 0
    refused: int = 0
    lost: int = 0
    duplicated: int = 0
    human: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def kept(self) -> bool:
        """Whether the promise was kept for all of them."""
        return not (self.lost or self.duplicated or self.human)


def audit(receiver: Receiver, images: Mapping[str, str | None], archive: Archive) -> Tally:
    """Compares the ledger and the archive with what was acknowledged.

    Args:
        receiver: is asked for each job.
        images: of each acknowledged job: the SHA-256 of the image that the source serves, or ``None`` where
            there is no such image.
        archive: see `in_folder` and `in_bucket`.
    """
    total = Tally()
    for job_id, sha256 in images.items():
        answer = receiver.get(f"/jobs/{job_id}")
        state = answer.json()["state"] if answer.status_code == 200 else None
        objects = archive.get(job_id, ())
        total += Tally(
            acknowledged=1,
            archived=state == "archived" and sha256 in objects,
            refused=state in FINAL - {"archived"} and sha256 is None,
            lost=state is None
            or (state in FINAL and sha256 is not None and not (state == "archived" and sha256 in objects))
            or (state == "archived" and sha256 is None),
            duplicated=max(len(objects) - 1, 0),
            human=state is not None and state not in FINAL,
        )
    return total


def in_folder(root: Path) -> Archive:
    """What a folder archive holds. Jobs are known by the names of their files, as the default key has it."""
    files = [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return _by_job((path.stem, path.read_bytes()) for path in files)


def in_bucket(store: Seaweed, prefix: str) -> Archive:
    """What a bucket holds below a prefix, read by a client that is not ours."""
    client = store.client()
    try:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=store.bucket, Prefix=f"{prefix}/")
        keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
        # A kill during a probe leaves its small object in a place of its own, as does a store that lets
        # nothing be deleted; it is no image of anybody's.
        keys = [key for key in keys if not key.startswith(f"{prefix}/.receiver-probe/")]
        return _by_job(
            (Path(key).stem, client.get_object(Bucket=store.bucket, Key=key)["Body"].read()) for key in keys
        )
    finally:
        client.close()


def _by_job(objects: Iterable[tuple[str, bytes]]) -> Archive:
    found: dict[str, list[str]] = {}
    for job_id, content in objects:
        found.setdefault(job_id, []).append(hashlib.sha256(content).hexdigest())
    return found


# The table ------------------------------------------------------------------------------------------------


class _Row(TypedDict):
    fault: str
    counts: list[int]


class Matrix:
    """Takes a test's rows.

    Args:
        test: whose report carries them.
    """

    def __init__(self, test: pytest.Item) -> None:
        self._test = test

    def __call__(self, fault: str, tally: Tally) -> None:
        """Records what a fault did, before the test judges it: a broken promise belongs into the table."""
        row = _Row(fault=fault, counts=[int(count) for count in astuple(tally)])
        self._test.user_properties.append((PROPERTY, row))


def table(reports: Iterable[object]) -> str:
    """The matrix as a Markdown table; empty where no test recorded a row."""
    rows: dict[tuple[int, int, str], Tally] = {}
    seen: dict[tuple[int, str], int] = {}
    for report in reports:
        if not isinstance(report, pytest.TestReport) or report.when != "call":
            continue
        part = _part(report)
        for name, row in report.user_properties:
            if name == PROPERTY and isinstance(row, dict):
                line = seen.setdefault((part, row["fault"]), report.location[1] or 0)
                key = (part, line, row["fault"])
                rows[key] = rows.get(key, Tally()) + Tally(*row["counts"])
    if not rows:
        return ""
    titles = ["fault", *(field.name for field in fields(Tally))]
    titles[-1] = "needing a human"
    cells = [[fault, *map(str, astuple(rows[part, line, fault]))] for part, line, fault in sorted(rows)]
    cells.append(["**together**", *map(str, astuple(sum(rows.values(), Tally())))])
    return "\n".join(_aligned([titles, *cells]))


def _part(report: pytest.TestReport) -> int:
    part = Path(report.location[0]).stem.removeprefix("test_")
    return PARTS.index(part) if part in PARTS else len(PARTS)


def _aligned(lines: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        first, *rest = (
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        yield f"| {' | '.join([first, *rest])} |"
        if number == 0:
            rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
            yield f"| {' | '.join(rules)} |"


def reports(terminal: pytest.TerminalReporter) -> list[object]:
    """All reports of a run."""
    return [report for several in terminal.stats.values() for report in several]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the matrix."""
    if text := table(reports(terminalreporter)):
        terminalreporter.section("faults")
        terminalreporter.write_line(text)
