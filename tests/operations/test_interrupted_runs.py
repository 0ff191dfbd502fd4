"""Audit, rebuild and migration in one process: cut off anywhere, with an archive that has bad moments."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from receiver.archive.base import Depth, Inventory, ObjectInfo, SpooledImage
from receiver.archive.factory import open_archive
from receiver.archive.folder import FolderArchive
from receiver.archive.locator import ArchiveLocator
from receiver.archive.metadata import read
from receiver.core.errors import ArchiveError
from receiver.core.jobs import State, StoredObject
from receiver.ledger import Ledger
from receiver.operations.archive_scan import ArchiveScan
from receiver.operations.audit import Auditor
from receiver.operations.checkpoint import Checkpoint
from receiver.operations.migrate import Migrator
from receiver.operations.rebuild import rebuild
from tests.operations.archived_jobs import Sample, fill, lay_out, make_samples
from tests.support.clock import NOW

MANY = 1_100
"""More than a page."""


class CutOffError(Exception):
    """The process ends here."""


class Turns:
    """Lets so many looks through, and then ends everything."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.taken = 0

    async def turn(self) -> None:
        if self.taken == self.left:
            raise CutOffError
        self.taken += 1


def pictures(root: Path) -> dict[str, bytes]:
    """The images in a folder, by their names."""
    return {path.name: path.read_bytes() for path in root.rglob("*.png")}


async def at_once(_: float) -> None:
    """Nobody waits."""


def nobody(*_: object) -> None:
    """Is told."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "archive"
    root.mkdir()
    return root


@pytest.fixture
async def archive(root: Path) -> AsyncIterator[Inventory]:
    archive = open_archive(root.as_uri(), uploads=4)
    yield archive
    await archive.aclose()


async def test_a_rebuild_that_was_cut_off_looks_at_nothing_twice_but_its_last_page(
    tmp_path: Path, root: Path, archive: Inventory
) -> None:
    images = make_samples(MANY)
    lay_out(root, images)
    ledger = await Ledger.serve(tmp_path)

    async def run(turns: Turns) -> Checkpoint:
        checkpoint = await Checkpoint.open(
            ledger, tmp_path, "rebuild", plan={"archive": archive.uri}, from_start=False
        )
        with checkpoint:
            scan = ArchiveScan(
                ledger=ledger,
                archive=archive,
                checkpoint=checkpoint,
                concurrency=4,
                throttle=turns.turn,
                sleep=at_once,
            )
            await rebuild(scan, nobody)
        return checkpoint

    try:
        with pytest.raises(CutOffError):
            await run(Turns(1_050))
        known = (await ledger.stats(overdue_before=0)).jobs[State.ARCHIVED]
        assert known == 1_000
        rest = Turns(MANY)
        checkpoint = await run(rest)
        assert rest.taken == MANY - known
        assert (checkpoint.counts["objects"], checkpoint.counts["added"]) == (MANY, MANY)
        assert (await ledger.stats(overdue_before=0)).jobs[State.ARCHIVED] == MANY
    finally:
        await ledger.close()


class Moody(FolderArchive):
    """A folder that does not answer now and then.

    Args:
        root: the folder.
        moods: what the next looks or puts meet, one after the other.
    """

    def __init__(self, root: Path, moods: list[ArchiveError | None]) -> None:
        super().__init__(root, uploads=4)
        self._moods = moods

    async def inspect(self, stored: StoredObject, depth: Depth = Depth.PROVED) -> ObjectInfo:
        self._answer()
        return await super().inspect(stored, depth)

    async def put(self, item: SpooledImage) -> StoredObject:
        self._answer()
        return await super().put(item)

    def _answer(self) -> None:
        mood = self._moods.pop(0) if self._moods else None
        if mood is not None:
            raise mood


AWAY = ArchiveError("archive.unavailable", "Later.")
DENIED = ArchiveError("archive.denied", "No.", permanent=True)


async def audited(
    folder: Path, archive: Inventory, turn: Callable[[], Awaitable[None]]
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Runs an audit to its end; gives what it counted, and what the ledger counts as damaged."""
    ledger = await Ledger.serve(folder)
    places = ArchiveLocator(archive, {})
    try:
        plan = {"archive": archive.uri, "depth": "proved"}
        checkpoint = await Checkpoint.open(ledger, folder, "audit", plan=plan, from_start=False)
        with checkpoint:
            scan = ArchiveScan(
                ledger=ledger,
                archive=archive,
                checkpoint=checkpoint,
                concurrency=4,
                throttle=turn,
                sleep=at_once,
            )
            await Auditor(scan, places, Depth.PROVED).run(nobody)
        return checkpoint.counts, (await ledger.stats(overdue_before=0)).damaged
    finally:
        await places.aclose()
        await ledger.close()


