"""All links lead somewhere, and what the documents name exists."""

import re
from collections.abc import Iterator
from importlib import import_module

import pytest

from tests.docs.documents import DOCUMENTS, MANUAL, README, ROOT, anchors, code, prose
from tools.reference.logs import lines


@pytest.fixture(scope="module")
def loggers() -> set[str]:
    """Names with dots that are no modules."""
    return {logger for line in lines(ROOT / "receiver").values() for logger in line.loggers}


def links() -> Iterator[tuple[str, str]]:
    """The targets of all links within the repository."""
    for name, text in DOCUMENTS.items():
        shown = re.sub(r"(?<!`)`[^`\n]+`(?!`)", "", prose(text))
        targets = re.findall(r"\]\(<?([^()\s>]+)>?(?: +\"[^\"]*\")?\)", shown)
        targets += re.findall(r"^\[[^\]]+\]: +(\S+)", shown, re.MULTILINE)
        targets += re.findall(r'(?:src|srcset|href)="([^"]+)"', shown)
        yield from ((name, target) for target in targets if not re.match(r"[a-z]+:", target))


@pytest.mark.parametrize(("document", "target"), sorted(set(links())))
def test_a_link_leads_to_a_file_and_a_heading(document: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    file = (ROOT / document).parent / path if path else ROOT / document
    assert file.exists(), f"{document} links to {target}"
    assert file.resolve().is_relative_to(ROOT)
    if anchor:
        assert anchor in anchors(file.read_text(encoding="utf-8")), f"{document} links to {target}"


def test_links_are_found() -> None:
    assert len(set(links())) > 20


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_file_that_a_document_names_exists(document: str) -> None:
    for text in code(DOCUMENTS[document]):
        path = re.fullmatch(r"((?:receiver|tests|deploy|tools|docs)/[\w./-]*)(?::\d+)?", text)
        if path is not None and document != "CHANGELOG.md":  # which speaks of former ones too
            pattern = re.sub(r"NAME|(?<=[v_])N\b", "*", path[1])  # placeholders
            assert any(ROOT.glob(pattern)), f"{document} names {text}"


@pytest.mark.parametrize("document", MANUAL)
def test_a_module_or_name_that_a_page_names_exists(document: str, loggers: set[str]) -> None:
    for text in code(MANUAL[document]) - loggers:
        if re.fullmatch(r"(?:receiver|tests|tools)(?:\.\w+)+(?:\(\))?", text):
            assert exists(text.removesuffix("()")), f"{document} names {text}"


def exists(dotted: str) -> bool:
    """Whether a name with dots is a module, or something in one."""
    names = dotted.split(".")
    for length in range(len(names), 0, -1):
        try:
            found = import_module(".".join(names[:length]))
        except ImportError:
            continue
        for name in names[length:]:
            if not hasattr(found, name):
                return False
            found = getattr(found, name)
        return True
    return False


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) <= 150
