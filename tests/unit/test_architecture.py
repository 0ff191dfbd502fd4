"""Which package may import which: the order in which the product is read."""

import ast
import functools
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from receiver.cli.commands import COMMANDS, SILENT
from receiver.providers.registry import ENTRIES

PACKAGE = Path(__file__).parents[2] / "receiver"

PACKAGES = (
    "core",
    "sandbox",
    "archive",
    "config",
    "providers",
    "client",
    "verify",
    "fetch",
    "web",
    "ledger",
    "pipeline",
    "events",
    "intake",
    "reconcile",
    "submission",
    "operations",
    "api",
    "dashboard",
    "telemetry",
    "alerts",
    "bootstrap",
    "doctor",
    "cli",
    "__main__",
)
"""A package may import those above it, and no others; docs/concepts/architecture.md says what lives where."""

FLAT = {"receiver", "receiver.__main__", "receiver.config"}
"""The only modules outside packages."""

STRANGERS = (
    ("intake", {"pipeline", "fetch", "archive", "verify"}),
    ("pipeline", {"intake", "api"}),
    ("dashboard", {"pipeline", "fetch", "intake", "config"}),
    ("api", {"fetch", "config"}),
    ("ledger", {"config", "providers", "fetch", "verify", "web"}),
    ("fetch", {"ledger", "archive", "verify", "config"}),
    ("verify", {"ledger", "fetch", "archive", "config"}),
    ("archive", {"ledger", "fetch", "verify", "config"}),
    ("providers", {"archive"}),
    ("client", {"config", "archive"}),
    ("sandbox", {"core"}),
)
"""Packages that do not meet, although the order would let one import the other. Most meet at the ledger."""

OWNERS = {
    "boto3": {"receiver.archive.s3"},
    "botocore": {"receiver.archive.s3"},
    "sqlite3": {"receiver.ledger.sqlite.driver"},
    "aiosqlite": {"receiver.ledger.sqlite.connections"},
    "pysqlite3": {"receiver.ledger.sqlite.driver"},
    "psycopg": {"receiver.ledger.postgres"},
    "itsdangerous": {"receiver.providers.ximilar.authentication"},
    "httpcore": {"receiver.fetch"},
    "brotli": {"receiver.fetch.content_coding"},
    "pydantic": {
        "receiver.config",
        "receiver.client.documents",
        "receiver.providers.tables",
        "receiver.providers.proofs",
        "receiver.providers.described",
    },
    "dotenv": {"receiver.config"},
    "cryptography": {"receiver.providers.key_set"},
    "standardwebhooks": {"receiver.events.outgoing_webhooks"},
    "jinja2": {"receiver.dashboard"},
    "apprise": {"receiver.alerts.send"},
    "opentelemetry": {"receiver.telemetry.tracing.spans"},
}
"""Libraries that one module or package alone imports, so that they can be replaced there. The sandbox stands
for itself."""

MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


@functools.cache
def imports(module: str, *, at_load_only: bool = False) -> frozenset[str]:
    """The full names of all modules that a module imports; those of functions too, unless told otherwise."""
    return frozenset(_imports(module, at_load_only=at_load_only))


def _imports(module: str, *, at_load_only: bool) -> Iterator[str]:
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


def package(module: str) -> str | None:
    """The package of a module of ours; ``None`` for the root package and for others' modules."""
    parts = module.split(".")
    return parts[1] if parts[0] == "receiver" and len(parts) > 1 else None


def test_every_module_is_in_a_package_of_the_order() -> None:
    assert {found for module in MODULES if (found := package(module))} <= set(PACKAGES)
    assert {module for module, path in MODULES.items() if path.parent == PACKAGE} <= FLAT


@pytest.mark.parametrize("module", MODULES)
def test_a_package_imports_only_packages_above_it(module: str) -> None:
    own = package(module)
    if own is None:
        # What programs of others may ask the package for is loaded then, and not with the package.
        assert {name.split(".")[0] for name in imports(module, at_load_only=True)} <= {"importlib", "typing"}
        return
    known = {other for name in imports(module) if (other := package(name))} - {own}
    assert known <= set(PACKAGES[: PACKAGES.index(own)])


@pytest.mark.parametrize(("own", "strangers"), STRANGERS)
def test_packages_that_must_not_meet_do_not_meet(own: str, strangers: set[str]) -> None:
    modules = [module for module in MODULES if package(module) == own]
    assert modules
    known = {package(name) for module in modules for name in imports(module)}
    assert not known & strangers


def test_no_module_imports_itself_by_way_of_others_not_even_inside_a_function() -> None:
    graph = {
        module: {name for name in imports(module) if name in MODULES and name != module} for module in MODULES
    }
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError


NAMES_PROVIDERS = (
    "providers/",
    "sandbox/",
    "config.py",  # whose settings they are
    "core/completion.py",  # the one whose ids are bare
    "submission/",  # one provider's alone
    "cli/submit.py",
    "cli/sandbox.py",
    "cli/demo.py",
    "core/url_expiry.py",  # the signers of URLs
)
"""Where a provider may be named. docs/guide/adding-a-provider.md shows how one is added elsewhere without."""


def test_no_provider_is_named_outside_its_package() -> None:
    names = "|".join(entry.name for entry in ENTRIES)
    named = re.compile(rf"(?<![a-z])(?:{names})(?![a-z])", re.IGNORECASE)  # in a setting's name, too
    texts = [path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".json", ".html", ".js", ".toml"}]
    found = {
        name
        for path in texts
        if not (name := path.relative_to(PACKAGE).as_posix()).startswith(NAMES_PROVIDERS)
        and named.search(path.read_text(encoding="utf-8"))
    }
    assert len(texts) > 150
    assert found == set()


@pytest.mark.parametrize(("library", "owners"), OWNERS.items())
def test_a_library_is_imported_by_its_owner_alone(library: str, owners: set[str]) -> None:
    users = {
        module
        for module in MODULES
        if package(module) != "sandbox"
        for name in imports(module)
        if name.split(".")[0] == library
    }
    assert users
    assert {user for user in users if not user.startswith(tuple(owners))} == set()


@pytest.mark.parametrize("command", sorted(SILENT))
def test_a_command_without_logging_reaches_no_module_that_logs(command: str) -> None:
    found, ahead = set(), {COMMANDS[command][1]}
    while ahead:
        module = ahead.pop()
        found.add(module)
        names = imports(module)
        assert "structlog" not in names, module
        ahead |= {name for name in names if name in MODULES} - found
