"""The ledger's versions: what is in the file, and how an older one becomes the present one."""

import sqlite3
from importlib import resources
from pathlib import Path

from receiver.errors import LedgerError

APPLICATION_ID = 0x75707372  # "upsr": tells a ledger from any other SQLite file

MIGRATIONS: tuple[str, ...] = ("schema.sql",)
"""Scripts beside this module. The first makes version 1, each further one the version after it."""

SAFE_SQLITE = (3, 51, 3)
"""Older ones can, rarely, corrupt a WAL that two connections use (sqlite.org/wal.html, "WAL-reset bug")."""


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Checks the file and brings it to the present version, each step in a transaction of its own.

    Raises:
        LedgerError: ``ledger.newer``, ``ledger.corrupt``; nothing was changed then.
    """
    version = check(db, path)
    for number, name in enumerate(MIGRATIONS[version:], start=version + 1):
        script = resources.files("receiver.ledger").joinpath(name).read_text(encoding="utf-8")
        try:
            # executescript() would commit before it begins; the transaction has to stand inside the script.
            db.executescript(
                f"BEGIN IMMEDIATE;\n{script}\n"
                f"PRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {number};\nCOMMIT;"
            )
        except sqlite3.Error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def check(db: sqlite3.Connection, path: Path) -> int:
    """Reads the file's version.

    Returns:
        The version, 0 for an empty file.

    Raises:
        LedgerError: ``ledger.newer``, or ``ledger.corrupt`` where it is no ledger or does not pass SQLite's
            quick check.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if version == 0 and tables == 0:
        return 0
    if application != APPLICATION_ID:
        raise LedgerError("ledger.corrupt", f"{path} is no ledger of this program; move it away.")
    if version > len(MIGRATIONS):
        raise LedgerError(
            "ledger.newer",
            f"{path} is of version {version}; this program knows {len(MIGRATIONS)}."
            " Start the newer program, or restore a backup from before the upgrade.",
        )
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise LedgerError(
            "ledger.corrupt",
            f"{path} is damaged ({verdict}). It was left as it is: copy it away, then restore a backup.",
        )
    return int(version)
