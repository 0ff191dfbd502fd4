"""Finds jobs by a text: the begin of an id, of a reference, or of the host of one of their URLs.

Each way is bounded: of all ids, references and hosts that begin with the text only some are looked at. A
reference that is exactly the text, and each host, is followed to the end, however many jobs it has.
"""

import json
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import groupby, islice, takewhile

from receiver.core.jobs import State
from receiver.ledger.commands.attempts import host_of
from receiver.ledger.connection import Connection

MOST = 1000
"""Ids, and references, that are looked at."""

MOST_HOSTS = 100

CHUNK = 16
"""Neighbouring jobs that share an entry in the table of hosts."""

FEW_CHUNKS, MOST_CHUNKS = 8, 128
"""Chunks that are looked at together: the first few have enough jobs for a page of all states."""

PORTION = 200
"""Positions that one query reads."""

LAST = "\U0010ffff"
"""After a prefix: the end of all that begins with it."""


def positions(
    db: Connection, text: str, end: int, states: Sequence[State]
) -> tuple[Iterator[int], int | None, bool]:
    """Return the positions before ``end`` of jobs, newest first, and whether there may be others.

    Of what is found by reference or host, only jobs of these states, if any, are returned; then the second
    value is a position that all found ones are not before, and where to look further.
    """
    known, is_ref, more = _of_names(db, text)
    host = host_of(text) or text.lower()
    hosts = distinct(db, "hosts", "host", begin=host, most=MOST_HOSTS + 1)
    chunks = _chunks(db, hosts[:MOST_HOSTS], end // CHUNK + 1)
    low = None
    if states:
        looked_at = list(islice(chunks, MOST_CHUNKS))
        low = looked_at[-1] * CHUNK if len(looked_at) == MOST_CHUNKS else None
        chunks = iter(looked_at)
    named = sorted((seq for seq in known if seq < end), reverse=True)
    of_ref = _of_ref(db, text, end, states) if is_ref else ()
    of_hosts = _of_hosts(db, host, chunks, end, states)
    found = (seq for seq, _ in groupby(merge(named, of_ref, of_hosts, reverse=True)))
    return takewhile(lambda seq: seq >= (low or 0), found), low, more or len(hosts) > MOST_HOSTS


def distinct(db: Connection, source: str, column: str, *, begin: str = "", most: int = MOST) -> list[str]:
    """Return the values of an index's first column that begin with a text, by one look-up for each."""
    among = f"SELECT min({column}) FROM {source} WHERE {column}"  # noqa: S608 - constants
    rows = db.execute(
        f"WITH RECURSIVE found (value) AS ({among} >= ? AND {column} < ? UNION ALL"  # noqa: S608 - constants
        f" SELECT ({among} > found.value AND {column} < ?) FROM found WHERE found.value IS NOT NULL)"
        " SELECT value FROM found WHERE value IS NOT NULL LIMIT +?",
        (begin, begin + LAST, begin + LAST, most),
    )
    return [row["value"] for row in rows]


def _of_names(db: Connection, text: str) -> tuple[set[int], bool, bool]:
    """Find ids and references that begin with the text; ids also in lower case or after a provider's name.

    Return also whether a reference is the text, and whether there are more than were looked at.
    """
    providers = distinct(db, "jobs INDEXED BY jobs_by_provider", "provider")
    spellings = dict.fromkeys((text, text.lower()))
    ids = [begin for each in spellings for begin in (each, *(f"{name}:{each}" for name in providers))]
    # From the end: where names are numbered or dated, those are the newest.
    of_id = "jobs WHERE id >= ? AND id < ? ORDER BY id DESC"
    of_ref = "jobs INDEXED BY jobs_by_ref WHERE ref > ? AND ref < ? ORDER BY ref DESC"
    is_ref = "jobs INDEXED BY jobs_by_ref WHERE ref >= ? AND ref <= ?"
    query = " UNION ALL ".join(
        # A row for each position takes three times as long.
        "SELECT count(*), group_concat(CAST(seq AS text), ',')"  # noqa: S608 - constants
        f" FROM (SELECT seq FROM {source} LIMIT +?) AS part_{n}"
        for n, source in enumerate((is_ref, of_ref, *[of_id] * len(ids)))
    )
    values = [value for begin in (text, *ids) for value in (begin, begin + LAST, MOST + 1)]
    (refs, _), *found = db.execute(query, (text, text, 1, *values)).fetchall()
    listed = ",".join(positions for _, positions in found if positions)
    return set(json.loads(f"[{listed}]")), refs > 0, any(number > MOST for number, _ in found)


def _of_ref(db: Connection, ref: str, end: int, states: Sequence[State]) -> Iterator[int]:
    one = (
        "SELECT seq FROM (SELECT seq FROM jobs INDEXED BY jobs_by_ref"
        " WHERE ref = ? AND state = ? AND seq < ? ORDER BY seq DESC LIMIT +?) AS of_state"
    )
    return _merged(db, one, [(ref, state.value) for state in states or State], end, PORTION)


def _of_hosts(
    db: Connection, begin: str, chunks: Iterator[int], end: int, states: Sequence[State]
) -> Iterator[int]:
    of_states = f"state IN ({', '.join('?' * len(states))}) AND" if states else ""
    source = f"jobs{' INDEXED BY jobs_by_state' if states else ''}"
    wanted = (*states, begin, begin + LAST, len(f"://{begin}"), f"://{begin}")
    size = MOST_CHUNKS if states else FEW_CHUNKS
    while portion := list(islice(chunks, size)):
        ranges = _ranges(portion)
        # A power of two of them, so that few statements stay prepared.
        ranges += [(0, 0)] * ((1 << (len(ranges) - 1).bit_length()) - len(ranges))
        rows = db.execute(
            f"SELECT seq FROM (VALUES {', '.join(['(?, ?)'] * len(ranges))}) AS ranges CROSS JOIN {source}"  # noqa: S608
            f" WHERE seq >= column1 AND seq < column2 AND {of_states} (host >= ? AND host < ?"
            " OR lower(substr(source_url, instr(source_url, '://'), CAST(? AS integer))) = ?)",
            (*(it for low, high in ranges for it in (low, min(high, end))), *wanted),
        )
        yield from sorted((seq for (seq,) in rows), reverse=True)
        size = min(2 * size, MOST_CHUNKS)


def _ranges(chunks: Sequence[int]) -> list[tuple[int, int]]:
    """Return the positions that are in chunks, the newest first, as ranges with an end."""
    ranges: list[tuple[int, int]] = []
    for chunk in chunks:
        low, high = chunk * CHUNK, (chunk + 1) * CHUNK
        if ranges and ranges[-1][0] == high:
            high = ranges.pop()[1]
        ranges.append((low, high))
    return ranges


def _chunks(db: Connection, hosts: Sequence[str], end: int) -> Iterator[int]:
    one = (
        "SELECT chunk FROM (SELECT chunk FROM hosts WHERE host = ? AND chunk < ?"
        " ORDER BY chunk DESC LIMIT +?) AS of_host"
    )
    return _merged(db, one, [(host,) for host in hosts], end, FEW_CHUNKS)


def _merged(db: Connection, one: str, keys: Sequence[tuple[str, ...]], end: int, size: int) -> Iterator[int]:
    """Yield the numbers before ``end`` that a query finds for several keys, the largest first."""
    query = f"{' UNION ALL '.join([one] * len(keys))} ORDER BY 1 DESC LIMIT +?"
    while keys:
        values = [value for key in keys for value in (*key, end, size)]
        found = [row[0] for row in db.execute(query, (*values, size))]
        yield from dict.fromkeys(found)
        if len(found) < size:
            return
        end, size = found[-1], PORTION
