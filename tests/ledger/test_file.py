"""The ledger's file: created, refused, locked, and complete after a kill."""

import asyncio
import contextlib
import os
import pwd
import random
import shutil
import sqlite3 as pythons_own_sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from receiver.core.errors import LedgerError
from receiver.ledger import FILE_NAME, DirectoryLock, Filter, Ledger, LedgerReader
from receiver.ledger.sqlite import lock, schema
from receiver.ledger.sqlite.connections import ledger_error
from receiver.ledger.sqlite.driver import sqlite3
from tests.bench.many_jobs import fill
from tests.ledger.actions import delivery, file_of, kept_totals, recounted_totals
from tests.support.clock import NOW

PAGE = 4096

ROOT = Path(__file__).parents[2]


def everything_in(folder: Path) -> dict[str, bytes]:
    """The bytes of all files but the WAL's index, which SQLite makes anew whenever it looks."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if not path.name.endswith("-shm") and path.stat().st_size
    }


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def damage(path: Path) -> None:
    """Overwrites the middle of every page behind the first with nonsense."""
    content = bytearray(path.read_bytes())
    for page in range(4096, len(content), 4096):
        content[page : page + 200] = b"\xa5" * 200
    path.write_bytes(content)


async def refusal(folder: Path) -> LedgerError:
    with pytest.raises(LedgerError) as caught:
        await Ledger.serve(folder)
    return caught.value


async def a_used_ledger(folder: Path, *, jobs: int = 50) -> None:
    ledger = await Ledger.serve(folder)
    for number in range(jobs):
        await ledger.record(delivery(f"job-{number}", body=b"x" * 1000))
    await ledger.close()


def version_of(folder: Path) -> int:
    with file_of(folder) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        return int(version)


async def test_a_fresh_ledger_is_of_the_present_version_and_for_this_user_alone(tmp_path: Path) -> None:
    await (await Ledger.serve(tmp_path)).close()
    assert version_of(tmp_path) == len(schema.MIGRATIONS)
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


async def test_an_empty_file_becomes_a_ledger(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).touch()
    ledger = await Ledger.serve(tmp_path)
    await ledger.record(delivery())
    await ledger.close()
    assert version_of(tmp_path) == len(schema.MIGRATIONS)


async def test_a_clean_end_leaves_one_file(tmp_path: Path) -> None:
    await a_used_ledger(tmp_path)
    assert names_in(tmp_path) == [FILE_NAME]


async def test_a_ledger_is_found_again(tmp_path: Path) -> None:
    await a_used_ledger(tmp_path, jobs=3)
    ledger = await Ledger.serve(tmp_path)
    assert [job.id for job in (await ledger.jobs(Filter())).jobs] == ["job-2", "job-1", "job-0"]
    await ledger.close()


async def test_a_damaged_ledger_is_refused_with_what_to_do_and_left_as_it_is(tmp_path: Path) -> None:
    await a_used_ledger(tmp_path)
    damage(tmp_path / FILE_NAME)
    before = everything_in(tmp_path)
    error = await refusal(tmp_path)
    assert error.reason == "ledger.corrupt"
    assert "backup" in error.detail
    assert str(tmp_path) in error.detail
    assert everything_in(tmp_path) == before


async def test_a_damaged_ledger_is_not_even_tidied_up_after_a_crash(tmp_path: Path) -> None:
    used, crashed = tmp_path / "used", tmp_path / "crashed"
    used.mkdir()
    await a_used_ledger(used)
    ledger = await Ledger.serve(used)
    await ledger.record(delivery("last"))
    shutil.copytree(used, crashed, ignore=shutil.ignore_patterns("*-shm"))
    await ledger.close()
    damage(crashed / FILE_NAME)
    before = everything_in(crashed)
    assert f"{FILE_NAME}-wal" in before
    assert (await refusal(crashed)).reason == "ledger.corrupt"
    assert everything_in(crashed) == before


LARGE = 30_000
"""Jobs: more than are checked whole at a start."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("large")
    fill(folder, LARGE)
    content = (folder / FILE_NAME).read_bytes()
    assert len(content) > schema.SMALL_PAGES * PAGE
    return content


