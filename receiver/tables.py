"""What commands print: tables on a terminal, plain lines in a pipe, JSON where it is asked for."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from receiver import query, view
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
    """One JSON document, as it is; what a terminal would obey is escaped, as JSON lets every character be."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))  # noqa: T201 - a command's output


def dotenv(values: Mapping[str, str]) -> str:
    """The text of a ``.env`` file. JSON values stand in single quotes, which keep them as they are."""
    return "\n".join(f"{name}='{value}'" for name, value in values.items())


def jobs(page: Page, *, as_json: bool) -> None:
    """A page of jobs."""
    if as_json:
        print_json({"jobs": [view.job(job) for job in page.jobs], "next": query.cursor(page.next)})
        return
    console = Console()
    if not console.is_terminal:
        for job in page.jobs:
            console.file.write("\t".join(safe(cell) for cell in row(view.job(job))) + "\n")
        return
    console.print(job_table([view.job(job) for job in page.jobs], console))
    if page.next is not None:
        console.print(f"There are more; --cursor {query.cursor(page.next)} goes on.", style="dim")


SHORT_ID = 9
"""Characters: the first group of a UUID, and a sign that there is more."""

Shown = Mapping[str, Any]
"""A job as the API gives it."""


def job_table(found: Sequence[Shown], console: Console) -> Table:
    """A table of jobs for a terminal; ids and times are shortened where it is too narrow for them."""
    table = _table([row(job) for job in found], found)
    unbounded = console.options.update_width(10_000)
    if console.measure(table, options=unbounded).maximum <= console.width:
        return table
    return _table([_shortened(row(job)) for job in found], found)


def _table(rows: Sequence[Sequence[str]], found: Sequence[Shown]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("job", "state", "ref", "image", "updated", "reason"):
        # What does not fit is taken from the ref alone.
        table.add_column(name, no_wrap=name != "ref")
    for cells, job in zip(rows, found, strict=True):
        shown = [Text(safe(cell), no_wrap=True, overflow="ellipsis") for cell in cells]
        shown[1].stylize(COLOURS[State(job["state"])])
        table.add_row(*shown)
    return table


def _shortened(cells: Sequence[str]) -> Sequence[str]:
    job_id, state, ref, image, updated, reason = cells
    short_id = job_id if len(job_id) <= SHORT_ID else job_id[: SHORT_ID - 1] + "…"
    return short_id, state, ref, image, updated[11:19], reason


def row(job: Shown) -> Sequence[str]:
    """One job in short: id, state, ref, image, time of the last change, reason."""
    image, error = job["image"], job["error"]
    size = f"{image['width']}x{image['height']} {image['format']}" if image else ""
    return (
        job["id"],
        job["state"],
        job["ref"] or "",
        size,
        job["updated_at"],
        error["reason"] if error else "",
    )


@contextmanager
def live_jobs(*, quiet: bool) -> Iterator[Callable[[Sequence[Shown]], None]]:
    """Gives a function that shows jobs: in a live table on a terminal, else a line for each change."""
    console = Console()
    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda found: live.update(job_table(found, console), refresh=True)
    else:
        said: dict[str, str] = {}

        def tell(found: Sequence[Shown]) -> None:
            for job in found:
                if said.get(job["id"]) != job["state"]:
                    said[job["id"]] = job["state"]
                    print("\t".join(safe(cell) for cell in row(job)), flush=True)  # noqa: T201 - a command's output

        yield tell


def demo_end(address: str, token: str, archive: Path, *, archived: bool, stays: bool, as_json: bool) -> None:
    """Where the demo's results are, and how to ask for more."""
    if as_json:
        print_json({"archived": archived, "archive": str(archive), "address": address, "token": token})
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print("\nAll images are archived." if archived else "\nNot all images are archived.")
    console.print(f"The files:   {archive}")
    if stays:
        console.print(f"The page:    {address}/   (any user name, password {token})")
        console.print("Ctrl-C ends the demo.")


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
