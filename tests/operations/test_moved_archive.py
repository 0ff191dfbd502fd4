"""Archives that were moved as a whole: from folder to folder, to a bucket, and with their data directory."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from receiver.archive import moved
from receiver.core.jobs import StoredObject
from receiver.ledger import FILE_NAME
from tests.faults.ledgers import make
from tests.ledger.actions import file_of
from tests.operations.archived_jobs import Bucket, Sample, filled, lay_out, make_samples, run_json
from tests.support.processes import Programs, run, settings
from tests.support.seaweed import seaweed
from tests.support.waiting import eventually

COUNT = 30
LEDGERS = Path(make.__file__).parent


@pytest.fixture
def images() -> list[Sample]:
    return make_samples(COUNT, seed=3)


@pytest.fixture
def data(tmp_path: Path, images: list[Sample]) -> Path:
    """A data directory with its archive in it."""
    data = tmp_path / "the first place"  # a blank in a folder's address is written %20
    filled(data, images, lay_out(data / "archive", images))
    return data


def uris(data: Path) -> set[str]:
    with file_of(data) as db:
        return {uri for (uri,) in db.execute("SELECT uri FROM jobs")}


def below(root: Path, images: list[Sample]) -> set[str]:
    return {(root / sample.key).as_uri() for sample in images}


def test_an_audit_follows_a_data_directory_that_was_moved(
    tmp_path: Path, data: Path, images: list[Sample]
) -> None:
    present = data.rename(tmp_path / "data")
    audit = run_json(["audit"], tmp_path, settings(tmp_path))
    assert (audit.code, audit.findings, audit.summary["objects"]) == (0, [], COUNT), audit.errors
    assert uris(present) == below(present / "archive", images)


def test_a_server_shows_the_images_of_a_moved_data_directory_and_learns_where_they_are(
    programs: Programs, tmp_path: Path, data: Path, images: list[Sample]
) -> None:
    present = data.rename(tmp_path / "data")
    with programs.receiver_process(settings(tmp_path)) as receiver:
        for sample in (images[0], images[-1]):
            assert receiver.get(f"/jobs/{sample.job_id}/image").content == sample.content
        receiver.program.until_event("archive moved", images=COUNT)
        eventually(lambda: uris(present) == below(present / "archive", images))
        shown = receiver.get(f"/jobs/{images[0].job_id}").json()["archive"]["uri"]
        assert shown == (present / "archive" / images[0].key).as_uri()
        assert receiver.get(f"/jobs/{images[0].job_id}/image").content == images[0].content


def test_an_archive_that_still_lies_where_it_lay_was_not_moved_and_what_is_not_here_keeps_its_address(
    tmp_path: Path, data: Path, images: list[Sample]
) -> None:
    given = settings(tmp_path, RECEIVER_DATA_DIR=str(data), RECEIVER_ARCHIVE=(tmp_path / "new").as_uri())
    lay_out(tmp_path / "new", images)  # copied, and not moved: as while `archive-migrate` runs
    run_json(["audit"], tmp_path, given)
    assert uris(data) == below(data / "archive", images)

    (data / "archive").rename(data / "away")
    (tmp_path / "new" / images[17].key).unlink()
    audit = run_json(["audit"], tmp_path, given)
    others = images[:17] + images[18:]
    assert uris(data) == below(tmp_path / "new", others) | below(data / "archive", [images[17]])
    assert [one["job"] for one in audit.findings] == [images[17].job_id]


def test_of_an_archive_that_was_moved_in_part_the_rest_stays_readable_and_nothing_counts_as_lost(
    tmp_path: Path, data: Path, images: list[Sample]
) -> None:
    given = settings(tmp_path, RECEIVER_DATA_DIR=str(data), RECEIVER_ARCHIVE=(tmp_path / "new").as_uri())
    here, there = images[::2], images[1::2]
    lay_out(tmp_path / "new", here)
    for sample in here:
        (data / "archive" / sample.key).unlink()
    audit = run_json(["audit"], tmp_path, given)
    assert (audit.code, audit.findings) == (0, []), audit.errors
    assert uris(data) == below(tmp_path / "new", here) | below(data / "archive", there)


def test_a_data_directory_that_was_moved_is_migrated_whole_without_a_server(
    tmp_path: Path, data: Path, images: list[Sample]
) -> None:
    data.rename(tmp_path / "data")
    with seaweed() as store:
        given = settings(
            tmp_path, RECEIVER_ARCHIVE=f"s3://{store.bucket}/upscaled", **store.environment(tls=False)
        )
        done = run_json(["archive-migrate", "--remove"], tmp_path, given)
        assert (done.code, done.summary["moved"], done.summary["removed"]) == (0, COUNT, COUNT), done.errors
        assert run_json(["audit"], tmp_path, given).code == 0


@pytest.mark.parametrize("extent", [[], ["--all"]])
def test_the_command_records_a_move_only_of_what_is_there(
    tmp_path: Path, data: Path, images: list[Sample], extent: list[str]
) -> None:
    given = settings(tmp_path, RECEIVER_DATA_DIR=str(data))
    former, present = data / "archive", tmp_path / "umgezogen nach ü"
    former.rename(present)
    command = ["archive-move", *extent, former.as_uri(), present.as_uri()]
    (present / images[3].key).write_bytes(images[4].content)
    (present / images[5].key).unlink()
    failed = run_json(command, tmp_path, given)
    assert failed.of("archive.altered") == [images[3].job_id]
    assert failed.of("archive.missing") == [images[5].job_id]
    right = [images[4], *images[6:], *images[:3]] if extent else []
    assert (failed.code, failed.summary["changed"]) == (1, len(right))
    assert uris(data) >= below(present, right)
    assert uris(data) >= below(former, [images[3], images[5]])

    lay_out(present, images)
    done = run_json(command, tmp_path, given)
    assert (done.code, done.findings, done.summary["changed"]) == (0, [], COUNT - len(right)), done.errors
    assert uris(data) == below(present, images)
    audit = run_json(["audit"], tmp_path, {**given, "RECEIVER_ARCHIVE": present.as_uri()})
    assert audit.code == 0

    again = run(command, tmp_path, given)
    assert (again.returncode, "the ledger knows of no image in" in again.stderr) == (1, True)


def test_a_folder_may_become_a_bucket_and_the_bucket_another_prefix(
    tmp_path: Path, data: Path, images: list[Sample]
) -> None:
    with seaweed() as store:
        first, second = Bucket(store, "first"), Bucket(store, "first/second")
        given = settings(tmp_path, RECEIVER_DATA_DIR=str(data), **store.environment())
        first.put_all(images)
        former = (data / "archive").as_uri()
        done = run_json(["archive-move", former, first.uri], tmp_path, given)
        assert (done.code, done.summary["changed"]) == (0, COUNT), done.errors
        assert run_json(["audit"], tmp_path, {**given, "RECEIVER_ARCHIVE": first.uri}).code == 0

        second.put_all(images)
        with closing(first.client()) as client:
            for sample in images:
                first.delete(sample, client=client)
        audit = run_json(["audit"], tmp_path, {**given, "RECEIVER_ARCHIVE": second.uri})
        assert (audit.code, audit.findings) == (0, []), audit.errors
        assert uris(data) == {f"{second.uri}/{sample.key}" for sample in images}


def test_a_bucket_may_become_a_folder_and_its_credentials_go(tmp_path: Path, images: list[Sample]) -> None:
    data = tmp_path / "data"
    filled(data, images, {one.job_id: StoredObject(f"s3://former/{one.key}") for one in images})
    lay_out(data / "archive", images)
    audit = run_json(["audit"], tmp_path, settings(tmp_path))
    assert (audit.code, audit.findings) == (0, []), audit.errors
    assert uris(data) == below(data / "archive", images)


def test_an_archive_that_was_moved_before_its_ledger_was_upgraded_is_found(
    tmp_path: Path, images: list[Sample]
) -> None:
    data, image = tmp_path / "data", images[0]
    data.mkdir()
    with closing(sqlite3.connect(data / FILE_NAME)) as db:
        db.executescript((LEDGERS / "v4.sql").read_text(encoding="utf-8"))
        db.execute(
            "UPDATE jobs SET id = ?, uri = ?, bytes = ?, sha256 = ?, format = 'png', width = 64, height = 48"
            " WHERE id = 'archived'",
            (image.job_id, f"file:///former/{image.key}", image.image.bytes, image.image.sha256),
        )
        db.commit()
        db.execute("PRAGMA journal_mode = WAL")
    lay_out(data / "archive", [image])
    audit = run_json(["audit"], tmp_path, settings(tmp_path))
    assert (audit.code, audit.findings, audit.summary["jobs"]) == (0, [], 1), audit.errors


@pytest.mark.parametrize("arguments", [["file:///a", "file:///a/"], ["nowhere", "file:///a"]])
def test_a_move_that_cannot_be_meant_is_a_wrong_use(tmp_path: Path, data: Path, arguments: list[str]) -> None:
    done = run(["archive-move", *arguments], tmp_path, settings(tmp_path, RECEIVER_DATA_DIR=str(data)))
    assert done.returncode == 2


def test_an_address_is_split_into_root_and_key() -> None:
    assert moved.split("s3://b/p/a%20b/c.png", 2) == ("s3://b/p/", "a%20b/c.png")
    assert moved.split("file:///p%20q/a%20b/c.png", 2) == ("file:///p%20q/", "a b/c.png")
    assert moved.key_below("file:///p%20q/", "file:///p%20q/a%20b/c.png") == "a b/c.png"
    assert moved.key_below("s3://b/", "s3://b/c.png") == "c.png"


def test_a_server_without_the_buckets_credentials_serves_what_was_moved_from_its_files(
    programs: Programs, tmp_path: Path, images: list[Sample]
) -> None:
    data = tmp_path / "data"
    filled(data, images, lay_out(data / "archive", images))
    with seaweed() as store, programs.receiver_process(settings(tmp_path)) as receiver:
        given = settings(tmp_path, RECEIVER_ARCHIVE=Bucket(store, "moved").uri, **store.environment())
        moved_now = run_json(["archive-migrate"], tmp_path, given)
        assert moved_now.summary["moved"] == COUNT, moved_now.errors
        assert "a serve runs here" in moved_now.errors
        for sample in (images[0], images[-1]):
            assert receiver.get(f"/jobs/{sample.job_id}/image").content == sample.content
