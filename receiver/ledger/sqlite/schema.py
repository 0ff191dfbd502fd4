"""The ledger's versions: checks of the file, and migrations.

They raise `LedgerError`: ``ledger.newer``, or ``ledger.corrupt`` where the file is damaged or no ledger of
this program.
"""

import re
import time
from functools import cache
from importlib import resources
from pathlib import Path

from receiver.core.errors import LedgerError
from receiver.ledger.sqlite.driver import sqlite3

APPLICATION_ID = 0x75707372  # "upsr": distinguishes a ledger from other SQLite files

MIGRATIONS: tuple[str, ...] = (
    "schema.sql",
    "schema_2.sql",
    "schema_3.sql",
    "schema_4.sql",
    "schema_5.sql",
)
"""Scripts beside this module. The first creates version 1, each further one migrates to the next version."""

SMALL_PAGES = 4096
"""Pages of 4 KiB, so 16 MiB or some 25,000 jobs: so much is checked at a start, in a tenth of a second."""

NEWEST = 1000
"""Jobs, entries of the history and bodies that are checked at the start of a larger one."""

SAFE_SQLITE = (3, 51, 3)
"""Older ones can, rarely, corrupt a WAL that two connections use (sqlite.org/wal.html, "WAL-reset bug")."""


def unsafe_sqlite() -> str | None:
    """Return the version of SQLite in this process, where it is older than `SAFE_SQLITE`."""
    return sqlite3.sqlite_version if sqlite3.sqlite_version_info < SAFE_SQLITE else None


def no_ledger(data_dir: Path) -> LedgerError:
    """Return the error of a data directory without a ledger."""
    return LedgerError(
        "ledger.unavailable", f"There is no ledger in {data_dir}; RECEIVER_DATA_DIR says where to look."
    )


def wrong_version(ledger: str, present: int, known: int) -> LedgerError:
    """Return the error of a ledger of another version than the one that the program knows."""
    found = f"{ledger} is of version {present};"
    if present < known:
        return LedgerError("ledger.unavailable", f"{found} `receiver serve` brings it to {known}.")
    advice = "Start the newer program, or restore a backup from before the upgrade."
    return LedgerError("ledger.newer", f"{found} this program knows {known}. {advice}")


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Migrate the file to the present version, each step in a transaction of its own.

    A step that does not lead to its version's structure is not committed: the next start would refuse it.
    """
    present = version(db, path)
    for number, name in enumerate(MIGRATIONS[present:], start=present + 1):
        try:
            # executescript() commits before it begins; the transaction has to begin inside the script.
            db.executescript(
                f"BEGIN IMMEDIATE;\n{_script(name)}\n"
                f"PRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {number};"
            )
            _compare_structure(db, path, number)
            db.execute("COMMIT")
        except (sqlite3.Error, LedgerError):
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def version(db: sqlite3.Connection, path: Path) -> int:
    """Return the file's version, 0 for an empty file."""
    version, application, tables = db.execute(
        "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_schema)"
        " FROM pragma_user_version, pragma_application_id"
    ).fetchone()
    if version == 0 and tables == 0:
        return 0
    if application != APPLICATION_ID:
        raise LedgerError("ledger.corrupt", f"{path} is no ledger of this program; move it away.")
    if version > len(MIGRATIONS):
        raise wrong_version(str(path), version, len(MIGRATIONS))
    return int(version)


def is_older(db: sqlite3.Connection, path: Path) -> bool:
    """Return whether the file is empty or older than this program."""
    return version(db, path) < len(MIGRATIONS)


def check_present(db: sqlite3.Connection, path: Path) -> None:
    """Check that the file has the present version (else ``ledger.unavailable``) and its structure."""
    if is_older(db, path):
        raise wrong_version(str(path), version(db, path), len(MIGRATIONS))
    check_structure(db, path)


def check_structure(db: sqlite3.Connection, path: Path) -> None:
    """Check that a file of the present version has its structure; an older one is left to `prepare`."""
    if version(db, path) == len(MIGRATIONS):
        _compare_structure(db, path, len(MIGRATIONS))


