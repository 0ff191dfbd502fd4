"""The page of log lines, from the calls that write them."""

import ast
import functools
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tools.reference.markdown import code, codes, table

MEANINGS = Path(__file__).with_name("log_events.toml")
LEVELS = {"info": "info", "warning": "warning", "error": "error", "exception": "error"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Calls = dict[str, list[tuple[ast.Module, ast.Call]]]


@dataclass(slots=True)
class Line:
    """A log line, as the calls of its event together write it."""

    levels: set[str] = field(default_factory=set)
    loggers: set[str] = field(default_factory=set)
    fields: dict[str, None] = field(default_factory=dict)


def page(root: Path) -> str:
    """Return the page.

    Raises:
        ValueError: an event has no sentence, or a sentence no event.
    """
    found = lines(root / "receiver")
    meanings = tomllib.loads(MEANINGS.read_text(encoding="utf-8"))
    described = [event for section in meanings.values() for event in section]
    if sorted(described) != sorted(found):
        missing, superfluous = set(found) - set(described), set(described) - set(found)
        raise ValueError(f"{MEANINGS.name}: missing {missing or 'none'}, superfluous {superfluous or 'none'}")
    parts: list[str] = []
    for section, events in meanings.items():
        rows = [_row(event, found[event], meaning) for event, meaning in events.items()]
        parts += [f"## {section}", table(("event", "level", "logger", "fields", "meaning"), rows)]
    return "\n\n".join(parts)


@functools.cache
def lines(package: Path) -> dict[str, Line]:
    """Return all log lines that the package writes, by their events."""
    modules = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(package.rglob("*.py"))]
    calls = _calls(modules)
    found: dict[str, Line] = {}
    for module in modules:
        for function in ast.walk(module):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for call, levels in _log_calls(function):
                for event, logger in _events(call.args[0], function, module, calls):
                    line = found.setdefault(event, Line())
                    line.levels.update(levels)
                    line.loggers.add(logger)
                    line.fields.update(dict.fromkeys(_fields(call, function)))
    return found


def _row(event: str, line: Line, meaning: str) -> tuple[str, ...]:
    return (
        code(event),
        ", ".join(sorted(line.levels)),
        codes(sorted(line.loggers)),
        codes(line.fields),
        meaning,
    )


def _logger(module: ast.Module) -> str:
    """The name in ``log = structlog.get_logger("name")``."""
    for node in module.body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id="log")],
                value=ast.Call(func=ast.Attribute(attr="get_logger"), args=[ast.Constant(value=str(name))]),
            ):
                return name
    raise ValueError("a log line in a module without a logger")


def _calls(modules: list[ast.Module]) -> Calls:
    """The calls of each function or method by its name, with the module that each stands in."""
    found: Calls = defaultdict(list)
    for module in modules:
        for node in ast.walk(module):
            match node:
                case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
                    found[name].append((module, node))
    return found


def _parameters(function: Function) -> list[str]:
    arguments = function.args
    return [each.arg for each in (*arguments.args, *arguments.kwonlyargs) if each.arg != "self"]


def _log_calls(function: Function) -> Iterator[tuple[ast.Call, list[str]]]:
    """The calls that write a line, with its levels; a level may be chosen first: ``note = log.info``."""
    chosen: dict[str, list[str]] = {}
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if levels := _levels(value):
                chosen[name] = levels
    for node in ast.walk(function):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in chosen:
                yield node, chosen[name]
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log")) as method):
                yield node, _levels(method)


def _levels(expression: ast.expr) -> list[str]:
    match expression:
        case ast.Attribute(value=ast.Name(id="log"), attr=method):
            return [LEVELS[method]]
        case ast.IfExp(body=first, orelse=second):
            return _levels(first) + _levels(second)
    return []


def _events(
    event: ast.expr, function: Function, module: ast.Module, calls: Calls
) -> Iterator[tuple[str, str]]:
    """Each text that an event may be, with its logger; those that the function is given, by its calls."""
    parameters = _parameters(function)
    name = event.id if isinstance(event, ast.Name) and event.id in parameters else None
    if name is None and "log" not in parameters:
        for text in _texts(event, function):
            yield text, _logger(module)
        return
    for caller, call in calls.get(function.name, []):
        logger = _logger(caller if "log" in parameters else module)
        for text in _texts(_argument(call, function, name) if name else event, function):
            yield text, logger


def _texts(event: ast.expr, function: Function) -> Iterator[str]:
    match event:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=first, orelse=second):
            yield from (*_texts(first, function), *_texts(second, function))
        case ast.Name(id=name):
            for value in _assigned(function, {name}):
                yield from _texts(value, function)
        case _:
            raise ValueError(f"line {event.lineno}: the event is no text: {ast.unparse(event)}")


def _argument(call: ast.Call, function: Function, parameter: str) -> ast.expr:
    """What a call gives for a parameter, or its default."""
    defaults = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    found = {keyword.arg: default for keyword, default in defaults if default is not None}
    found |= dict(zip(_parameters(function), call.args, strict=False))
    found |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}
    return found[parameter]


def _fields(call: ast.Call, function: ast.AST) -> Iterator[str]:
    for keyword in call.keywords:
        if keyword.arg == "exc_info":
            yield "exception"
        elif keyword.arg is not None:
            yield keyword.arg
        else:
            yield from _keys(keyword.value, function)
    if isinstance(call.func, ast.Attribute) and call.func.attr == "exception":
        yield "exception"


def _keys(expression: ast.expr, function: ast.AST) -> Iterator[str]:
    """The keys of the dictionaries in an expression, and in what its function assigned to the names in it."""
    names = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
    assigned = _assigned(function, names)
    for found in (expression, *assigned):
        for node in ast.walk(found):
            if isinstance(node, ast.Dict):
                yield from (str(key.value) for key in node.keys if isinstance(key, ast.Constant))


def _assigned(function: ast.AST, names: set[str]) -> list[ast.expr]:
    """What a function assigns to these names."""
    return [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in names
    ]
