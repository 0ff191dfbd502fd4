"""The receivers that share a ledger: who lives, who leads, and what becomes of the work of one that is dead.

All of them run these commands in transactions that follow each other, by the one clock of the ledger. An
instance is a data directory, and so a spool; its name is only for people, and may change.
"""

from collections.abc import Mapping
from typing import Any

from receiver.core.errors import LedgerError
from receiver.ledger.commands import claims
from receiver.ledger.commands.attempts import ERROR, NO_ERROR, NO_SUSPECT
from receiver.ledger.connection import Connection
from receiver.ledger.transaction import Transaction
from receiver.ledger.types import Beat, Buried, Instance, Member

BEAT_MS = 5_000
"""Between two heartbeats."""

DEAD_AFTER_MS = 55_000
"""Without a heartbeat for so long an instance is dead. Others look every 5 s, so they notice within 60 s."""

LEAD_MS = 20_000
"""How long a heartbeat of the leader lets it lead."""

SETTLED_MS = 3 * BEAT_MS
"""An instance lives for so long before it says that another is dead: after an outage of the database they all
come back, each at its own moment."""

FORGOTTEN_AFTER_MS = 24 * 3_600_000
"""When a dead instance is not listed any more, unless an image lies on its disk."""

BURIED_AT_A_TIME = 1_000
"""Images that are given to others in one transaction."""


def instances(db: Connection) -> tuple[Instance, ...]:
    """Return the receivers that share the ledger, by name, with what lies in their spools."""
    found = db.execute(
        "SELECT instances.name, version, started_at, heartbeat_at,"
        " CASE WHEN stopped = 0 THEN heartbeat_at + ? END AS lives_until, leader.until AS leads_until,"
        " coalesce(spools.jobs, 0) AS images, coalesce(spools.bytes, 0) AS bytes FROM instances"
        " LEFT JOIN leader ON leader.run = instances.run"
        " LEFT JOIN spools ON spools.instance = instances.id ORDER BY instances.name, started_at",
        (DEAD_AFTER_MS,),
    )
    return tuple(Instance(*row) for row in found)


def register(tx: Transaction, me: Member) -> list[str]:
    """Enter this process as its instance, and return the ids of jobs whose download its predecessor left.

    Raise ``ledger.in_use`` while another one has the name, or has the data directory under another name.
    """
    known = tx.db.execute("SELECT * FROM instances WHERE id = ? OR name = ?", (me.id, me.name)).fetchall()
    for row in known:
        lives = not row["stopped"] and tx.now - row["heartbeat_at"] < DEAD_AFTER_MS
        if lives and row["id"] != me.id:
            raise LedgerError(
                "ledger.in_use",
                f"Another receiver with another data directory is {me.name} on this ledger. Set"
                f" RECEIVER_INSTANCE to another name, or stop that one; killed, it keeps its name for"
                f" {DEAD_AFTER_MS // 1000} seconds.",
            )
        if lives and row["name"] != me.name:
            raise LedgerError(
                "ledger.in_use",
                f"A receiver with a copy of this data directory runs as {row['name']}. Give each a directory"
                f" of its own; if it was killed, start again after {DEAD_AFTER_MS // 1000} seconds.",
            )
    tx.db.execute(
        "INSERT INTO instances (id, name, run, version, started_at, heartbeat_at)"
        " VALUES (:id, :name, :run, :version, :now, :now)"
        " ON CONFLICT (id) DO UPDATE SET name = excluded.name, run = excluded.run,"
        " version = excluded.version, started_at = excluded.started_at, heartbeat_at = :now,"
        " stopped = 0, buried_at = NULL",
        {"id": me.id, "name": me.name, "run": me.run, "version": me.version, "now": tx.now},
    )
    interrupted = claims.release_all(tx, me.id)
    _take_back(tx, me.id)
    return interrupted


