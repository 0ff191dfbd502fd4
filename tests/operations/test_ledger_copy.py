"""`receiver ledger-copy` as a command."""

import json
from pathlib import Path

import pytest

from receiver.ledger import DirectoryLock, Ledger
from tests.ledger.actions import delivery
from tests.support.processes import run, settings


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A data directory with three jobs."""
    async with await Ledger.serve(tmp_path) as ledger:
        for number in range(3):
            await ledger.record(delivery(f"job-{number}"))
    return tmp_path


def test_the_command_refuses_beside_a_server_and_says_what_it_needs(folder: Path, database: str) -> None:
    values = settings(folder, RECEIVER_DATA_DIR=str(folder))
    lock = DirectoryLock(folder)
    try:
        refused = run(["ledger-copy", "--to", database], folder, values)
    finally:
        lock.release()
    assert (refused.returncode, "Another process serves" in refused.stderr) == (1, True)
    nowhere = run(["ledger-copy"], folder, values)
    assert (nowhere.returncode, "RECEIVER_LEDGER" in nowhere.stderr) == (1, True)
    wrong = run(["ledger-copy", "--to", "mysql://host/x"], folder, values)
    assert (wrong.returncode, "postgresql://user@host/database" in wrong.stderr) == (2, True)
    gone = run(["ledger-copy", "--to", "postgresql://receiver:hidden@127.0.0.1:1/x"], folder, values)
    assert (gone.returncode, "ledger.unavailable" in gone.stderr) == (1, True)
    assert "hidden" not in gone.stderr + gone.stdout


def test_the_command_prints_what_it_copied(folder: Path, database: str) -> None:
    values = settings(folder, RECEIVER_DATA_DIR=str(folder), RECEIVER_LEDGER=database)
    done = run(["ledger-copy", "--json"], folder, values)
    assert (done.returncode, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    assert printed["resumed"] is False
    assert printed["rows"]["jobs"] == 3
    again = run(["ledger-copy"], folder, values)
    assert (again.returncode, "holds a ledger already" in again.stderr) == (1, True)
