"""The versions of the ledger's schema in PostgreSQL: checks, and migrations."""

from collections.abc import Sequence
from importlib import resources

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
    check_server(db)
    present = version(db)
    if present == 0 and make:
        if db.execute("SELECT 1 FROM pg_namespace WHERE nspname = ?", (SCHEMA,)).fetchone() is None:
            db.run(f"CREATE SCHEMA {SCHEMA}")
    elif present == 0 or not migrate or present > len(migrations):
        check_version(present)
    elif present < len(migrations):
        _check_alone(db, me, at)
    if present < len(migrations):
        db.run(_UNBOUNDED)
        for script in migrations[present:]:
            db.run(script)
        db.run("DELETE FROM schema_version")
        db.execute("INSERT INTO schema_version VALUES (?)", (len(migrations),))
    session.commit()
    return int(at)


_UNBOUNDED = """SELECT set_config(name, '0', true) FROM pg_settings
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
    if present == 0:
        raise LedgerError(
            "ledger.unavailable", "There is no ledger in the database; `receiver serve` makes one."
        )
    if present > len(MIGRATIONS):
        raise LedgerError(
            "ledger.newer",
            f"The ledger in the database is of version {present}; this program knows {len(MIGRATIONS)}."
            " Start the newer program, or restore a backup from before the upgrade.",
        )
    if present < len(MIGRATIONS):
        raise LedgerError(
            "ledger.unavailable",
            f"The ledger in the database is of version {present};"
            f" `receiver serve` brings it to {len(MIGRATIONS)}.",
        )


def check_server(db: Statements) -> None:
    """Raise `LedgerError` where the ledger does not work on this server, or in this database."""
    query = "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_encoding')"
    number, encoding = db.execute(query).fetchone() or (0, "")
    if number < OLDEST_SERVER:
        raise LedgerError(
            "ledger.unavailable",
            f"The server is PostgreSQL {number}; {OLDEST_SERVER} is the oldest that works.",
        )
    if encoding != "UTF8":
        raise LedgerError(
            "ledger.unavailable", f"The database's encoding is {encoding}; the ledger needs one with UTF8."
        )
