"""Finds jobs by a text: the begin of an id, of a reference, or of the host of one of their URLs.

Each way is bounded: of all ids, references and hosts that begin with the text only some are looked at. A
reference that is exactly the text, and each host, is followed to the end, however many jobs it has.
"""

from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import groupby, islice

from receiver.core.jobs import State
from receiver.ledger.commands.attempts import host_of
from receiver.ledger.connection import Connection

MOST = 1000
"""Ids, and references, that are looked at."""

MOST_HOSTS = 100

CHUNK = 64
"""Neighbouring jobs that share an entry in the table of hosts."""

NO_CHUNK = -1
"""A chunk without a job."""

FEW_CHUNKS, MOST_CHUNKS = 4, 16
"""Chunks that one query reads. Most often the first few have enough jobs for a page."""

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
    among = f"SELECT min({column}) FROM {source} WHERE {column}"  # noqa: S608 - constants
    rows = db.execute(
        f"WITH RECURSIVE found (value) AS ({among} >= ? AND {column} < ? UNION ALL"  # noqa: S608 - constants
        f" SELECT ({among} > found.value AND {column} < ?) FROM found WHERE found.value IS NOT NULL)"
        " SELECT value FROM found WHERE value IS NOT NULL LIMIT ?",
        (begin, begin + LAST, begin + LAST, most),
    )
    return [row["value"] for row in rows]


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
    one = (
        "SELECT seq FROM jobs WHERE seq >= ? AND seq < ? AND (host >= ? AND host < ?"
        " OR instr(source_url, '://') > 0"
        " AND lower(substr(source_url, instr(source_url, '://') + 3, CAST(? AS integer))) = ?)"
    )
    wanted = (begin, begin + LAST, len(begin), begin)
    chunks = _chunks(db, hosts, end // CHUNK + 1)
    size = FEW_CHUNKS
    while portion := list(islice(chunks, size)):
        portion += [NO_CHUNK] * (size - len(portion))  # so that few statements stay prepared
        values = [it for n in portion for it in (n * CHUNK, min((n + 1) * CHUNK, end), *wanted)]
        rows = db.execute(" UNION ALL ".join([one] * size), values)
        yield from sorted((row["seq"] for row in rows), reverse=True)
        size = min(2 * size, MOST_CHUNKS)


def _chunks(db: Connection, hosts: Sequence[str], end: int) -> Iterator[int]:
    one = (
        "SELECT chunk FROM (SELECT chunk FROM hosts WHERE host = ? AND chunk < ?"
        " ORDER BY chunk DESC LIMIT ?) AS of_host"
    )
    return _merged(db, one, [(host,) for host in hosts], end, FEW_CHUNKS)


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
