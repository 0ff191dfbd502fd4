"""A thousand objects in a real store over TLS: audited, damaged on purpose, rebuilt, and moved there."""

import json
import shutil
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from receiver.ledger import FILE_NAME
from tests.ledger.actions import file_of
from tests.operations.archived_jobs import (
    Bucket,
    Sample,
    filled,
    lay_out,
    make_samples,
    run_json,
)
from tests.support.gallery import gallery
from tests.support.processes import ForkedProgram, Programs, Receiver, run, settings
from tests.support.seaweed import Seaweed, seaweed
from tests.support.waiting import eventually

COUNT = 1_010
"""More than a store lists on one page, and more than two of the ledger's pages."""

SOUND = 110
"""So many jobs that all is well with. What more of them show, the damaged ones show too."""

MOVED = 510
"""More than a page of a migration."""

TOLD_BY_OBJECTS = "id, state, ref, format, width, height, bytes, sha256, uri, received_at"
"""What of a job an object's metadata, size, type and place can tell."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def store() -> Iterator[Seaweed]:
    with seaweed() as store:
        yield store


@pytest.fixture(scope="module")
def images() -> list[Sample]:
    return make_samples(COUNT)


def values(store: Seaweed, folder: Path, bucket: Bucket) -> dict[str, str]:
    return settings(folder, RECEIVER_ARCHIVE=bucket.uri, RECEIVER_UPLOADS="16", **store.environment())


def told(data: Path) -> list[tuple[object, ...]]:
    with file_of(data) as db:
        found = db.execute(f"SELECT {TOLD_BY_OBJECTS} FROM jobs ORDER BY id").fetchall()
    return [tuple(row) for row in found]


def test_a_sound_bucket_is_found_sound_and_rebuilt_to_an_equal_ledger(
    store: Seaweed, images: list[Sample], tmp_path: Path
) -> None:
    images = images[:SOUND]
    bucket, folder, other = Bucket(store, "sound"), tmp_path / "sound", tmp_path / "rebuilt"
    folder.mkdir()
    other.mkdir()
    filled(folder / "data", images, bucket.put_all(images))
    audit = run_json(["audit"], folder, values(store, folder, bucket))
    anew, again = (run_json(["rebuild"], other, values(store, other, bucket)) for _ in range(2))
    assert (audit.code, audit.findings) == (0, []), audit.errors
    assert (audit.summary["jobs"], audit.summary["objects"]) == (SOUND, SOUND)
    assert (anew.code, anew.findings, anew.summary["added"]) == (0, [], SOUND), anew.errors
    assert told(other / "data") == told(folder / "data")
    assert (again.code, again.summary["added"], again.summary["known"]) == (0, 0, SOUND)


class Damage:
    """Harm done on purpose to a bucket; each list names the jobs, or the objects, that it was done to."""

    def __init__(self, bucket: Bucket, images: list[Sample]) -> None:
        left = iter(images[7::20])  # spread over all of the bucket

        def take(count: int) -> list[Sample]:
            return [next(left) for _ in range(count)]

        with closing(bucket.client()) as client:
            self.missing = take(7)
            for one in self.missing:
                bucket.delete(one, client=client)
            self.truncated = take(5)
            for one in self.truncated:
                bucket.put(one, content=one.content[:-1], client=client)
            self.altered = take(5)
            for one in self.altered:
                bucket.put(one, content=other_bytes(one), client=client)
            self.unproved = take(
                4
            )  # the same size, and nothing by which to know it but that it was rewritten
            for one in self.unproved:
                bucket.put(one, content=other_bytes(one), checksum=False, client=client)
            self.relabelled = take(4)
            for one in self.relabelled:
                bucket.put(one, metadata={**one.metadata(), "width": "65"}, client=client)
            self.unlabelled = take(3)
            for one in self.unlabelled:
                bucket.put(one, metadata={}, client=client)
            self.doubled = take(3)
            for one in self.doubled:
                bucket.put(one, key=f"elsewhere/{one.job_id}.png", client=client)
            self.foreign = [
                bucket.put(images[0], key=f"2026/foreign-{n}.png", metadata={}, client=client).uri
                for n in range(6)
            ]
            self.unknown = [replace(one, job_id=f"unknown-{n}") for n, one in enumerate(take(2))]
            for one in self.unknown:
                bucket.put(one, client=client)


def other_bytes(image: Sample) -> bytes:
    return image.content[:-1] + bytes([image.content[-1] ^ 1])


def ids(*lists: list[Sample]) -> list[str]:
    return sorted(one.job_id for some in lists for one in some)


def test_all_damage_that_was_done_is_found_also_by_an_audit_that_was_killed_and_goes_on(
    programs: Programs, store: Seaweed, images: list[Sample], tmp_path: Path
) -> None:
    bucket, data = Bucket(store, "archive"), tmp_path / "data"
    filled(data, images, bucket.put_all(images))
    done = Damage(bucket, images)
    given = values(store, tmp_path, bucket)

    with ForkedProgram("audit", ["audit", "--rate", "200"], tmp_path, given) as program:
        eventually(lambda: audited(data), 60)
        program.kill()
    assert 0 < audited(data) < COUNT

    found = run_json(["audit"], tmp_path, given)
    assert found.code == 1, found.errors
    assert found.of("archive.missing") == ids(done.missing)
    assert found.of("archive.altered") == ids(done.truncated, done.altered)
    assert found.of("archive.unproved") == ids(done.unproved)
    assert found.of("archive.mislabelled") == ids(done.relabelled, done.unlabelled)
    assert found.of("archive.duplicate") == ids(done.doubled)
    assert found.of("archive.foreign") == sorted(done.foreign + [one.job_id for one in done.unknown])
    assert found.summary["jobs"] == COUNT
    assert sum(found.summary["found"].values()) == len(found.findings)

    deep = run_json(["audit", "--deep"], tmp_path, given)
    assert deep.of("archive.altered") == ids(done.truncated, done.altered, done.unproved)
    assert deep.of("archive.unproved") == []

    # An archived job stays archived; the server counts what was found.
    with programs.receiver(given, folder=tmp_path) as receiver:
        stats = receiver.get("/stats").json()
        assert stats["states"]["archived"] == COUNT
        assert stats["damaged"]["reasons"] == {
            "archive.missing": 7,
            "archive.altered": 14,
            "archive.mislabelled": 7,
        }

    # The ledger of the same bucket: what its objects prove, and no more.
    folder = tmp_path / "rebuilt"
    folder.mkdir()
    anew = run_json(["rebuild"], folder, values(store, folder, bucket))
    lost = ids(done.missing, done.truncated, done.altered, done.unproved, done.unlabelled)
    assert anew.code == 1, anew.errors
    assert anew.of("archive.altered") == ids(done.truncated, done.altered, done.unproved)
    assert anew.of("archive.duplicate") == ids(done.doubled)
    assert len(anew.of("archive.foreign")) == 6 + len(done.unlabelled)
    rebuilt = told(folder / "data")
    known = {one.job_id for one in images} - set(lost)
    assert {row[0] for row in rebuilt} == known | set(ids(done.unknown))
    assert anew.summary["added"] == len(rebuilt)
    touched = set(ids(done.relabelled, done.doubled, done.unknown))
    assert [row for row in rebuilt if row[0] not in touched] == [
        row for row in told(data) if row[0] in known - touched
    ]


def audited(data: Path) -> int:
    """How many jobs an audit that was cut off has behind it."""
    with file_of(data) as db:
        row = db.execute("SELECT state FROM runs WHERE name = 'audit'").fetchone()
    state = json.loads(row["state"]) if row is not None else {"finished_at": None, "counts": {}}
    return 0 if state["finished_at"] else state["counts"].get("jobs", 0)


def relocated(data: Path) -> int:
    with file_of(data) as db:
        (count,) = db.execute("SELECT count(*) FROM jobs WHERE uri LIKE 's3://%'").fetchone()
        return int(count)


class Asker:
    """Asks for images again and again, whichever way they come, and notes what was wrong."""

    def __init__(self, receiver: Receiver, store: Seaweed, images: list[Sample]) -> None:
        self.ways: dict[int, int] = {}
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._receiver, self._images = receiver, images
        self._trusting = ssl.create_default_context(cafile=str(store.ca_bundle))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with httpx.Client(trust_env=False, verify=self._trusting, timeout=30) as client:
            number = 0
            while not self._stop.wait(0.01):  # a hundred a second at most: it asks, and is no load
                image = self._images[number * 37 % len(self._images)]
                number += 1
                answer = self._receiver.get(f"/jobs/{image.job_id}/image")
                self.ways[answer.status_code] = self.ways.get(answer.status_code, 0) + 1
                content = answer.content
                if answer.status_code == 302:
                    content = client.get(answer.headers["location"]).content
                if content != image.content:
                    self.wrong.append(f"{image.job_id}: {answer.status_code} {content[:100]!r}")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def test_a_folder_moves_to_the_bucket_over_a_kill_and_every_image_is_served_all_the_time(
    programs: Programs, store: Seaweed, images: list[Sample], tmp_path: Path
) -> None:
    images = images[:MOVED]
    bucket = Bucket(store, "moved")
    data = tmp_path / "data"
    root = data / "archive"
    stored = lay_out(root, images)
    filled(data, images, stored)
    lost, rotten = images[11], images[12]
    (root / lost.key).unlink()
    (root / rotten.key).write_bytes(other_bytes(rotten))
    whole = [one for one in images if one not in (lost, rotten)]
    given = values(store, tmp_path, bucket)
    in_folder = {**given, "RECEIVER_ARCHIVE": root.as_uri()}

    with programs.receiver(in_folder, folder=tmp_path) as receiver:
        asker = Asker(receiver, store, whole)
        try:
            arguments = ["archive-migrate", "--rate", "100"]
            with ForkedProgram("migrate", arguments, tmp_path, given) as program:
                eventually(lambda: relocated(data) >= 100, 60)
                program.kill()
            reached = relocated(data)
            assert 100 <= reached < MOVED
            assert (root / images[0].key).exists()  # files stay, unless told otherwise

            rest = run_json(["archive-migrate", "--remove"], tmp_path, given)
        finally:
            asker.stop()
        assert asker.wrong == []
        assert set(asker.ways) == {200, 302}, asker.ways
        history = receiver.job(images[5].job_id)["history"]
        assert [line["event"] for line in history] == ["received", "fetched", "archived", "relocated"]

    assert rest.code == 1, rest.errors
    assert rest.summary["moved"] == len(whole) - reached
    assert rest.of("archive.missing") == [lost.job_id]
    assert rest.of("archive.altered") == [rotten.job_id]
    assert rest.summary["removed"] == len(whole)
    assert list(root.rglob("*.png")) == [root / rotten.key]
    with closing(bucket.client()) as client:
        for one in whole[::100]:
            assert bucket.read(one, client=client) == one.content

    found = run_json(["audit"], tmp_path, given)
    assert [(one["job"], one["reason"]) for one in found.findings] == [
        (lost.job_id, "archive.missing"),
        (rotten.job_id, "archive.altered"),
    ]


def test_a_backup_beside_a_busy_server_and_what_came_after_it_are_restored_together(
    programs: Programs, store: Seaweed, tmp_path: Path
) -> None:
    bucket = Bucket(store, "restored")
    given = values(store, tmp_path, bucket)
    data = tmp_path / "data"
    before, after = [f"before-{n}" for n in range(20)], [f"after-{n}" for n in range(20)]
    with gallery() as images:
        with programs.receiver_process(given) as receiver:
            for job_id in before:
                receiver.deliver(images.completion(job_id)).raise_for_status()
            for job_id in before:
                assert receiver.ended(job_id)["state"] == "archived"
            # In the copy these are received, and archived by the time that all is lost.
            images.gate = threading.Event()
            waiting = [f"waiting-{n}" for n in range(3)]
            for job_id in waiting:
                receiver.deliver(images.completion(job_id)).raise_for_status()
            copy = said_once(["backup", str(tmp_path / "copy")], tmp_path, given)
            assert copy["jobs"] == len(before) + len(waiting)
            assert copy["version"] >= 3
            images.gate.set()
            images.gate = None
            for job_id in after:
                receiver.deliver(images.completion(job_id)).raise_for_status()
            for job_id in [*after, *waiting]:
                assert receiver.ended(job_id)["state"] == "archived"
            receiver.post("/jobs", json={"id": "announced"}).raise_for_status()
            receiver.program.kill()
        images.away = True  # what was archived need not be fetched again

        shutil.rmtree(data)
        data.mkdir()
        shutil.copy(tmp_path / "copy", data / FILE_NAME)
        found = run_json(["rebuild"], tmp_path, given)
        assert found.code == 0, found.errors
        assert (found.summary["known"], found.summary["added"], found.summary["moved"]) == (
            len(before),
            len(after),
            len(waiting),
        )
        with programs.receiver(given) as receiver:
            for job_id in [*before, *after, *waiting]:
                assert receiver.job(job_id)["state"] == "archived"
                assert receiver.get(f"/jobs/{job_id}/image").status_code == 302
            # What was announced after the copy, and is not archived, is what a restore loses.
            assert receiver.get("/jobs/announced").status_code == 404
    assert run_json(["audit"], tmp_path, given).findings == []


def said_once(arguments: list[str], folder: Path, given: dict[str, str]) -> dict[str, Any]:
    done = run([*arguments, "--json"], folder, given)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said
