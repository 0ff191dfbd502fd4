"""What commands print: tables on a terminal, plain lines in a pipe, JSON where it is asked for."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from receiver import query, view
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
    print(json_text(value))  # noqa: T201 - a command's output


def json_text(value: Any) -> str:
    """What `print_json` prints."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def dotenv(values: Mapping[str, str]) -> str:
    """The text of a ``.env`` file. JSON values stand in single quotes, which keep them as they are."""
    return "\n".join(f"{name}='{value}'" for name, value in values.items())


class Jobs:
    """Prints pages of jobs as they come, so that no list is too long to be printed.

    Args:
        as_json: one document, ``{"jobs": […], "next": …}``.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Console()
        self._printed = 0

    def page(self, found: Sequence[Job]) -> None:
        """Prints some jobs."""
        shown = [view.job(job) for job in found]
        if self._as_json:
            for job in shown:
                lead = ",\n" if self._printed else '{\n  "jobs": [\n'
                print(lead + indent(json_text(job), "    "), end="")  # noqa: T201 - a command's output
                self._printed += 1
        elif not self._console.is_terminal:
            for job in shown:
                print_line(row(job))
        elif shown:
            self._console.print(job_table(shown, self._console, head=not self._printed))
            self._printed += len(shown)

    def end(self, following: int | None) -> None:
        """Ends the list; ``following`` is where the next page begins, if there is one."""
        cursor = query.cursor(following)
        if self._as_json:
            close = "\n  ],\n" if self._printed else '{\n  "jobs": [],\n'
            print(f'{close}  "next": {json.dumps(cursor)}\n}}')  # noqa: T201 - a command's output
        elif self._console.is_terminal and cursor is not None:
            self._console.print(
                f"There are more; --cursor {cursor} goes on, --all lists them all.", style="dim"
            )


def print_line(cells: Sequence[str]) -> None:
    """One line for a pipe, with tabs between the cells."""
    print("\t".join(safe(cell) for cell in cells))  # noqa: T201 - a command's output


def table_of(names: Sequence[str], lines: Sequence[Sequence[str | Text]]) -> None:
    """A table on a terminal, plain lines with tabs in a pipe."""
    console = Console()
    if not console.is_terminal:
        for line in lines:
            print_line([cell if isinstance(cell, str) else cell.plain for cell in line])
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name, overflow="fold")
    for line in lines:
        table.add_row(*(Text(safe(cell)) if isinstance(cell, str) else cell for cell in line))
    console.print(table)


def state(name: str) -> Text:
    """A state in its colour."""
    return Text(name, style=COLOURS[State(name)])


SHORT_ID = 9
"""Characters: the first group of a UUID, and a sign that there is more."""

Shown = Mapping[str, Any]
"""A job as the API gives it."""


def job_table(found: Sequence[Shown], console: Console, *, head: bool = True) -> Table:
    """A table of jobs for a terminal; ids and times are shortened where it is too narrow for them."""
    table = _table([row(job) for job in found], found, head=head)
    unbounded = console.options.update_width(10_000)
    if console.measure(table, options=unbounded).maximum <= console.width:
        return table
    return _table([_shortened(row(job)) for job in found], found, head=head)


def _table(rows: Sequence[Sequence[str]], found: Sequence[Shown], *, head: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", show_header=head)
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
    known = [(name, str(value)) for name, value in _flat(view.job(job)) if value is not None]
    if not console.is_terminal:
        for pair in known:
            print_line(pair)
        for event in history:
            line = view.event(event)
            print_line([line[name] or "" for name in ("at", "event", "from", "to", "reason", "detail")])
        return
    for name, text in known:
        shown = Text(safe(text), style=COLOURS[job.state] if name == "state" else "")
        console.print(Text(f"{name:<18}", style="dim"), shown)
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
