"""``tools/venv`` as a person meets it, in a copy of the project, with interpreters that lack things."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

RECORDING_PYTHON = f"""#!/bin/sh
case "$*" in
    *version_info*) exec {sys.executable} "$@" ;;
    --version) echo "Python of the test" ;;
    *"import ensurepip"*) exit $ENSUREPIP ;;
    *"import pip"*) exit 0 ;;
    *"-m pip --version"*) exit $PIP ;;
    *"-m venv"*)
        mkdir -p .venv/bin
        cp "$0" .venv/bin/python
        echo "$*" >> made ;;
    *"-m pip"*) echo "$*" >> installed ;;
esac
"""
"""Stands in for an interpreter: answers what is asked of it, and notes what it was told to do."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    (project / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools/venv", project / "tools/venv")
    for name in ("pyproject.toml", "requirements-build.lock", "requirements.lock"):
        shutil.copy(ROOT / name, project / name)
    (tmp_path / "bin").mkdir()
    return project


def add_python(checkout: Path, name: str = "python3") -> None:
    program = checkout.parent / "bin" / name
    program.write_text(RECORDING_PYTHON)
    program.chmod(0o755)


def venv(checkout: Path, *, ensurepip: bool = True, pip: bool = True) -> subprocess.CompletedProcess[str]:
    for name in ("cat", "cksum", "dirname", "mkdir", "cp"):
        link = checkout.parent / "bin" / name
        if not link.exists():
            found = shutil.which(name)
            assert found is not None
            link.symlink_to(found)
    return subprocess.run(
        ["/bin/sh", checkout / "tools/venv", "requirements.lock"],
        env={
            "PATH": str(checkout.parent / "bin"),
            "ENSUREPIP": str(int(not ensurepip)),
            "PIP": str(int(not pip)),
            "LANG": os.environ.get("LANG", "C"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def said_to_install(checkout: Path) -> list[str]:
    noted = checkout / "installed"
    return noted.read_text().splitlines() if noted.exists() else []


def test_the_first_run_installs_by_hash_and_then_the_project(checkout: Path) -> None:
    add_python(checkout)
    assert venv(checkout).returncode == 0
    tools, dependencies, project = said_to_install(checkout)
    assert "--require-hashes --requirement requirements-build.lock" in tools
    assert "--require-hashes --requirement requirements.lock" in dependencies
    assert "--no-deps --no-build-isolation --config-settings editable_mode=compat --editable ." in project


def test_the_second_run_installs_nothing_and_says_nothing(checkout: Path) -> None:
    add_python(checkout)
    venv(checkout)
    again = venv(checkout)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert len(said_to_install(checkout)) == 3


@pytest.mark.parametrize("file", ["pyproject.toml", "requirements-build.lock", "requirements.lock"])
def test_a_change_of_what_is_needed_installs_anew(checkout: Path, file: str) -> None:
    add_python(checkout)
    venv(checkout)
    (checkout / file).write_text((checkout / file).read_text() + "\n# changed\n")
    assert venv(checkout).returncode == 0
    assert len(said_to_install(checkout)) == 6


def test_a_checkout_that_was_moved_is_installed_anew(checkout: Path) -> None:
    add_python(checkout)
    venv(checkout)
    moved = checkout.rename(checkout.parent / "moved")
    assert venv(moved).returncode == 0
    assert len(said_to_install(moved)) == 6


def test_a_newer_interpreter_is_found_under_its_own_name(checkout: Path) -> None:
    add_python(checkout, "python3.12")
    assert venv(checkout).returncode == 0


def test_without_ensurepip_the_interpreters_own_pip_does_it(checkout: Path) -> None:
    add_python(checkout)
    assert venv(checkout, ensurepip=False).returncode == 0
    assert "--without-pip" in (checkout / "made").read_text()


def test_without_ensurepip_and_pip_it_says_what_to_install(checkout: Path) -> None:
    add_python(checkout)
    refused = venv(checkout, ensurepip=False, pip=False)
    assert refused.returncode == 1
    assert "apt-get install python3-venv" in refused.stderr


def test_without_any_python_it_says_which_one_is_needed(checkout: Path) -> None:
    refused = venv(checkout)
    assert refused.returncode == 1
    assert "Python 3.11 or newer" in refused.stderr
