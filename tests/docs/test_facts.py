"""What the documents say of the code is what the code says."""

import re

import pytest

from receiver.config import NO_SETTINGS, SETTINGS
from receiver.core.errors import REASONS
from receiver.core.jobs import FINAL, MOVES, State
from tests.docs.documents import DOCUMENTS, MANUAL, blocks, code

METRICS = set(re.findall(r"^\| `(receiver_\w+)`", DOCUMENTS["docs/reference/metrics.md"], re.MULTILINE))
FAMILIES = "|".join(sorted({reason.partition(".")[0] for reason in REASONS}))
OF_TESTS = {"RECEIVER_TEST_FULL_SIZE", "RECEIVER_ENV_FILE"}
"""Variables of the tests and of deploy/compose.yaml."""


@pytest.mark.parametrize("document", [name for name in MANUAL if not name.startswith("docs/reference/")])
def test_every_reason_setting_and_metric_that_a_page_names_exists(document: str) -> None:
    for text in code(MANUAL[document]):
        if re.fullmatch(rf"(?:{FAMILIES})\.[a-z_]+", text):
            assert text in REASONS
        for setting in re.findall(r"\b(?:RECEIVER|XIMILAR)_[A-Z_]*[A-Z]\b", text):
            assert setting in {*SETTINGS, *NO_SETTINGS, *OF_TESTS}
        if re.fullmatch(r"receiver_[a-z_]+", text):
            assert re.sub(r"_(?:bucket|sum|count)$", "", text) in METRICS


def arrows() -> list[tuple[str, str]]:
    """The arrows of the one state diagram in the documents."""
    (diagram,) = (block for block in blocks("mermaid") if block.startswith("stateDiagram"))
    return re.findall(r"^ +(\S+) --> ([^:\s]+)", diagram, re.MULTILINE)


def test_the_diagram_shows_exactly_the_legal_moves() -> None:
    drawn = {(before, after) for before, after in arrows() if "[*]" not in (before, after)}
    assert drawn == {(before.value, after.value) for before, afters in MOVES.items() for after in afters}
    # Where a job can begin, and which states nothing leaves.
    assert {after for before, after in arrows() if before == "[*]"} == {"submitted", "received", "failed"}
    assert {before for before, after in arrows() if after == "[*]"} == {
        state.value for state in FINAL if not MOVES[state]
    }
    assert {state.value for state in State} <= {name for arrow in arrows() for name in arrow}