def beat(tx: Transaction, me: Member) -> Beat:
    """Note that this process lives, bury the dead, and lead where nobody else does.

    Raise ``ledger.in_use`` where a later process has taken over the data directory, or a copy of it.
    """
    own = tx.db.execute("SELECT * FROM instances WHERE id = ?", (me.id,)).fetchone()
    if own is None:  # a backup from before its start was restored
        register(tx, me)
        return Beat(_lead(tx, me), returned=True)
    if own["run"] != me.run:
        raise LedgerError(
            "ledger.in_use",
            "Another process has started with this data directory, or with a copy of it. This one takes no"
            " more deliveries, and is to be stopped.",
        )
    dead: list[Buried] = []
    if tx.now - own["heartbeat_at"] >= DEAD_AFTER_MS:
        # The database was away, or its clock was set: the others are heard of no later than this one.
        tx.db.execute("UPDATE instances SET heartbeat_at = ? WHERE buried_at IS NULL", (tx.now,))
    elif tx.now - own["started_at"] >= SETTLED_MS:
        silent = tx.db.execute(
            "SELECT id, name FROM instances WHERE buried_at IS NULL AND heartbeat_at <= ? AND id <> ?",
            (tx.now - DEAD_AFTER_MS, me.id),
        ).fetchall()
        dead = [_bury(tx, row["id"], row["name"]) for row in silent]
    tx.db.execute(
        # A heartbeat from the future, since the clock was set back, would let an instance live too long.
        "UPDATE instances SET heartbeat_at = :now, started_at = CASE WHEN started_at > :now THEN :now"
        " ELSE started_at END WHERE id = :id OR heartbeat_at > :now",
        {"id": me.id, "now": tx.now},
    )
    tx.db.execute("UPDATE instances SET buried_at = NULL, stopped = 0 WHERE id = ?", (me.id,))
    tx.db.execute(
        "DELETE FROM instances WHERE buried_at < ? AND id NOT IN (SELECT instance FROM away)"
        " AND id NOT IN (SELECT instance FROM spools WHERE jobs > 0)",
        (tx.now - FORGOTTEN_AFTER_MS,),
    )
    _take_back(tx, me.id)
    return Beat(_lead(tx, me), returned=own["buried_at"] is not None, dead=tuple(dead))


def resign(tx: Transaction, me: Member) -> None:
    """Let another instance lead at once, since this process stops in good order."""
    tx.db.execute("UPDATE leader SET until = 0 WHERE run = ?", (me.run,))
    tx.db.execute("UPDATE instances SET stopped = 1 WHERE id = ? AND run = ?", (me.id, me.run))


def next_call(tx: Transaction, name: str, interval: int) -> int:
    """Take the next moment for a call of this name, ``interval`` ms after the last one. Return when it is."""
    row = tx.db.execute("SELECT next_at FROM calls WHERE name = ?", (name,)).fetchone()
    # A moment that is far away was taken before the clock was set back.
    taken = tx.now if row is None or row["next_at"] > tx.now + CALLS_AHEAD_MS else row["next_at"]
    at = max(taken, tx.now)
    tx.db.execute(
        "INSERT INTO calls (name, next_at) VALUES (?, ?) ON CONFLICT (name) DO UPDATE"
        " SET next_at = excluded.next_at",
        (name, at + interval),
    )
    return int(at)


CALLS_AHEAD_MS = 3_600_000


def _lead(tx: Transaction, me: Member) -> int | None:
    """Lead, or go on leading, unless another process does; return the fence."""
    row = tx.db.execute("SELECT run, fence, until FROM leader WHERE name = 'leader'").fetchone()
    if row is not None and row["run"] != me.run and tx.now < row["until"] <= tx.now + LEAD_MS:
        return None
    fence = 1 if row is None else row["fence"] + (row["run"] != me.run)
    tx.db.execute(
        "INSERT INTO leader (name, run, fence, until) VALUES ('leader', ?, ?, ?) ON CONFLICT (name) DO UPDATE"
        " SET run = excluded.run, fence = excluded.fence, until = excluded.until",
        (me.run, fence, tx.now + LEAD_MS),
    )
    return int(fence)


