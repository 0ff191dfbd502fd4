"""Prints results: tables on a terminal, tab-separated lines in a pipe, JSON with ``--json``."""

import json
from collections.abc import Iterable, Mapping, Sequence
from textwrap import indent
from typing import Any

from rich.console import Console
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


JobDocument = Mapping[str, Any]
"""A job as the API returns it."""


def print_json(value: Any) -> None:
    """Print one JSON document. Control characters are escaped, so that no text drives the terminal."""
    print(json_text(value))  # noqa: T201 - a command's output


def json_text(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


class JsonJobs:
    """Prints one JSON document, ``{**head, "jobs": […], …}``, job by job: the list can have any length."""

    def __init__(self, **head: Any) -> None:
        self._before = json_text({**head, "jobs": []}).removesuffix("]\n}")

    def add(self, job: JobDocument) -> None:
        print(f"{self._before}\n{indent(json_text(job), '    ')}", end="")  # noqa: T201 - a command's output
        self._before = ","

    def end(self, **tail: Any) -> None:
        """Print the members after the list, and end the document."""
        rest = json_text({"jobs": [], **tail}).partition("[")[2]
        print(f"\n  {rest}" if self._before == "," else f"{self._before}{rest}")  # noqa: T201 - a command's output


class JobList:
    """Prints jobs page by page, so that a list can have any length; JSON as one document with ``next``."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = JsonJobs() if as_json else None
        self._console = Console()
        self._has_header = False

    def page(self, found: Sequence[Job]) -> None:
        documents = [serializers.job(job) for job in found]
        if self._json is not None:
            for job in documents:
                self._json.add(job)
        elif not self._console.is_terminal:
            for job in documents:
                print_line(job_row(job))
        elif documents:
            page = job_table(documents)
            page.show_header = not self._has_header
            self._has_header = True
            self._console.print(page)

    def end(self, following: int | None, *, incomplete: bool = False) -> None:
        """End the list; ``following`` is where the next page begins, if there is one.

        ``incomplete``: a search did not look at all that begins with its text.
        """
        cursor = params.cursor(following)
        if self._json is not None:
            self._json.end(next=cursor, **({"incomplete": True} if incomplete else {}))
        elif self._console.is_terminal and cursor is not None:
            more = f"There are more; --cursor {cursor} goes on, --all lists them all."
            self._console.print(more, style="dim")
        if incomplete:
            Console(stderr=True).print("Not all that begins so was looked at: search for more of it.")


def print_line(cells: Sequence[str], *, flush: bool = False) -> None:
    """Print one line for a pipe, with tabs between the cells."""
    print("\t".join(map(safe, cells)), flush=flush)  # noqa: T201 - a command's output


def print_counts(counts: Iterable[tuple[int, str]]) -> None:
    for number, what in counts:
        print(f"{number:>9}  {what}")  # noqa: T201 - a command's output


STATE_COLUMNS = frozenset({"state", "was", "is"})


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table for a terminal. In a narrow one, cells are folded, and none is cut."""
    grid = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for name in names:
        grid.add_column(name, overflow="fold", no_wrap=name in STATE_COLUMNS)
    for cells in rows:
        grid.add_row(*(Text(safe(cell), _style(name, cell)) for name, cell in zip(names, cells, strict=True)))
    return grid


def _style(name: str, cell: str) -> str:
    return COLOURS[State(cell)] if name in STATE_COLUMNS and cell in set(State) else ""


def job_table(found: Sequence[JobDocument]) -> Table:
    return table(("job", "state", "ref", "image", "updated", "reason"), map(job_row, found))


def job_row(job: JobDocument) -> Sequence[str]:
    image = job["image"]
    pixels = f"{image['width']}x{image['height']} " if image and image["width"] else ""
    size = f"{pixels}{image['format'] or '?'}" if image else ""
    reason = job["error"]["reason"] if job["error"] else ""
    return job["id"], job["state"], job["ref"] or "", size, job["updated_at"], reason


def job(job: Job, history: Sequence[Event], *, as_json: bool) -> None:
    if as_json:
        print_json({**serializers.job(job), "history": [serializers.event(event) for event in history]})
        return
    console = Console(soft_wrap=True)
    facts(serializers.job(job), console)
    if not console.is_terminal:
        for event in history:
            line = serializers.event(event)
            print_line([line[name] or "" for name in ("at", "event", "from", "to", "reason", "detail")])
        return
    console.print()
    for event in history:
        move = event.after.value if event.before in (None, event.after) else f"{event.before} → {event.after}"
        said = ": ".join(filter(None, (event.reason, serializers.detail_without_keys(event))))
        why = f"  {said}" if said else ""
        console.print(Text(f"{serializers.time(event.at)}  {event.event:<15} {move}{safe(why)}"))


def facts(document: Mapping[str, Any], console: Console) -> None:
    """Print what is known of a thing, each fact on a line."""
    for name, value in _flat(document):
        if value is None:
            continue
        text = str(value)
        if not console.is_terminal:
            print_line((name, text))
            continue
        # A screen may be watched: keys in URLs are shown to programs alone, as on the status page.
        plain = serializers.plain_url(text) if name.endswith("_url") else text
        console.print(Text(f"{name:<18}", style="dim"), Text(safe(plain), style=_style(name, text)))


def safe(text: str) -> str:
    """Return a text without the control characters that would drive a terminal."""
    return "".join(c if c.isprintable() else "�" for c in text)


def _flat(document: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in document.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return rows
