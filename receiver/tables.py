"""What commands print: tables on a terminal, plain lines in a pipe, JSON where it is asked for."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from receiver import view
from receiver.ledger import Page
from receiver.states import Event, Job, State

COLOURS: Mapping[State, str] = {
    State.SUBMITTED: "cyan",
    State.RECEIVED: "yellow",
    State.FETCHED: "blue",
    State.ARCHIVED: "green",
    State.FAILED: "red",
    State.REJECTED: "red",
    State.EXPIRED: "bold red",
}


def print_json(value: Any) -> None:
    """One JSON document, as it is."""
    print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201 - a command's output


def dotenv(values: Mapping[str, str]) -> str:
    """The text of a ``.env`` file. JSON values stand in single quotes, which keep them as they are."""
    return "\n".join(f"{name}='{value}'" for name, value in values.items())


def jobs(page: Page, *, as_json: bool) -> None:
    """A page of jobs."""
    if as_json:
        print_json({"jobs": [view.job(job) for job in page.jobs], "more": page.next is not None})
        return
    console = Console()
    if not console.is_terminal:
        for job in page.jobs:
            console.file.write("\t".join(safe(cell) for cell in row(job)) + "\n")
        return
    console.print(job_table(page.jobs))
    if page.next is not None:
        console.print(f"There are more than these {len(page.jobs)}; --limit shows more.", style="dim")


def job_table(found: Sequence[Job]) -> Table:
    """A table of jobs for a terminal."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("job", "state", "ref", "image", "updated", "reason"):
        table.add_column(name, no_wrap=name in ("job", "state"))
    for job in found:
        cells = [Text(safe(cell)) for cell in row(job)]
        cells[1].stylize(COLOURS[job.state])
        table.add_row(*cells)
    return table


def row(job: Job) -> Sequence[str]:
    """One job in short: id, state, ref, image, time of the last change, reason."""
    image = f"{job.image.width}x{job.image.height} {job.image.format}" if job.image else ""
    reason = job.problem.reason if job.problem else ""
    return (job.id, job.state.value, job.ref or "", image, view.time(job.updated_at) or "", reason)


def job(job: Job, history: Sequence[Event], *, as_json: bool) -> None:
    """One job with its history."""
    if as_json:
        print_json({**view.job(job), "history": [view.event(event) for event in history]})
        return
    console = Console(soft_wrap=True)
    for name, value in _flat(view.job(job)):
        if value is not None:
            console.print(Text(f"{name:<18}", style="dim"), Text(safe(str(value))))
    console.print()
    for event in history:
        move = event.after.value if event.before in (None, event.after) else f"{event.before} → {event.after}"
        why = f"  {event.reason}: {event.detail}" if event.reason else ""
        console.print(Text(f"{view.time(event.at)}  {event.event:<15} {move}{safe(why)}"))


def safe(text: str) -> str:
    """Text of strangers without what a terminal would obey."""
    return "".join(c if c.isprintable() else "�" for c in text)


def _flat(document: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in document.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return rows
