"""Lists the receivers that share a ledger."""

from receiver.ledger.commands.instances import DEAD_AFTER_MS
from receiver.ledger.connection import Connection
from receiver.ledger.types import Instance


def instances(db: Connection) -> tuple[Instance, ...]:
    """Return the receivers that share the ledger, by name, with what lies in their spools."""
    found = db.execute(
        "SELECT instances.name, version, started_at, heartbeat_at, stopped, leader.until AS leads_until,"
        " coalesce(spools.jobs, 0) AS images, coalesce(spools.bytes, 0) AS bytes FROM instances"
        " LEFT JOIN leader ON leader.run = instances.run"
        " LEFT JOIN spools ON spools.instance = instances.id ORDER BY instances.name, started_at"
    )
    return tuple(
        Instance(
            row["name"],
            row["version"],
            row["started_at"],
            row["heartbeat_at"],
            None if row["stopped"] else row["heartbeat_at"] + DEAD_AFTER_MS,
            row["leads_until"],
            row["images"],
            row["bytes"],
        )
        for row in found
    )
