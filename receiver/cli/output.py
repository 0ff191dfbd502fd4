"""What commands print: tables on a terminal, plain lines in a pipe, JSON where it is asked for."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import indent
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from receiver.api import params
from receiver.core import serializers
from receiver.core.jobs import Event, Job, State

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


class JsonJobs:
    """Prints one JSON document, ``{…, "jobs": […], …}``, as its jobs come, so that no list is too long.

    Args:
        head: what stands before the list.
    """

    def __init__(self, **head: Any) -> None:
        self._lead = "{\n" + "".join(map(_member, head.items())) + '  "jobs": ['
        self._close = "]"

    def add(self, job: Mapping[str, Any]) -> None:
        """Prints a job."""
        print(f"{self._lead}\n{indent(json_text(job), '    ')}", end="")  # noqa: T201 - a command's output
        self._lead, self._close = ",", "\n  ]"

    def end(self, **tail: Any) -> None:
        """Ends the document; ``tail`` stands behind the list."""
        begun = "" if self._lead == "," else self._lead
        members = "".join(f",\n{_member(each)[:-2]}" for each in tail.items())
        print(f"{begun}{self._close}{members}\n}}")  # noqa: T201 - a command's output


def _member(named: tuple[str, Any]) -> str:
    name, value = named
    return f"  {json_text(name)}: {json_text(value)},\n"


class Jobs:
    """Prints pages of jobs as they come, so that no list is too long to be printed.

    Args:
        as_json: one document, ``{"jobs": […], "next": …}``.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._json = JsonJobs() if as_json else None
        self._console = Console()
        self._head: Sequence[str] = ()

    def page(self, found: Sequence[Job]) -> None:
        """Prints some jobs."""
        shown = [serializers.job(job) for job in found]
        if self._json is not None:
            for job in shown:
                self._json.add(job)
        elif not self._console.is_terminal:
            for job in shown:
                print_line(row(job))
        elif shown:
            table = job_table(shown, self._console)
            names = [str(column.header) for column in table.columns]
            table.show_header = names != self._head
            self._head = names
            self._console.print(table)

    def end(self, following: int | None) -> None:
        """Ends the list; ``following`` is where the next page begins, if there is one."""
        cursor = params.cursor(following)
        if self._json is not None:
            self._json.end(next=cursor)
        elif self._console.is_terminal and cursor is not None:
            self._console.print(
                f"There are more; --cursor {cursor} goes on, --all lists them all.", style="dim"
            )


def print_line(cells: Sequence[str]) -> None:
    """One line for a pipe, with tabs between the cells."""
    print("\t".join(safe(cell) for cell in cells))  # noqa: T201 - a command's output


SHORT_ID = 9
"""Characters: the first group of a UUID, and a sign that there is more."""

KEPT: Mapping[str, int] = {"ref": 8, "image": 14, "obstacle": 20}
"""Columns that give way where a terminal is narrow, each with the characters that it keeps."""

SPARED = ("image", "updated", "reason", "ref", "was")
"""Columns that are left out where a terminal is narrower still, those first that are missed least."""

Shown = Mapping[str, Any]
"""A job as the API gives it."""


def job_table(found: Sequence[Shown], console: Console) -> Table:
    """A table of jobs for a terminal."""
    return fitting_table(("job", "state", "ref", "image", "updated", "reason"), map(row, found), console)


def fitting_table(names: Sequence[str], rows: Iterable[Sequence[str]], console: Console) -> Table:
    """A table that a terminal has room for; an id keeps in any case what it is known by.

    Args:
        names: of the columns; ``job`` is an id, ``updated`` a time, ``state``, ``was`` and ``is`` are states.
        rows: their cells.
        console: the terminal.
    """
    lines = [[safe(cell) for cell in cells] for cells in rows]
    columns = {name: [cells[place] for cells in lines] for place, name in enumerate(names)}
    if _width(columns, {}) > console.width:
        columns["job"] = [
            cell if len(cell) <= SHORT_ID else f"{cell[: SHORT_ID - 1]}…" for cell in columns["job"]
        ]
        if "updated" in columns:
            columns["updated"] = [cell[11:19] for cell in columns["updated"]]
    for name in SPARED:
        if _width(columns, KEPT) > console.width:
            columns.pop(name, None)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        table.add_column(name, no_wrap=name not in KEPT)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*map(_styled, columns, cells))
    return table


def _width(columns: Mapping[str, Sequence[str]], kept: Mapping[str, int]) -> int:
    widths = [
        min(max(map(cell_len, (name, *cells))), kept.get(name, sys.maxsize))
        for name, cells in columns.items()
    ]
    return sum(widths) + len(widths) - 1


def _styled(name: str, cell: str) -> Text:
    is_state = name in {"state", "was", "is"} and cell in list(State)
    style = COLOURS[State(cell)] if is_state else ""
    return Text(
        cell, style, no_wrap=name != "obstacle", overflow="fold" if name == "obstacle" else "ellipsis"
    )


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
        print_json({**serializers.job(job), "history": [serializers.event(event) for event in history]})
        return
    console = Console(soft_wrap=True)
    known = [(name, str(value)) for name, value in _flat(serializers.job(job)) if value is not None]
    if not console.is_terminal:
        for pair in known:
            print_line(pair)
        for event in history:
            line = serializers.event(event)
            print_line([line[name] or "" for name in ("at", "event", "from", "to", "reason", "detail")])
        return
    for name, text in known:
        # Somebody may look over the shoulder: keys are shown to programs alone, as on the page.
        plain = serializers.plain_url(text) if name.endswith("_url") else text
        shown = Text(safe(plain), style=COLOURS[job.state] if name == "state" else "")
        console.print(Text(f"{name:<18}", style="dim"), shown)
    console.print()
    for event in history:
        move = event.after.value if event.before in (None, event.after) else f"{event.before} → {event.after}"
        why = f"  {event.reason}: {serializers.detail_without_keys(event)}" if event.reason else ""
        console.print(Text(f"{serializers.time(event.at)}  {event.event:<15} {move}{safe(why)}"))


def safe(text: str) -> str:
    """Text of strangers without what a terminal would obey."""
    return "".join(c if c.isprintable() else "�" for c in text)


def _flat(document: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in document.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return rows
