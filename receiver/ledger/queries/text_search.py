"""Finds jobs by a text: the begin of an id, of a reference, or of the host of one of their URLs.

Each way is bounded: of all ids, references and hosts that begin with the text only some are looked at. A
reference that is exactly the text, and each host, is followed to the end, however many jobs it has.
"""

import re
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import groupby

from receiver.core.jobs import State
from receiver.ledger.commands.attempts import host_of
from receiver.ledger.connection import Connection

MOST = 1000
"""Ids, and references, that are looked at."""

MOST_HOSTS = 100

CHUNK = 64
"""Neighbouring jobs that share an entry in the table of hosts."""

PORTION = 200
"""Positions that one query reads."""

LAST = "\U0010ffff"
"""After a prefix: the end of all that begins with it."""


def positions(db: Connection, text: str, end: int) -> tuple[Iterator[int], bool]:
    """Return the positions before ``end`` of jobs, newest first, and whether there may be others."""
    ids, more_ids = _of_ids(db, text)
    refs, more_refs = _beginning(db, "jobs INDEXED BY jobs_by_ref", "ref", text, "ref > ? AND ref < ?")
    host = host_of(text) or text.lower()
    hosts = distinct(db, "hosts", "host", begin=host, most=MOST_HOSTS + 1)
    known = sorted((seq for seq in {*ids, *refs} if seq < end), reverse=True)
    streams = merge(known, _of_ref(db, text, end), _of_hosts(db, host, hosts[:MOST_HOSTS], end), reverse=True)
    return (seq for seq, _ in groupby(streams)), more_ids or more_refs or len(hosts) > MOST_HOSTS


def distinct(db: Connection, source: str, column: str, *, begin: str = "", most: int = MOST) -> list[str]:
    """Return the values of an index's first column that begin with a text, by one look-up for each."""
    found: list[str] = []
    comparison, low = ">=", begin
    while len(found) < most:
        row = db.execute(
            f"SELECT {column} AS value FROM {source} WHERE {column} {comparison} ? AND {column} < ?"  # noqa: S608 - constants
            f" ORDER BY {column} LIMIT 1",
            (low, begin + LAST),
        ).fetchone()
        if row is None:
            break
        found.append(row["value"])
        comparison, low = ">", row["value"]
    return found


def _of_ids(db: Connection, text: str) -> tuple[list[int], bool]:
    """Find ids that begin with the text, also in lower case and after a provider's name."""
    providers = distinct(db, "jobs INDEXED BY jobs_by_provider", "provider")
    found: list[int] = []
    more = False
    for spelling in dict.fromkeys((text, text.lower())):
        for begin in (spelling, *(f"{name}:{spelling}" for name in providers)):
            seqs, cut = _beginning(db, "jobs", "id", begin, "id >= ? AND id < ?")
            found += seqs
            more |= cut
    return found, more


def _beginning(
    db: Connection, source: str, column: str, begin: str, condition: str
) -> tuple[list[int], bool]:
    # From the end: where names are numbered or dated, those are the newest.
    rows = db.execute(
        f"SELECT seq FROM {source} WHERE {condition} ORDER BY {column} DESC LIMIT ?",  # noqa: S608 - constants
        (begin, begin + LAST, MOST + 1),
    ).fetchall()
    return [row["seq"] for row in rows[:MOST]], len(rows) > MOST


def _of_ref(db: Connection, ref: str, end: int) -> Iterator[int]:
    one = (
        "SELECT seq FROM (SELECT seq FROM jobs INDEXED BY jobs_by_ref"
        " WHERE ref = ? AND state = ? AND seq < ? ORDER BY seq DESC LIMIT ?) AS of_state"
    )
    return _merged(db, one, [(ref, state.value) for state in State], end, PORTION)


def _of_hosts(db: Connection, begin: str, hosts: Sequence[str], end: int) -> Iterator[int]:
    escaped = re.sub("([%_!])", r"!\1", begin)
    like = f"%://{escaped}%"
    for chunk in _chunks(db, hosts, end // CHUNK + 1):
        rows = db.execute(
            "SELECT seq, image_url, source_url FROM jobs WHERE seq >= ? AND seq < ?"
            # Few jobs are like that; whether it is the host is seen below.
            " AND (lower(image_url) LIKE ? ESCAPE '!' OR lower(source_url) LIKE ? ESCAPE '!')"
            " ORDER BY seq DESC",
            (chunk * CHUNK, min((chunk + 1) * CHUNK, end), like, like),
        )
        for row in rows.fetchall():
            if any(host_of(url).startswith(begin) for url in (row["image_url"], row["source_url"]) if url):
                yield row["seq"]


def _chunks(db: Connection, hosts: Sequence[str], end: int) -> Iterator[int]:
    one = (
        "SELECT chunk FROM (SELECT chunk FROM hosts WHERE host = ? AND chunk < ?"
        " ORDER BY chunk DESC LIMIT ?) AS of_host"
    )
    # Most often the first four have enough jobs for a page.
    return _merged(db, one, [(host,) for host in hosts], end, 4)


def _merged(db: Connection, one: str, keys: Sequence[tuple[str, ...]], end: int, size: int) -> Iterator[int]:
    """Yield the numbers before ``end`` that a query finds for several keys, the largest first, each once."""
    query = f"{' UNION '.join([one] * len(keys))} ORDER BY 1 DESC LIMIT ?"
    while keys:
        values = [value for key in keys for value in (*key, end, size)]
        found = [row[0] for row in db.execute(query, (*values, size))]
        yield from found
        if len(found) < size:
            return
        end, size = found[-1], PORTION
