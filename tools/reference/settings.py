"""The page of settings, from the fields of ``Config``."""

import ast
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from receiver import config as config_module
from receiver.config import Config
from tools.reference.markdown import code, codes, table

SECRETS_DIR = (
    code("RECEIVER_SECRETS_DIR"),
    "folder",
    "",
    "A folder of files that are named like settings, such as the secrets of a container.",
)


def page() -> str:
    """Return the page."""
    meanings = _descriptions()
    fields = {name: field for name, field in Config.model_fields.items() if not field.exclude}
    if missing := fields.keys() - meanings.keys():
        raise ValueError(f"receiver/config.py: no description below {missing}")
    rows = [row(field, meanings[name]) for name, field in fields.items()]
    return table(("setting", "value", "default", "meaning"), [*rows, SECRETS_DIR])


def row(field: FieldInfo, meaning: str) -> Sequence[str]:
    """Return the row of a setting."""
    assert field.alias is not None
    return code(field.alias), values(field), code(default(field)), meaning


def _descriptions() -> Mapping[str, str]:
    """Return the text below each field of ``Config``."""
    (config,) = (
        node
        for node in ast.parse(Path(config_module.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == Config.__name__
    )
    found = {}
    for field, text in pairwise(config.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                found[name] = " ".join(meaning.split())
    return found


def default(field: FieldInfo) -> str:
    """Return the default as it would be written in the environment, or an empty string."""
    value = field.default
    match value:
        case bool():
            return "on" if value else "off"
        case timedelta():
            return _duration(value)
        case Path():
            return f"./{value}"
        case int() if values(field) == "size":
            return _scaled(value, 1024, ("", " KiB", " MiB", " GiB"))
        case int() | float():
            return _scaled(int(value), 1000, ("", "K", "M", "G")) if value >= 10**6 else f"{value:g}"
        case None | () | {}:
            return ""
    return str(value) if value else ""


def values(field: FieldInfo) -> str:
    """Return what a setting takes, in words."""
    kind = str(field.annotation)
    if get_origin(field.annotation) is Literal:
        return codes(get_args(field.annotation))
    if field.annotation is bool:
        return "`on`, `off`"
    if field.annotation in (int, float):
        if any("_size" in repr(item) for item in field.metadata):
            return "size"
        return f"number{_bounds(field)}"
    for part, name in (
        ("datetime.timedelta]", "duration, or one for each provider"),
        ("dict", "JSON object"),
        ("Network", "list of networks"),
        ("tuple[pydantic.types.SecretStr", "list of secrets"),
        ("SecretStr", "secret"),
        ("tuple", "list"),
        ("timedelta", "duration"),
        ("HttpUrl", "URL"),
        ("Path", "folder"),
    ):
        if part in kind:
            return name
    return "text"


def _bounds(field: FieldInfo) -> str:
    bounds: dict[str, Any] = {
        name: getattr(item, name)
        for item in field.metadata
        for name in ("gt", "ge", "le")
        if hasattr(item, name)
    }
    if "le" not in bounds:
        return ""
    return f", {bounds['ge']} to {bounds['le']}" if "ge" in bounds else f", at most {bounds['le']}"


def _duration(value: timedelta) -> str:
    seconds = int(value.total_seconds())
    if seconds % 86400 == 0 and seconds > 86400:
        return f"{seconds // 86400}d"
    for size, unit in ((3600, "h"), (60, "m")):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _scaled(value: int, base: int, units: Sequence[str]) -> str:
    power = 0
    while power + 1 < len(units) and value % base == 0 and value:
        value //= base
        power += 1
    return f"{value}{units[power]}"
