"""``tools/browser`` as a machine meets it: with a Chromium, without one, and with a way to get one."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder that is the whole PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def add(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    shell = shutil.which("sh")
    assert shell is not None
    return subprocess.run(
        [shell, ROOT / "tools/browser"],
        env={"PATH": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome"])
def test_a_browser_that_is_there_is_enough(programs: Path, name: str) -> None:
    add(programs, name, "exit 1")
    done = run(programs)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_root_has_it_installed_after_the_lists_were_brought_up_to_date(programs: Path) -> None:
    said = programs / "said"
    chromium = programs / "chromium"
    add(programs, "id", "echo 0")
    make = f": > {chromium}; {shutil.which('chmod')} +x {chromium}"
    add(programs, "apt-get", f'echo "$*" >> {said}; case "$*" in *install*) {make} ;; esac')
    done = run(programs)

    assert done.returncode == 0, done.stderr
    update, install = said.read_text().splitlines()
    assert update.startswith("update")
    assert "install --yes" in install
    assert install.split()[-2] == "chromium"


@pytest.mark.parametrize(("user", "has_apt"), [("1000", True), ("0", False)], ids=["no root", "no Debian"])
def test_where_it_cannot_be_installed_one_line_says_what_to_do(
    programs: Path,
    user: str,
    has_apt: bool,  # noqa: FBT001 - a case
) -> None:
    add(programs, "id", f"echo {user}")
    if has_apt:
        add(programs, "apt-get", "exit 9")
    done = run(programs)

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "apt-get install chromium" in done.stderr


def test_an_installation_that_fails_is_told(programs: Path) -> None:
    add(programs, "id", "echo 0")
    add(programs, "apt-get", "exit 9")

    assert run(programs).returncode != 0