def root_of(folder: Path, name: str) -> int:
    """Return the number of the first page of a table or an index, from 0."""
    with file_of(folder) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
    return int(page) - 1


def overwrite(folder: Path, page: int, content: bytes) -> None:
    with (folder / FILE_NAME).open("r+b") as file:
        file.seek(page * PAGE)
        file.write(content)


@pytest.mark.parametrize("name", ["jobs", "sqlite_autoindex_jobs_1", "history", "history_by_job"])
async def test_a_large_ledger_is_refused_where_its_newest_jobs_are_damaged(
    tmp_path: Path, large: bytes, name: str
) -> None:
    (tmp_path / FILE_NAME).write_bytes(large)
    overwrite(tmp_path, root_of(tmp_path, name), bytes(PAGE))
    before = everything_in(tmp_path)
    assert (await refusal(tmp_path)).reason == "ledger.corrupt"
    assert everything_in(tmp_path) == before


async def test_a_large_ledger_is_refused_where_an_index_lacks_its_newest_job(
    tmp_path: Path, large: bytes
) -> None:
    (tmp_path / FILE_NAME).write_bytes(large)
    with file_of(tmp_path) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute(  # a job is written while one index is taken for that of another table
            "UPDATE sqlite_schema SET sql = replace(sql, 'ON jobs (state, seq)', 'ON jobs (state, seq)"
            " WHERE 0') WHERE name = 'jobs_by_state'"
        )
    with file_of(tmp_path) as db:
        db.execute(
            "INSERT INTO jobs (id, state, event, created_at, updated_at)"
            f" VALUES ('hidden', 'submitted', 'x', {2 * NOW}, 1)"
        )
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_schema SET sql = replace(sql, ' WHERE 0', '') WHERE name = 'jobs_by_state'")
    assert "contradict" in (await refusal(tmp_path)).detail


