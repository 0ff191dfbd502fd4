"""The page of commands, from Typer."""

import re
from collections.abc import Iterator

import typer
from typer.core import TyperCommand, TyperGroup

from receiver.cli.commands import COMMANDS, commands
from tools.reference.markdown import code, flowing, table


def group() -> TyperGroup:
    """Return the whole command line."""
    found = typer.main.get_command(commands())
    assert isinstance(found, TyperGroup)
    return found


def page() -> str:
    """Return the page."""
    parts: list[str] = []
    heading = ""
    for name, command in group().commands.items():
        assert isinstance(command, TyperCommand)
        panel, _ = COMMANDS[name]
        if panel != heading:
            parts.append(f"## {panel}")
            heading = panel
        parts += _command(name, command)
    return "\n\n".join(parts)


def _command(name: str, command: TyperCommand) -> Iterator[str]:
    context = typer.Context(command, info_name=f"receiver {name}")
    assert command.help, f"{name} has no help"
    yield f"### `receiver {name}`"
    yield flowing(command.help)
    yield f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```"
    rows: dict[str, list[tuple[str, str, str]]] = {"": []}  # those of no panel come first
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None:  # it is no hidden one
            panel = getattr(parameter, "rich_help_panel", None) or ""
            rows.setdefault(panel, []).append(_row(*record))
    for panel, found in rows.items():
        yield table((f"{panel or 'option'}", "default", "meaning"), found)


def _row(names: str, text: str) -> tuple[str, str, str]:
    """Return a parameter's row from its entry in the help, such as ``--port N`` and ``… [default: 8080]``."""
    meaning, _, more = text.partition("  [")
    assert meaning, f"{names} has no help"
    default = re.search(r"default: \(?([^];)]+)", more)
    variable = re.search(r"env var: ([A-Z_]+)", more)
    if variable is not None:
        meaning += f" Also from `{variable[1]}`."
    names = re.sub(r"<(\w+)>", lambda kind: kind[1].upper(), names.partition(" <list")[0])
    return code(names), code(default[1] if default else ""), meaning
