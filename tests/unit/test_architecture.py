"""Who may know whom: one webhook should be readable from the door to the archive without turning back."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "receiver"

ROOMS = (
    # Pure: names, and what follows from values that are passed in.
    "errors",
    "states",
    "cuts",
    "config",
    "schedule",
    "completion",
    "expiry",
    "sender",
    "view",
    "problem",
    "refusals",
    "seats",
    "steps",
    # Each knows one thing outside: a file, the provider's hosts, an image's bytes, the archive, a disk.
    "ledger",
    "fetch",
    "container",
    "decoder",
    "verify",
    "archive",
    "spool",
    "ximilar",
    "challenge",
    "hands",
    "journal",
    "labels",
    # The ways in and through.
    "submitting",
    "query",
    "feed",
    "intake",
    "gate",
    "stage",
    "fetching",
    "recognising",
    "archiving",
    "worker",
    "notify",
    "reconcile",
    "pruning",
    "walk",
    "audit",
    "rebuild",
    "migrate",
    "page",
    "metrics",
    "openapi",
    "stream",
    "tracing",
    "api",
    "guards",
    "readiness",
    # What puts it together, and what people type.
    "logs",
    "typed",
    "opening",
    "app",
    "wire",
    "serve",
    "tables",
    "sandbox",
    "demo",
    "doctor",
    "init",
    "cli",
    "__main__",
)  # fmt: skip
"""A room may import those above it, and no others."""

STRANGERS = (
    ("intake", {"worker", "fetching", "archiving", "stage", "gate", "fetch", "archive", "verify", "spool"}),
    ("worker", {"intake", "api", "query"}),
    ("page", {"worker", "fetching", "archiving", "stage", "gate", "fetch", "intake", "config", "sender"}),
    ("api", {"worker", "fetching", "archiving", "fetch", "verify"}),
    ("ledger", {"config", "sender", "expiry", "problem", "view"}),
    ("fetch", {"ledger", "states", "completion"}),
    ("verify", {"ledger", "fetch"}),
    ("archive", {"ledger", "fetch", "verify"}),
)
"""Rooms that meet at the ledger, or nowhere."""

OWNERS = {
    "boto3": {"receiver.archive.s3"},
    "botocore": {"receiver.archive.s3"},
    "sqlite3": {"receiver.ledger.sqlite"},
    "pysqlite3": {"receiver.ledger.sqlite"},
    "aiosqlite": {"receiver.ledger"},
    "itsdangerous": {"receiver.sender"},
    "httpcore": {"receiver.fetch"},
    "pydantic": {"receiver.config"},
    "dotenv": {"receiver.config"},
    "standardwebhooks": {"receiver.notify"},
    "jinja2": {"receiver.page"},
    "opentelemetry": {"receiver.tracing.spans"},
}
"""Libraries that one room alone knows, so that they can be changed there. The sandbox stands for itself."""

MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(module: str, *, at_load_only: bool = False) -> Iterator[str]:
    """The full names of all modules that a module imports; those of functions too, unless told otherwise."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    nodes = tree.body if at_load_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def room(module: str) -> str | None:
    """The room that a module of ours stands in; ``None`` for the package itself and for others' modules."""
    parts = module.split(".")
    return parts[1] if parts[0] == "receiver" and len(parts) > 1 else None


def test_every_module_has_its_place_in_the_order() -> None:
    assert {found for module in MODULES if (found := room(module))} <= set(ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_rooms_above_it(module: str) -> None:
    own = room(module)
    if own is None:
        # What programs of others may ask the package for is loaded then, and not with the package.
        assert {name.split(".")[0] for name in imports(module, at_load_only=True)} <= {"importlib", "typing"}
        return
    known = {other for name in imports(module) if (other := room(name))} - {own}
    assert known <= set(ROOMS[: ROOMS.index(own)])


@pytest.mark.parametrize(("own", "strangers"), STRANGERS)
def test_rooms_that_shall_not_meet_do_not_meet(own: str, strangers: set[str]) -> None:
    modules = [module for module in MODULES if room(module) == own]
    assert modules
    known = {room(name) for module in modules for name in imports(module)}
    assert not known & strangers


def test_no_module_waits_for_itself_to_be_loaded() -> None:
    graph = {
        module: {name for name in imports(module, at_load_only=True) if name in MODULES} for module in MODULES
    }
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_the_sandbox_knows_nothing_of_the_rest() -> None:
    ours = {name for module in MODULES if room(module) == "sandbox" for name in imports(module)}
    # But for the words and numbers that people type, which are the same everywhere.
    assert {room(name) for name in ours} <= {None, "sandbox", "typed"}


@pytest.mark.parametrize(("library", "owners"), OWNERS.items())
def test_a_library_is_known_to_its_room_alone(library: str, owners: set[str]) -> None:
    users = {
        module
        for module in MODULES
        if room(module) != "sandbox"
        for name in imports(module)
        if name.split(".")[0] == library
    }
    assert users
    assert {user for user in users if not user.startswith(tuple(owners))} == set()
