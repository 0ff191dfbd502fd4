"""What is published speaks of the project alone: no one's machine, no package registry, no secret."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.documents import ROOT

THIS_FILE = Path(__file__).relative_to(ROOT).as_posix()


def published() -> list[str]:
    """The files of the repository, or of a source tree without one."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = listed.stdout.split() if listed.returncode == 0 else []
    return found or [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*")
        if path.is_file() and not any(part in {".venv", ".git"} or "cache" in part for part in path.parts)
    ]


TEXTS = [name for name in published() if (ROOT / name).is_file() and name != THIS_FILE]

FOREIGN = re.compile(
    r"pypi\.\w|pythonhosted|registry\.\w|\bdeb\.\w|\b(?:docker|ghcr|quay)\.io"
    r"|/(?:root|home/[a-z]+)/|/tmp/[a-z]+-[0-9]"
)


@pytest.mark.parametrize("name", TEXTS)
def test_no_registry_host_and_no_path_of_a_machine_is_published(name: str) -> None:
    found = FOREIGN.search((ROOT / name).read_bytes().decode("utf-8", "replace"))
    assert found is None, f"{name}: {found[0]!r}"


def test_the_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## \[(.+?)\](.*)$", text, re.MULTILINE)
    assert releases[0] == ("Unreleased", "")
    for version, date in releases[1:]:
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        assert re.fullmatch(r" - \d{4}-\d{2}-\d{2}", date)
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