def _compare_structure(db: sqlite3.Connection, path: Path, number: int) -> None:
    if _structure(db) != structure_of_version(number):
        raise LedgerError(
            "ledger.corrupt",
            f"{path} has not the structure of version {number}: an unreleased version made it, or somebody"
            " changed it. Move it away, or restore a backup.",
        )


def check(db: sqlite3.Connection, path: Path) -> None:
    """Check what a start can check in little time, however many jobs there are.

    That is the structure, and the whole of a small file or of one that is migrated. Of a large one it is the
    newest jobs: a delivery is written beside them. `check_whole` reads the rest later.
    """
    check_structure(db, path)
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    if pages <= SMALL_PAGES or is_older(db, path):
        check_whole(db, name=str(path))
    elif any(db.execute(broken, {"newest": NEWEST}).fetchone() for broken in _BROKEN):
        raise _damaged(str(path), "the newest jobs and their indexes contradict each other")


_BROKEN = (
    """
    SELECT 1 FROM (SELECT seq, id, state FROM jobs ORDER BY seq DESC LIMIT +:newest) AS job
    WHERE NOT EXISTS (SELECT 1 FROM jobs AS other INDEXED BY sqlite_autoindex_jobs_1
        WHERE other.id = job.id AND other.seq = job.seq)
    OR NOT EXISTS (SELECT 1 FROM jobs AS other INDEXED BY jobs_by_state
        WHERE other.state = job.state AND other.seq = job.seq)
    """,
    """
    SELECT 1 FROM (SELECT seq, job FROM history ORDER BY seq DESC LIMIT +:newest) AS entry
    WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.seq = entry.job)
    OR NOT EXISTS (SELECT 1 FROM history AS other INDEXED BY history_by_job
        WHERE other.job = entry.job AND other.seq = entry.seq)
    """,
    """
    SELECT 1 FROM (SELECT job FROM bodies ORDER BY job DESC LIMIT +:newest) AS body
    WHERE NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.seq = body.job)
    """,
)
"""Queries that find a newest row which its index, or its job, does not know."""


def check_whole(
    db: sqlite3.Connection, *, seconds: float | None = None, deep: bool = False, name: str = "The ledger"
) -> bool:
    """Run SQLite's quick check, or with ``deep`` the full one; return whether it ended within the seconds."""
    until = None if seconds is None else time.monotonic() + seconds
    if until is not None:
        db.set_progress_handler(lambda: time.monotonic() > until, 1000)
    try:
        (verdict,) = db.execute("PRAGMA integrity_check(1)" if deep else "PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return False
        raise
    finally:
        db.set_progress_handler(None, 0)
    if verdict != "ok":
        raise _damaged(name, " ".join(verdict.split()))
    return True


def _damaged(name: str, verdict: str) -> LedgerError:
    return LedgerError(
        "ledger.corrupt",
        f"{name} is damaged ({verdict}). It was left as it is: copy it away, then restore a backup.",
    )


def _script(name: str) -> str:
    return resources.files("receiver.ledger.sqlite").joinpath(name).read_text(encoding="utf-8")


def _structure(db: sqlite3.Connection) -> list[tuple[str, str, str]]:
    # Litestream keeps tables of its own in every database that it replicates, and SQLite may keep statistics.
    rows = db.execute(
        "SELECT type, name, sql FROM sqlite_schema"
        " WHERE sql IS NOT NULL AND name NOT GLOB '_litestream_*' AND name NOT GLOB 'sqlite_*' ORDER BY name"
    )
    return [(kind, name, " ".join(re.sub("--.*", "", sql).split())) for kind, name, sql in rows]


@cache  # several ledgers are opened in one process by tests and commands
def structure_of_version(number: int) -> list[tuple[str, str, str]]:
    """Return kind, name and SQL of each table, index and trigger, without comments."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    try:
        for name in MIGRATIONS[:number]:
            db.executescript(_script(name))
        return _structure(db)
    finally:
        db.close()
