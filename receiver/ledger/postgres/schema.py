"""The versions of the ledger's schema in PostgreSQL: checks, and migrations."""

from collections.abc import Sequence
from importlib import resources
from typing import Any

import psycopg

from receiver.core.errors import LedgerError
from receiver.ledger.commands.instances import DEAD_AFTER_MS
from receiver.ledger.postgres.connection import SCHEMA, Session, Statements

MIGRATIONS: tuple[str, ...] = ("schema.sql",)
"""Scripts beside this module. The first creates version 1, each further one migrates to the next version."""

OLDEST_SERVER = 14

CLOCK = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
"""The database's time in ms, of this moment: the transaction's own is from before it waited for the lock."""

TAKE_LOCK = f"SELECT pg_advisory_xact_lock({0x75707372_6C656467})"
"""Serialises all transactions that write; taken before any of them draws a number of a sequence.

So numbers become visible in the order of commits, and what reads the history by number skips none.
"""


def scripts() -> list[str]:
    """Return the migrations' SQL."""
    here = resources.files("receiver.ledger.postgres")
    return [here.joinpath(name).read_text(encoding="utf-8") for name in MIGRATIONS]


def prepare(
    session: Session,
    me: str,
    *,
    make: bool = True,
    migrate: bool = True,
    migrations: Sequence[str] | None = None,
) -> int:
    """Bring the schema to the present version, in one transaction; return the database's time.

    ``make``: create it where there is none; ``migrate``: an older one, too. Raise `LedgerError` else, and
    while another instance than this one runs on an older one.
    """
    migrations = scripts() if migrations is None else migrations
    (at,) = session.begin("read committed", TAKE_LOCK, f"SELECT {CLOCK}")
    db = session.statements
    check_server(db.db.info)
    present = version(db)
    if not (make if present == 0 else migrate and present <= len(migrations)):
        check_version(present)
    if present < len(migrations):
        if present > 0:
            _check_alone(db, me, at)
        elif db.execute("SELECT 1 FROM pg_namespace WHERE nspname = ?", (SCHEMA,)).fetchone() is None:
            db.run(f"CREATE SCHEMA {SCHEMA}")
        db.run(UNBOUNDED)
        for script in migrations[present:]:
            db.run(script)
        db.run("DELETE FROM schema_version")
        db.execute("INSERT INTO schema_version VALUES (?)", (len(migrations),))
    session.commit()
    return int(at)


UNBOUNDED = """SELECT set_config(name, '0', true) FROM pg_settings
    WHERE name IN ('statement_timeout', 'transaction_timeout')"""
"""An index of millions of jobs takes minutes."""


def _check_alone(db: Statements, me: str, at: int) -> None:
    live = db.execute(
        "SELECT name FROM instances WHERE id <> ? AND stopped = 0 AND heartbeat_at > ? ORDER BY name",
        (me, at - DEAD_AFTER_MS),
    ).fetchall()
    if live:
        raise LedgerError(
            "ledger.in_use",
            "The ledger in the database is of an older version, and an older program runs on it as"
            f" {', '.join(name for (name,) in live)}. Stop all of them, start one newer, then the others.",
        )


def version(db: Statements) -> int:
    """Return the schema's version, 0 where there is none."""
    (is_there,) = db.execute(f"SELECT to_regclass('{SCHEMA}.schema_version') IS NOT NULL").fetchone()
    row = db.execute("SELECT version FROM schema_version").fetchone() if is_there else None
    return 0 if row is None else int(row[0])


def check_version(present: int) -> None:
    """Raise `LedgerError` where a schema's version is not that of this program."""
    known = len(MIGRATIONS)
    found = f"The ledger in the database is of version {present};"
    if present == 0:
        found = "There is no ledger in the database; `receiver serve` makes one."
    elif present < known:
        found += f" `receiver serve` brings it to {known}."
    elif present > known:
        found += (
            f" this program knows {known}."
            " Start the newer program, or restore a backup from before the upgrade."
        )
    if present != known:
        raise LedgerError("ledger.newer" if present > known else "ledger.unavailable", found)


def check_present(db: Statements, **_: Any) -> bool:
    """Check the version; whether its pages are whole, only PostgreSQL's own tools can tell."""
    check_version(version(db))
    return True


def check_server(info: psycopg.ConnectionInfo) -> None:
    """Raise `LedgerError` where the ledger does not work on this server, or in this database."""
    number, encoding = info.server_version // 10_000, info.parameter_status("server_encoding")
    if number < OLDEST_SERVER:
        problem = f"The server is PostgreSQL {number}; {OLDEST_SERVER} is the oldest that works."
    elif encoding != "UTF8":
        problem = f"The database's encoding is {encoding}; the ledger needs one with UTF8."
    else:
        return
    raise LedgerError("ledger.unavailable", problem)
