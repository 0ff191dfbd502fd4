"""The pages that people look things up in are complete: README, maps, lifecycle, troubleshooting."""

import re
from collections.abc import Iterator

import pytest

from receiver.core.errors import REASONS
from receiver.core.instrumentation import StepName
from receiver.core.jobs import FINAL, State
from receiver.web.problem import STATUS
from tests.docs.documents import DOCUMENTS, ROOT, code
from tests.unit.test_architecture import PACKAGES

CHECKS = {"ledger", "workers", "spool", "decoder", "archive", "serving"}
"""What `/readyz` looks at."""


def section(document: str, title: str) -> str:
    """The text below a heading, down to the next one of the same or a higher level."""
    text = DOCUMENTS[document]
    heading = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert heading is not None, f"{document} has no heading {title!r}"
    rest = text[heading.end() :]
    end = re.search(rf"^#{{1,{len(heading[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str) -> list[list[str]]:
    """The cells of all tables in a text, heads included."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def linked_from(document: str) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s#:]+)(?:#[^)]*)?\)", DOCUMENTS[document]):
        path = (ROOT / document).parent.joinpath(target).resolve()
        yield path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", ["README.md", "docs/README.md"])
def test_the_map_of_the_documentation_has_every_page(document: str) -> None:
    pages = {name for name in DOCUMENTS if re.fullmatch(r"docs/\w+/.+", name)}
    assert pages - set(linked_from(document)) == set()


def test_the_architecture_has_every_package_in_its_order() -> None:
    text = section("docs/concepts/architecture.md", "Packages")
    packages = re.findall(r"^\| `(\w+)(?:/|\.py)` \| (.+) \|$", text, re.MULTILINE)
    assert [name for name, _ in packages] == [name for name in PACKAGES if name != "__main__"]
    for package, held in packages:
        folder = ROOT / "receiver" / package
        for name in re.findall(r"`([a-z_]+)/?`", held) if folder.is_dir() else ():
            assert (folder / name).is_dir() or (folder / f"{name}.py").is_file(), f"{package}: {name}"


def test_the_table_of_states_says_which_are_final() -> None:
    states = {state.value: "yes" if state in FINAL else "no" for state in State}
    text = DOCUMENTS["docs/concepts/lifecycle.md"].partition("## ")[0]
    assert {name.strip("`"): final for name, _, final in rows(text)[2:]} == states


def test_every_message_that_troubleshooting_explains_exists() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "receiver").rglob("*.py"))
    messages = rows(section("docs/operations/troubleshooting.md", "Messages and what to do"))[2:]
    named = set().union(*(code(message) for message, _ in messages))
    assert named > CHECKS
    for name in named:
        assert f'"{name}"' in sources, name


def test_monitoring_names_the_checks_of_readyz() -> None:
    (row,) = (row for row in rows(section("docs/operations/monitoring.md", "Health")) if "readyz" in row[0])
    assert code(row[2]) == CHECKS


def test_monitoring_names_the_spans_of_the_code() -> None:
    text = section("docs/operations/monitoring.md", "Traces")
    spans = code(text.partition("The spans are")[2].partition(", sent as")[0])
    assert spans == set(StepName.__args__)  # type: ignore[attr-defined] # of a Literal


def test_the_http_api_has_every_answer_of_the_webhook() -> None:
    page = "docs/reference/http-api.md"
    stated = {
        reason: int(status)
        for status, *cells in [
            *rows(section(page, "`POST /webhooks/ximilar`")),
            *rows(section(page, "Answers of any route")),
        ]
        if status.isdigit()
        for reason in code(" ".join(cells)) & set(REASONS)
    }
    raised = _reasons_in("intake", "providers/ximilar/completions.py", "ledger", "web/protocol.py")
    raised |= {
        "body.not_allowed",
        "ledger.unavailable",
        "ledger.overloaded",
        "ledger.stopping",
        "ledger.corrupt",
    }
    assert raised <= set(stated)
    assert stated == {reason: STATUS.get(reason, 503) for reason in stated}


def _reasons_in(*places: str) -> set[str]:
    """The reasons of bodies and senders that the modules at these places name."""
    found = {"body.not_a_completion"}
    for place in places:
        path = ROOT / "receiver" / place
        for file in [path] if path.is_file() else path.rglob("*.py"):
            found |= set(re.findall(r'"((?:body|auth)\.[a-z_]+)"', file.read_text())) & set(REASONS)
    return found
