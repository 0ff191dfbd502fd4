"""Looks at a database for `receiver doctor`: what it is, and what it does not allow."""

from receiver.core.ledger_location import LedgerLocation
from receiver.ledger.postgres import schema
from receiver.ledger.postgres.connection import SCHEMA, Session
from receiver.ledger.types import Inspection


async def inspect(location: LedgerLocation) -> Inspection:
    """Connect, and look. Raise `LedgerError` where that is not possible, or the server too old."""
    session = Session(location.url or "", location.instance)
    try:
        return await session.run(_inspect)
    finally:
        await session.close()


def _inspect(session: Session) -> Inspection:
    session.begin("read committed")
    db = session.statements
    schema.check_server(db.db.info)
    row = db.execute(
        "SELECT current_setting('server_version') AS server,"
        f" current_setting('transaction_read_only') AS read_only, {schema.CLOCK} AS at"
    ).fetchone()
    assert row is not None
    rights = _RIGHTS if schema.version(db) else _RIGHT_TO_CREATE
    unsafe = "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'"
    return Inspection(
        row["server"].split()[0],
        row["at"],
        [missing for (missing,) in db.execute(rights)],
        [name for (name,) in db.execute(unsafe)],
        is_read_only=row["read_only"] == "on",
    )


_RIGHT_TO_CREATE = (
    "SELECT 'CREATE on the database' WHERE NOT has_database_privilege(current_database(), 'CREATE')"
    f" AND NOT coalesce(has_schema_privilege(to_regnamespace('{SCHEMA}'), 'CREATE'), false)"
)
_RIGHTS = (
    "SELECT wanted || ' on ' || tablename FROM pg_tables,"  # noqa: S608 - a constant
    " unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS wanted"
    f" WHERE schemaname = '{SCHEMA}'"
    f" AND NOT has_table_privilege(format('{SCHEMA}.%I', tablename), wanted) ORDER BY 1"
)
