"""In CI nothing is skipped in silence."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = Path(__file__).resolve().parents[1] / "support" / "skips.py"

SUITE = """
import pytest

@pytest.mark.skip(reason="no reason at all")
def test_marked(): ...

def test_decides_late():
    pytest.skip("no reason at all")

@pytest.mark.needs_docker
def test_excused():
    pytest.skip("no container here")

@pytest.mark.xfail(strict=True)
def test_expected_to_fail():
    assert False

def test_passes(): ...
"""


def run(folder: Path, *, ci: str | None, suite: str = SUITE) -> str:
    shutil.copy(SKIPS, folder / "conftest.py")
    (folder / "test_suite.py").write_text(suite)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = needs_docker: here for the test\n")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "CI"))}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", folder],
        cwd=folder,
        env={**environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **({"CI": ci} if ci else {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout


def test_a_skip_without_an_excuse_fails_in_ci(tmp_path: Path) -> None:
    said = run(tmp_path, ci="true")
    assert "1 failed, 1 passed, 1 skipped, 1 xfailed, 1 error" in said
    assert "ERROR test_suite.py::test_marked" in said  # a marker skips before the test itself begins
    assert "FAILED test_suite.py::test_decides_late" in said
    assert "no reason at all" in said


@pytest.mark.parametrize("ci", [None, "false"])
def test_elsewhere_a_skip_is_a_skip(tmp_path: Path, ci: str | None) -> None:
    assert "1 passed, 3 skipped, 1 xfailed" in run(tmp_path, ci=ci)


def test_a_whole_file_that_is_skipped_fails_in_ci(tmp_path: Path) -> None:
    said = run(tmp_path, ci="true", suite="import pytest\npytest.importorskip('surely_not_there')\n")
    assert "1 error" in said
