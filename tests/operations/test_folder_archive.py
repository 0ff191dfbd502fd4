"""The same of a folder archive, and what the commands refuse."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ledger.actions import file_of
from tests.operations.archived_jobs import Sample, filled, lay_out, make_samples, run_json
from tests.support.clock import HOUR
from tests.support.processes import POWERLESS, Programs, run, settings
from tests.support.waiting import eventually

COUNT = 60


@pytest.fixture
def images() -> list[Sample]:
    return make_samples(COUNT, seed=2)


@pytest.fixture
def root(tmp_path: Path, images: list[Sample]) -> Path:
    """The archive of a data directory."""
    root = tmp_path / "data" / "archive"
    filled(tmp_path / "data", images, lay_out(root, images))
    return root


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def test_damage_in_a_folder_is_found_and_a_quick_look_finds_what_it_can(
    tmp_path: Path, root: Path, images: list[Sample]
) -> None:
    given = settings(tmp_path)
    sound = run_json(["audit"], tmp_path, given)
    assert (sound.code, sound.findings, sound.summary["objects"]) == (0, [], COUNT), sound.errors

    (root / images[1].key).unlink()
    (root / images[2].key).write_bytes(images[2].content[:-1])
    (root / images[3].key).write_bytes(flipped(images[3].content))
    labels = root / images[4].key
    labels.with_name(f".{labels.name}.json").unlink()
    (root / "foreign.png").write_bytes(b"foreign")
    lay_out(root, [Sample("unknown", None, images[0].received_at, b"unknown")])

    found = run_json(["audit"], tmp_path, given)
    assert found.code == 1
    assert found.of("archive.missing") == [images[1].job_id]
    assert found.of("archive.altered") == [images[2].job_id, images[3].job_id]
    assert found.of("archive.mislabelled") == [images[4].job_id]
    assert found.of("archive.foreign") == [(root / "foreign.png").as_uri(), "unknown"]
    quick = run_json(["audit", "--quick"], tmp_path, given)
    assert quick.of("archive.altered") == [images[2].job_id]
    plain = run(["audit"], tmp_path, given)
    assert plain.returncode == 1
    assert f"{images[1].job_id}\tarchive.missing\t" in plain.stdout


def test_a_folder_gives_its_ledger_back(tmp_path: Path, root: Path, images: list[Sample]) -> None:
    with file_of(tmp_path / "data") as db:
        wanted = [tuple(row) for row in db.execute("SELECT id, ref, sha256, uri, received_at FROM jobs")]
    for path in (tmp_path / "data").glob("ledger.sqlite3*"):
        path.unlink()
    anew = run_json(["rebuild"], tmp_path, settings(tmp_path))
    assert (anew.code, anew.summary["added"]) == (0, COUNT), anew.errors
    with file_of(tmp_path / "data") as db:
        found = [tuple(row) for row in db.execute("SELECT id, ref, sha256, uri, received_at FROM jobs")]
    assert sorted(found, key=str) == sorted(wanted, key=str)
    assert run_json(["audit"], tmp_path, settings(tmp_path)).code == 0


def test_what_cannot_be_read_is_named_and_passed_over(tmp_path: Path, images: list[Sample]) -> None:
    root, given = tmp_path / "data" / "archive", settings(tmp_path)
    images = [replace(images[n], received_at=images[n].received_at - 24 * HOUR) for n in range(3)] + images[
        3:
    ]
    locked = images[-2]
    filled(tmp_path / "data", images, lay_out(root, images))
    os.mkfifo(root / "fifo")
    closed = (root / images[0].key).parent
    inside = sorted(sample.job_id for sample in images if (root / sample.key).parent == closed)
    assert len(inside) == 3
    (root / images[-1].key).unlink()
    os.mkfifo(root / images[-1].key)
    closed.chmod(0)
    (root / locked.key).chmod(0)
    try:
        audit = run_json(["audit"], tmp_path, given, under=POWERLESS)
        for path in (tmp_path / "data").glob("ledger.sqlite3*"):
            path.unlink()
        anew = run_json(["rebuild"], tmp_path, given, under=POWERLESS)
    finally:
        closed.chmod(0o700)
        (root / locked.key).chmod(0o600)
    unreadable = sorted([closed.as_uri(), (root / "fifo").as_uri(), (root / images[-1].key).as_uri()])
    assert (audit.code, anew.code) == (1, 1), audit.errors
    assert audit.of("archive.unreadable") == sorted([*inside, locked.job_id, images[-1].job_id, *unreadable])
    assert len(audit.findings) == len(inside) + 2 + len(unreadable)
    assert anew.of("archive.unreadable") == sorted([*unreadable, (root / locked.key).as_uri()])
    assert anew.summary["added"] == COUNT - len(inside) - 2
    detail = f"{(root / locked.key).as_uri()}: Permission denied."
    assert [one["detail"] for one in audit.findings if one["job"] == locked.job_id] == [detail]


def test_a_rebuild_that_leaves_an_object_aside_says_so_by_its_exit_code(
    tmp_path: Path, root: Path, images: list[Sample]
) -> None:
    (root / "foreign.png").write_bytes(b"foreign")
    anew = run_json(["rebuild"], tmp_path, settings(tmp_path))
    assert (anew.code, anew.of("archive.foreign")) == (1, [(root / "foreign.png").as_uri()])
    (root / "foreign.png").unlink()
    assert run_json(["rebuild"], tmp_path, settings(tmp_path)).code == 0


def old(data: Path) -> None:
    """Makes all that is in a ledger a year older."""
    with file_of(data) as db:
        for column in ("created_at", "received_at", "fetched_at", "archived_at", "updated_at"):
            db.execute(f"UPDATE jobs SET {column} = {column} - 31536000000")
        db.execute("UPDATE history SET at = at - 31536000000")


def test_history_is_pruned_by_hand_and_by_the_server(programs: Programs, tmp_path: Path, root: Path) -> None:
    data = tmp_path / "data"
    old(data)
    given = settings(tmp_path)
    lines = 3 * COUNT - 1  # the last one stays
    dry = run(["prune", "--dry-run", "--json"], tmp_path, given)
    assert json.loads(dry.stdout)["rows"]["history"] == lines
    none = run(["prune", "--older-than", "3650d", "--json"], tmp_path, given)
    rows = json.loads(none.stdout)["rows"]
    assert rows.pop("archived_by_hour") > 0  # counts that no page shows go after days, whatever is kept
    assert set(rows.values()) == {0}
    keeping = {**given, "RECEIVER_KEEP_HISTORY": "3650d"}
    with programs.receiver(keeping, folder=tmp_path) as receiver:
        assert len(receiver.job(_first(data))["history"]) == 3
        # By hand, beside the server.
        done = run(["prune", "--older-than", "300d", "--json"], tmp_path, given)
        rows = json.loads(done.stdout)["rows"]
        assert (rows["history"], rows["bodies"]) == (lines, COUNT)
        job = receiver.job(_first(data))
        assert (job["state"], job["history"]) == ("archived", [])


def test_a_server_prunes_what_is_older_than_it_is_told_to_keep(
    programs: Programs, tmp_path: Path, root: Path
) -> None:
    old(tmp_path / "data")
    with programs.receiver(settings(tmp_path), folder=tmp_path) as receiver:
        job_id = _first(tmp_path / "data")
        eventually(lambda: receiver.job(job_id)["history"] == [])
        assert receiver.job(job_id)["state"] == "archived"
        assert receiver.get(f"/jobs/{job_id}/image").status_code == 200


def _first(data: Path) -> str:
    with file_of(data) as db:
        (job_id,) = db.execute("SELECT id FROM jobs ORDER BY seq LIMIT 1").fetchone()
        return str(job_id)


@pytest.mark.parametrize("command", ["audit", "prune", "archive-migrate", "backup copy"])
def test_without_a_ledger_nothing_is_done_and_none_is_made(tmp_path: Path, command: str) -> None:
    given = settings(tmp_path, RECEIVER_ARCHIVE="s3://bucket", AWS_REGION="us-east-1")
    done = run(command.split(), tmp_path, given)
    assert done.returncode == 1
    assert "RECEIVER_DATA_DIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.rglob("ledger*")) == []


@pytest.mark.parametrize(
    ("command", "code", "why"),
    [
        ("audit --deep --quick", 2, "exclude"),
        ("prune --older-than soon", 2, "duration"),
        ("archive-migrate", 1, "RECEIVER_ARCHIVE"),
        ("audit --rate 0", 2, "rate"),
        ("backup", 2, "FILE"),
        ("backup data/archive", 1, "no regular file"),
        ("backup data/archive --force", 1, "no regular file"),
        ("backup data/archive.json", 1, "--force"),
        ("backup data/ledger.sqlite3 --force", 1, "the ledger itself"),
        ("backup data/ledger.sqlite3-wal --force", 1, "the ledger itself"),
        ("backup nowhere/copy", 1, "nowhere"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, root: Path, command: str, code: int, why: str
) -> None:
    (tmp_path / "data" / "archive.json").touch()
    done = run(command.split(), tmp_path, settings(tmp_path))
    assert done.returncode == code, done.stderr
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_an_archive_that_is_not_there_is_no_lost_archive(tmp_path: Path, root: Path) -> None:
    root.rename(tmp_path / "unmounted")
    found = run_json(["rebuild"], tmp_path, settings(tmp_path))
    assert (found.code, found.findings) == (1, [])
    assert "archive.no_bucket" in found.errors
    audited = run_json(["audit"], tmp_path, settings(tmp_path))
    assert (audited.code, audited.findings) == (1, [])
    assert "archive.no_bucket" in audited.errors
    with file_of(tmp_path / "data") as db:
        assert db.execute("SELECT count(*) FROM findings").fetchone()[0] == 0


@pytest.mark.parametrize("there", [True, False], ids=["empty", "not there"])
def test_no_ledger_is_made_of_an_archive_that_holds_nothing(tmp_path: Path, there: bool) -> None:  # noqa: FBT001 - a case
    """It would be taken for a restored one, and `litestream restore` would bring no other back."""
    wrong = tmp_path / "wrong"
    if there:
        wrong.mkdir()
    (tmp_path / "data").mkdir()
    done = run(["rebuild"], tmp_path, settings(tmp_path, RECEIVER_ARCHIVE=wrong.as_uri()))
    assert done.returncode == 1
    assert wrong.as_uri() in done.stderr
    assert not list((tmp_path / "data").iterdir())


def test_nor_is_there_anything_rebuilt_from_such_a_place_beside_a_ledger(tmp_path: Path, root: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    done = run(["rebuild"], tmp_path, settings(tmp_path, RECEIVER_ARCHIVE=wrong.as_uri()))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"nothing lies in {wrong.as_uri()}" in done.stderr
