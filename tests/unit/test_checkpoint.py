"""The checkpoint of a long run: what it found and how far it is outlive any end of it."""

import contextlib
import os
import pwd
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from receiver.core.errors import LedgerError
from receiver.ledger import Ledger
from receiver.operations.checkpoint import Checkpoint
from tests.support.ledgers import make_empty_ledger

PLAN = {"archive": "s3://bucket"}
FOUND = [{"job": f"job-{n}", "uri": None, "reason": "archive.missing", "detail": "Žádný."} for n in range(4)]


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = await Ledger.serve(make_empty_ledger(tmp_path))
    yield ledger
    await ledger.close()


async def checkpoint(
    ledger: Ledger, folder: Path, *, plan: dict[str, str] = PLAN, from_start: bool = False
) -> Checkpoint:
    return await Checkpoint.open(ledger, folder, "audit", plan=plan, from_start=from_start)


async def test_a_run_that_was_cut_off_goes_on_with_all_that_it_found(ledger: Ledger, tmp_path: Path) -> None:
    with await checkpoint(ledger, tmp_path) as first:
        assert not first.resumed
        first.add(FOUND[0])
        first.counts["jobs"] += 500
        first.position["after_job"] = 500
        await first.save()
        first.add(FOUND[1])  # never saved: its place is not kept either
    with await checkpoint(ledger, tmp_path) as second:
        assert second.resumed
        assert (second.position, second.counts["jobs"]) == ({"after_job": 500}, 500)
        second.add(FOUND[2])
        await second.save()
        assert list(second.findings()) == [FOUND[0], FOUND[2]]
        second.add(FOUND[3])
        await second.save()
        assert list(second.findings()) == [FOUND[0], FOUND[2], FOUND[3]]


async def test_what_a_crash_left_behind_the_last_save_is_cut_off(ledger: Ledger, tmp_path: Path) -> None:
    with await checkpoint(ledger, tmp_path) as first:
        first.add(FOUND[0])
        await first.save()
    with (tmp_path / "audit.jsonl").open("ab") as file:
        file.write(b'{"job": "half')
    with await checkpoint(ledger, tmp_path) as second:
        assert list(second.findings()) == [FOUND[0]]


@pytest.mark.parametrize("why", ["finished", "other plan", "wanted", "findings gone"])
async def test_a_run_begins_anew_where_there_is_nothing_to_go_on_with(
    ledger: Ledger, tmp_path: Path, why: str
) -> None:
    with await checkpoint(ledger, tmp_path) as first:
        first.add(FOUND[0])
        first.position["after_job"] = 7
        await first.save(finished=why == "finished")
    if why == "findings gone":
        (tmp_path / "audit.jsonl").unlink()
    plan = {"archive": "file:///elsewhere"} if why == "other plan" else PLAN
    with await checkpoint(ledger, tmp_path, plan=plan, from_start=why == "wanted") as second:
        assert not second.resumed
        assert (second.position, list(second.findings())) == ({}, [])


async def test_another_ledger_knows_of_no_run(ledger: Ledger, tmp_path: Path) -> None:
    with await checkpoint(ledger, tmp_path) as first:
        first.position["after_object"] = "s3://bucket/middle"
        await first.save()
    other = tmp_path / "other"
    other.mkdir()
    anew = await Ledger.serve(make_empty_ledger(other))
    with await checkpoint(anew, tmp_path) as second:
        assert (second.resumed, second.position) == (False, {})
    await anew.close()


async def test_two_runs_at_a_time_are_refused(ledger: Ledger, tmp_path: Path) -> None:
    with await checkpoint(ledger, tmp_path):
        with pytest.raises(LedgerError) as refusal:
            await checkpoint(ledger, tmp_path)
        assert refusal.value.reason == "ledger.in_use"
        assert "receiver audit" in refusal.value.detail
    (await checkpoint(ledger, tmp_path)).__exit__()


async def test_what_root_has_noted_belongs_to_the_owner_of_the_data_directory(
    ledger: Ledger, shared: Path
) -> None:
    with await checkpoint(ledger, shared):
        assert len(owners(shared)) == 1


async def test_the_file_of_another_user_is_told_with_what_to_do(ledger: Ledger, shared: Path) -> None:
    (shared / "audit.jsonl").touch(mode=0)
    with no_root(), pytest.raises(LedgerError) as refused:
        await checkpoint(ledger, shared)
    assert str(refused.value) == (
        f"ledger.unavailable: {shared / 'audit.jsonl'} belongs to another user, who ran this before;"
        " give it to this one with chown, or remove it"
    )


def owners(folder: Path) -> set[str]:
    """Of a data directory and what was found in it."""
    return {folder.owner(), (folder / "audit.jsonl").owner()}


NOBODY = pwd.getpwnam("nobody").pw_uid


@pytest.fixture
def shared() -> Iterator[Path]:
    """A data directory of a user of its own, where this is run by root."""
    with tempfile.TemporaryDirectory() as folder:
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        yield Path(folder)


@contextlib.contextmanager
def no_root() -> Iterator[None]:
    own = os.geteuid()
    os.seteuid(NOBODY if own == 0 else own)
    try:
        yield
    finally:
        os.seteuid(own)