@pytest.mark.parametrize("noise", [bytes(PAGE), random.Random(1).randbytes(PAGE)])
async def test_a_damaged_page_of_a_large_ledger_never_leads_to_a_false_acknowledgement(
    tmp_path: Path, large: bytes, noise: bytes
) -> None:
    outcomes: Counter[str] = Counter()
    for page in random.Random(2).sample(range(1, len(large) // PAGE), 25):
        folder = tmp_path / str(page)
        folder.mkdir()
        (folder / FILE_NAME).write_bytes(large)
        overwrite(folder, page, noise)
        try:
            ledger = await Ledger.serve(folder)
        except LedgerError as error:
            outcomes[error.reason] += 1
            continue
        async with ledger:
            try:
                await ledger.record(delivery("new"))
            except LedgerError as error:
                outcomes[error.reason] += 1
                continue
            outcomes["acknowledged"] += 1
            assert [job.id for job in (await ledger.jobs(Filter(), limit=1)).jobs] == ["new"]
            try:
                claims = await ledger.claim_to_fetch(1, again=1, lease=1000)
            except LedgerError as error:  # it looks at a few other jobs, too
                assert error.reason == "ledger.corrupt"  # noqa: PT017 - or there is none
            else:
                assert [claim.job.id for claim in claims] == ["new"]
            with pytest.raises(LedgerError, match=r"ledger\.corrupt"):
                await ledger.check_for_damage()
            with pytest.raises(LedgerError, match=r"ledger\.corrupt"):
                await ledger.record(delivery("newer"))
            assert await ledger.job_with_history("new") is not None
            assert await ledger.job("newer") is None
        shutil.rmtree(folder)
    assert outcomes["acknowledged"] > 0
    assert set(outcomes) <= {"acknowledged", "ledger.corrupt"}


TABLE_LEAF = 0x0D
"""The first byte of such a page (sqlite.org/fileformat2.html, 1.6)."""


async def test_nothing_that_is_committed_with_what_finds_the_damage_is_acknowledged(
    tmp_path: Path, large: bytes
) -> None:
    (tmp_path / FILE_NAME).write_bytes(large)
    with file_of(tmp_path) as db:
        (oldest,) = db.execute("SELECT id FROM jobs ORDER BY seq LIMIT 1").fetchone()
    pages = (large[at : at + PAGE] for at in range(0, len(large), PAGE))
    (place,) = (n for n, page in enumerate(pages) if page[0] == TABLE_LEAF and oldest.encode() in page)
    overwrite(tmp_path, place, bytes(PAGE))
    async with await Ledger.serve(tmp_path) as ledger:
        together = [ledger.record(delivery(job)) for job in ("before", oldest, "after")]
        outcomes = await asyncio.gather(*together, return_exceptions=True)
        assert [getattr(outcome, "reason", "acknowledged") for outcome in outcomes] == ["ledger.corrupt"] * 3
        assert await ledger.job("before") is None
        assert await ledger.job("after") is None


@pytest.mark.parametrize("module", [sqlite3, pythons_own_sqlite3])
def test_an_index_that_lacks_an_entry_is_damage_in_each_of_the_two_modules(
    tmp_path: Path, module: ModuleType
) -> None:
    def run(*statements: str) -> None:
        with contextlib.closing(module.connect(tmp_path / "file", isolation_level=None)) as db:
            for statement in statements:
                db.execute(statement)

    change = "UPDATE sqlite_schema SET sql = 'CREATE INDEX one ON numbers (n){}' WHERE name = 'one'"
    run("CREATE TABLE numbers (n)", "CREATE INDEX one ON numbers (n)")
    run("PRAGMA writable_schema = ON", change.format(" WHERE 0"))
    run("INSERT INTO numbers VALUES (1)")
    run("PRAGMA writable_schema = ON", change.format(""))
    with pytest.raises(module.DatabaseError) as error:
        run("UPDATE numbers SET n = 2")
    assert ledger_error(error.value).reason == "ledger.corrupt"


async def test_a_ledger_that_is_undamaged_is_served_from_after_it_was_read(
    tmp_path: Path, large: bytes
) -> None:
    (tmp_path / FILE_NAME).write_bytes(large)
    async with await Ledger.serve(tmp_path) as ledger:
        await ledger.check_for_damage()
        await ledger.record(delivery("new"))


async def test_a_ledger_closes_at_once_while_it_is_being_read(tmp_path: Path, large: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(large)
    async with await Ledger.serve(tmp_path) as ledger:
        look = asyncio.create_task(ledger.check_for_damage())
        await asyncio.sleep(0)
        look.cancel()
        with pytest.raises(asyncio.CancelledError):
            await look


@pytest.mark.parametrize("content", [b"no database at all" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    assert (await refusal(tmp_path)).reason == "ledger.corrupt"
    assert everything_in(tmp_path) == {FILE_NAME: content}
    view = None
    with pytest.raises(LedgerError):
        view = await LedgerReader.open(tmp_path)
    assert view is None


@pytest.mark.parametrize("version", [0, 1, 99])
async def test_a_database_of_another_program_is_refused_and_left_as_it_is(
    tmp_path: Path, version: int
) -> None:
    with file_of(tmp_path) as db:
        db.execute("CREATE TABLE theirs (x)")
        db.execute(f"PRAGMA user_version = {version}")
    before = everything_in(tmp_path)
    error = await refusal(tmp_path)
    assert (error.reason, "no ledger" in error.detail) == ("ledger.corrupt", True)
    with pytest.raises(LedgerError, match=r"ledger\.corrupt"):
        await LedgerReader.open(tmp_path)
    assert everything_in(tmp_path) == before


async def test_a_ledger_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    await a_used_ledger(tmp_path)
    with file_of(tmp_path) as db:
        db.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    before = everything_in(tmp_path)
    assert (await refusal(tmp_path)).reason == "ledger.newer"
    with pytest.raises(LedgerError, match=r"ledger\.newer"):
        await LedgerReader.open(tmp_path)
    assert everything_in(tmp_path) == before


async def test_a_view_makes_no_ledger_and_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="RECEIVER_DATA_DIR"):
        await LedgerReader.open(tmp_path)
    assert names_in(tmp_path) == []
    (tmp_path / FILE_NAME).touch()
    with pytest.raises(LedgerError, match="receiver serve"):
        await LedgerReader.open(tmp_path)


def test_a_step_to_a_new_version_that_fails_leaves_nothing_of_itself(tmp_path: Path) -> None:
    with file_of(tmp_path) as db:
        db.execute("CREATE TABLE jobs (x)")
        db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        with pytest.raises(sqlite3.OperationalError, match="already exists"):
            schema.prepare(db, tmp_path / FILE_NAME)
        assert not db.in_transaction
        assert [row["name"] for row in db.execute("SELECT name FROM sqlite_schema")] == ["jobs"]
        assert schema.version(db, tmp_path / FILE_NAME) == 0


@contextmanager
def process(*arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    child = subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


HOLD = """
import pathlib, sys
from receiver.ledger import DirectoryLock
lock = DirectoryLock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with process("-c", HOLD, str(folder)) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        yield child


def killed(child: "subprocess.Popen[bytes]") -> None:
    child.kill()
    child.wait()


def released(child: "subprocess.Popen[bytes]") -> None:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"\n")
    child.stdin.flush()
    assert child.stdout.readline() == b"released\n"


@pytest.mark.parametrize("end", [killed, released])
def test_a_second_server_is_refused_until_the_first_one_ends_however_it_ends(
    tmp_path: Path, end: Callable[["subprocess.Popen[bytes]"], None]
) -> None:
    with holder(tmp_path) as child:
        with pytest.raises(LedgerError) as caught:
            DirectoryLock(tmp_path)
        assert caught.value.reason == "ledger.in_use"
        assert str(tmp_path) in caught.value.detail
        assert lock.holder(tmp_path) == child.pid
        assert lock.holder(tmp_path, locks=Path(os.devnull)) == 0  # as where another container holds it
        end(child)
        assert lock.holder(tmp_path) is None
        # Files on other disks can have the same number, and theirs may be held.
        others = tmp_path / "locks"
        inode = (tmp_path / lock.LOCK_NAME).stat().st_ino
        others.write_text(f"1: FLOCK  ADVISORY  WRITE 4711 fd:01:{inode} 0 EOF\n")
        assert lock.holder(tmp_path, locks=others) is None
        DirectoryLock(tmp_path).release()


async def test_of_a_process_that_is_killed_nothing_is_lost_that_it_acknowledged(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    for life in range(3):
        with process("-m", "tests.ledger.acknowledge", str(tmp_path), f"life-{life}") as child:
            assert child.stdout is not None
            acknowledged |= {child.stdout.readline().decode().strip() for _ in range(200)}
            child.kill()
            lines = child.stdout.read().decode().splitlines(keepends=True)
            acknowledged |= {line.strip() for line in lines if line.endswith("\n")}
    view = await LedgerReader.open(tmp_path)  # before anyone has tidied up after the kill
    found = {job.id for job in (await view.jobs(Filter(), limit=10**6)).jobs}
    await view.close()
    assert len(acknowledged) >= 600
    assert acknowledged <= found
    ledger = await Ledger.serve(tmp_path)
    assert {job.id for job in (await ledger.jobs(Filter(), limit=10**6)).jobs} == found
    assert all(job.deadline is not None and job.deadline > NOW for job in (await ledger.jobs(Filter())).jobs)
    await ledger.close()
    with file_of(tmp_path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert kept_totals(db) == recounted_totals(db)
        assert db.execute("SELECT count(*) FROM history").fetchone()[0] == len(found)
        assert db.execute("SELECT count(*) FROM bodies").fetchone()[0] == len(found)


async def test_a_start_that_cannot_write_leaves_nothing_running(tmp_path: Path) -> None:
    await a_used_ledger(tmp_path, jobs=1)
    script = (
        "import asyncio, pathlib, sys\n"
        "from receiver.core.errors import LedgerError\n"
        "from receiver.ledger import Ledger\n"
        "try:\n    asyncio.run(Ledger.serve(pathlib.Path(sys.argv[1])))\n"
        "except LedgerError as error:\n    print(error.reason, flush=True)\n"
    )
    with file_of(tmp_path) as other:
        other.execute("UPDATE jobs SET holder = 'of a process that is gone'")
        other.commit()
        other.execute("BEGIN IMMEDIATE")  # held until the start has given up waiting for it
        with process("-c", script, str(tmp_path)) as child:
            out, _ = child.communicate()  # returns only if no thread keeps the process alive
    assert (out, child.returncode) == (b"ledger.unavailable\n", 0)


@pytest.mark.parametrize("opening", [Ledger.serve, Ledger.open_beside, LedgerReader.open])
@pytest.mark.parametrize("change", ["DROP INDEX jobs_by_ref", "CREATE TABLE x (y)"])
async def test_a_ledger_of_another_structure_is_refused_to_all_and_left_as_it_is(
    tmp_path: Path, opening: Callable[[Path], Awaitable[object]], change: str
) -> None:
    await a_used_ledger(tmp_path, jobs=1)
    with file_of(tmp_path) as other:
        other.execute(change)
    before = everything_in(tmp_path)
    with pytest.raises(LedgerError, match="structure") as refusal:
        await opening(tmp_path)
    assert refusal.value.reason == "ledger.corrupt"
    assert everything_in(tmp_path) == before


async def test_a_command_that_writes_leaves_a_file_of_another_program_as_it_is(tmp_path: Path) -> None:
    with file_of(tmp_path) as other:
        other.execute("CREATE TABLE theirs (x)")
    before = everything_in(tmp_path)
    with pytest.raises(LedgerError, match=r"ledger\.corrupt"):
        await Ledger.open_beside(tmp_path)
    assert everything_in(tmp_path) == before


async def test_the_tables_that_litestream_and_sqlite_add_are_no_other_structure(tmp_path: Path) -> None:
    await a_used_ledger(tmp_path, jobs=1)
    with file_of(tmp_path) as other:
        other.execute("CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)")
        other.execute("CREATE TABLE _litestream_lock (id INTEGER)")
        other.execute("ANALYZE")
        assert (
            other.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_stat1'").fetchone()[0] == 1
        )
    ledger = await Ledger.serve(tmp_path)
    await ledger.close()


@pytest.mark.parametrize("end", ["-wal", "-shm"])
async def test_a_ledger_whose_wal_was_removed_acknowledges_nothing_and_loses_nothing_at_a_stop(
    tmp_path: Path, end: str
) -> None:
    async with await Ledger.serve(tmp_path) as ledger:
        await ledger.record(delivery("before"))
        (tmp_path / f"{FILE_NAME}{end}").unlink()
        with pytest.raises(LedgerError, match=r"ledger\.unavailable.*is gone"):
            await ledger.record(delivery("after"))
    async with await Ledger.serve(tmp_path) as ledger:
        assert [job.id for job in (await ledger.jobs(Filter())).jobs] == ["before"]


async def test_a_file_that_was_moved_away_or_replaced_acknowledges_nothing(tmp_path: Path) -> None:
    ledger = await Ledger.serve(tmp_path)
    path, away = tmp_path / "ledger.sqlite3", tmp_path / "away"
    try:
        await ledger.record(delivery("before"))
        path.rename(away)
        for in_its_place in (None, b""):
            if in_its_place is not None:
                path.write_bytes(in_its_place)
            with pytest.raises(LedgerError) as refused:
                await ledger.record(delivery("meanwhile"))
            assert refused.value.reason == "ledger.unavailable"
            with pytest.raises(LedgerError):
                await ledger.check_writable()
        away.rename(path)
        await ledger.record(delivery("after"))
    finally:
        await ledger.close()
    with file_of(tmp_path) as db:
        assert [row["id"] for row in db.execute("SELECT id FROM jobs ORDER BY seq")] == ["before", "after"]


async def test_what_root_makes_belongs_to_the_owner_of_the_data_directory(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(tmp_path, nobody.pw_uid, nobody.pw_gid)
    ledger = await Ledger.open_beside(tmp_path)
    await ledger.record(delivery("one"))
    files = [path for path in tmp_path.iterdir() if path.is_file()]  # noqa: ASYNC240 - nobody else waits for this loop
    await ledger.close()
    assert {"ledger.sqlite3", "ledger.sqlite3-wal", "serve.lock"} <= {path.name for path in files}
    owner = tmp_path.stat().st_uid  # noqa: ASYNC240 - likewise
    DirectoryLock(tmp_path).release()
    for name in ("ledger.sqlite3", "serve.lock"):
        assert (tmp_path / name).stat().st_uid == owner