async def test_an_archive_that_is_away_for_a_moment_is_no_damage(tmp_path: Path, root: Path) -> None:
    images = make_samples(20)
    await fill(tmp_path, images, lay_out(root, images))
    archive = Moody(root, [AWAY, None, AWAY, None])
    counts, damaged = await audited(tmp_path, archive, Turns(99).turn)
    assert (counts["jobs"], damaged) == (20, {})
    await archive.aclose()


@pytest.mark.parametrize("mood", [AWAY, DENIED])
async def test_an_archive_that_refuses_ends_the_audit_and_no_image_is_called_lost(
    tmp_path: Path, root: Path, mood: ArchiveError
) -> None:
    images = make_samples(20)
    await fill(tmp_path, images, lay_out(root, images))
    archive = Moody(root, [mood] * 99)
    with pytest.raises(ArchiveError) as refusal:
        await audited(tmp_path, archive, Turns(999).turn)
    assert refusal.value.reason == mood.reason
    await archive.aclose()
    ledger = await Ledger.serve(tmp_path)
    assert (await ledger.stats(overdue_before=0)).damaged == {}
    await ledger.close()


async def test_an_audit_that_was_cut_off_goes_on_with_what_it_has_found(
    tmp_path: Path, root: Path, archive: Inventory
) -> None:
    images = make_samples(600)
    await fill(tmp_path, images, lay_out(root, images))
    for lost in (images[3], images[550]):
        (root / lost.key).unlink()
    with pytest.raises(CutOffError):
        await audited(tmp_path, archive, Turns(560).turn)
    rest = Turns(999)
    counts, damaged = await audited(tmp_path, archive, rest.turn)
    assert rest.taken == 100
    assert (counts["jobs"], counts["archive.missing"]) == (600, 2)
    assert damaged == {"archive.missing": 2}


class Moved:
    """A migration from one folder to another, which stands for a bucket here."""

    def __init__(self, ledger: Ledger, source: Inventory, target: Inventory) -> None:
        self.migrator = Migrator(
            ledger=ledger,
            source=source,
            target=target,
            concurrency=4,
            throttle=Turns(9_999).turn,
            sleep=at_once,
        )

    async def run(self) -> Mapping[str, int]:
        await self.migrator.move(nobody)
        await self.migrator.remove(nobody)
        return self.migrator.counts


@pytest.fixture
def target_root(tmp_path: Path) -> Path:
    root = tmp_path / "target"
    root.mkdir()
    return root


async def test_a_target_that_is_away_for_a_moment_is_asked_again_and_one_that_refuses_ends_it(
    tmp_path: Path, root: Path, target_root: Path, archive: Inventory
) -> None:
    images = make_samples(10)
    await fill(tmp_path, images, lay_out(root, images))
    ledger = await Ledger.serve(tmp_path)
    refusing, moody = Moody(target_root, [None, DENIED]), Moody(target_root, [AWAY, AWAY, None, AWAY])
    try:
        with pytest.raises(ArchiveError, match="denied"):
            await Moved(ledger, archive, refusing).run()
        assert len(pictures(root)) == 10
        counts = await Moved(ledger, archive, moody).run()
        assert counts["failed"] == 0
        assert counts["removed"] == 10
        assert pictures(root) == {}
        assert set(pictures(target_root).values()) == {one.content for one in images}
    finally:
        await ledger.close()
        await refusing.aclose()
        await moody.aclose()