def _bury(tx: Transaction, dead: str, name: str) -> Buried:
    """Void the claims of a dead instance, and let others fetch its images while their URLs live."""
    interrupted = claims.release_all(tx, dead)
    sent_back = _send_back(
        tx,
        name,
        "SELECT seq FROM jobs INDEXED BY jobs_by_state WHERE state = 'fetched' AND instance = :dead"
        " AND deadline > :now AND accepted IS NULL ORDER BY deadline LIMIT +:limit",
        {"dead": dead, "limit": BURIED_AT_A_TIME},
    )
    tx.changed += interrupted
    more = len(sent_back) == BURIED_AT_A_TIME
    if not more:
        tx.db.execute("UPDATE instances SET buried_at = ? WHERE id = ?", (tx.now, dead))
    left = tx.db.execute("SELECT jobs FROM spools WHERE instance = ?", (dead,)).fetchone()
    return Buried(name, len(interrupted), len(sent_back), 0 if left is None else left["jobs"], more)


def fetch_elsewhere(tx: Transaction, job_id: str) -> bool:
    """Let a job be fetched again whose image lies on the disk of another instance that does not run."""
    found = tx.db.execute(
        "SELECT jobs.seq, name FROM jobs JOIN instances ON instances.id = jobs.instance WHERE jobs.id = ?"
        " AND state = 'fetched' AND instance <> ? AND holder IS NULL AND buried_at IS NOT NULL",
        (job_id, tx.instance),
    ).fetchone()
    return found is not None and bool(_send_back(tx, found["name"], ":seq", {"seq": found["seq"]}))


def give_up_disk(tx: Transaction, name: str) -> list[str] | None:
    """Have the images on the disk of a dead instance fetched again, since that disk will not return.

    What can be fetched no more expires. Return the jobs' ids, or None where no dead instance has the name.
    """
    dead = tx.db.execute(
        "SELECT id FROM instances WHERE name = ? AND buried_at IS NOT NULL", (name,)
    ).fetchall()
    sent_back = []
    for (instance,) in dead:
        on_disk = (
            "SELECT seq FROM jobs INDEXED BY jobs_by_state WHERE state = 'fetched' AND instance = :instance"
        )
        sent_back += _send_back(tx, name, on_disk, {"instance": instance})
        tx.db.execute("DELETE FROM away WHERE instance = ?", (instance,))
    return [row["id"] for row in sent_back] if dead else None


def _send_back(tx: Transaction, name: str, chosen: str, values: Mapping[str, Any]) -> list[Any]:
    """Let others fetch images that lie on the disk of a dead instance of this name. Return their jobs."""
    sent_back = tx.change(
        f"UPDATE jobs SET state = 'received', event = 'instance_dead', {ERROR}, {NO_SUSPECT},"  # noqa: S608
        f" attempts = 0, next_attempt_at = NULL, updated_at = :now WHERE seq IN ({chosen}) RETURNING seq, id,"
        " instance",
        {
            "detail": f"The image is on the disk of {name}, which does not run. It is fetched again.",
            "reason": "ledger.instance_dead",
            "now": tx.now,
            **values,
        },
    )
    tx.db.executemany(
        "INSERT INTO away (job, instance) VALUES (?, ?)", [(row["seq"], row["instance"]) for row in sent_back]
    )
    return sent_back


def _take_back(tx: Transaction, instance: str) -> None:
    """Let an instance that is back go on with the images in its spool that nobody has fetched again."""
    tx.change(
        f"UPDATE jobs SET state = 'fetched', event = 'instance_back', {NO_ERROR}, {NO_SUSPECT},"  # noqa: S608
        " instance = :instance, attempts = 0, next_attempt_at = NULL,"
        " at_risk_at = NULL, updated_at = :now WHERE seq IN (SELECT job FROM away WHERE instance = :instance)"
        " AND state = 'received' AND holder IS NULL RETURNING id",
        {"instance": instance, "now": tx.now},
    )