async def test_a_file_is_removed_only_while_its_image_is_proved_to_lie_in_the_target(
    tmp_path: Path, root: Path, target_root: Path, archive: Inventory
) -> None:
    images = make_samples(6)
    await fill(tmp_path, images, lay_out(root, images))
    (root / "foreign.png").write_bytes(b"foreign")
    unknown = Sample("unknown", None, NOW, b"unknown")
    lay_out(root, [unknown])
    ledger = await Ledger.serve(tmp_path)
    target = open_archive(target_root.as_uri())
    try:
        moved = Moved(ledger, archive, target)
        await moved.migrator.move(nobody)
        gone, rotten = images[0], images[1]
        (target_root / gone.key).unlink()
        (target_root / rotten.key).unlink()
        (target_root / rotten.key).write_bytes(b"rotten")
        await moved.migrator.remove(nobody)
        assert moved.migrator.counts["removed"] == 4
        assert set(pictures(root)) == {
            "foreign.png",
            "unknown.png",
            f"{gone.job_id}.png",
            f"{rotten.job_id}.png",
        }
        reasons = {one["job"]: one["reason"] for one in moved.migrator.findings}
        assert reasons == {gone.job_id: "archive.missing", rotten.job_id: "archive.altered"}
    finally:
        await ledger.close()
        await target.aclose()


async def test_a_source_that_is_not_there_ends_it(
    tmp_path: Path, root: Path, target_root: Path, archive: Inventory
) -> None:
    images = make_samples(3)
    await fill(tmp_path, images, lay_out(root, images))
    await asyncio.to_thread(root.rename, tmp_path / "unmounted")
    ledger = await Ledger.serve(tmp_path)
    target = open_archive(target_root.as_uri())
    try:
        with pytest.raises(ArchiveError, match="no_bucket"):
            await Moved(ledger, archive, target).run()
    finally:
        await ledger.close()
        await target.aclose()


SHA256 = "ab" * 32
GOOD = {
    "job-id": "job-1",
    "ref": "order 7",
    "sha256": SHA256,
    "width": "64",
    "height": "48",
    "received-at": "2026-11-18T08:26:40.123000Z",
    "provider": "ximilar",
}


def held(metadata: Mapping[str, str], kind: str | None = "png") -> ObjectInfo:
    return ObjectInfo(
        StoredObject("s3://bucket/key", "etag"),
        10,
        SHA256,
        kind,
        datetime(2026, 11, 18, tzinfo=UTC),
        metadata,
    )


def test_an_objects_metadata_are_its_job() -> None:
    shown = read(held(GOOD))
    assert shown is not None
    assert (shown.id, shown.ref, shown.received_at) == ("job-1", "order 7", 1_794_990_400_123)
    assert (shown.image.width, shown.image.height, shown.image.bytes) == (64, 48, 10)


@pytest.mark.parametrize(
    "wrong",
    [
        {"job-id": "../etc"},
        {"job-id": ""},
        {"sha256": "AB" * 32},
        {"sha256": "ab"},
        {"width": "0"},
        {"width": "-1"},
        {"height": "1e3"},
        {"height": "٣"},
        {"height": "9" * 30},
        {"received-at": "yesterday"},
        {"received-at": "2026-11-18T08:26:40"},
        {"received-at": "0001-01-01T00:00:00+14:00"},
        {"provider": "other"},
    ],
)
def test_metadata_that_are_not_ours_make_no_job(wrong: dict[str, str]) -> None:
    assert read(held({**GOOD, **wrong})) is None


@pytest.mark.parametrize("missing", [name for name in GOOD if name != "ref"])
def test_metadata_that_lack_something_make_no_job(missing: str) -> None:
    assert read(held({name: value for name, value in GOOD.items() if name != missing})) is None


def test_an_object_of_no_known_kind_makes_no_job_and_a_missing_ref_does() -> None:
    assert read(held(GOOD, kind=None)) is None
    shown = read(held({name: value for name, value in GOOD.items() if name != "ref"}))
    assert shown is not None
    assert shown.ref is None
