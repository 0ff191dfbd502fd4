"""A ledger's file that exists, for tests of something else than its making.

To make one takes three times the CPU of opening it: the structure is compared after each of its versions.
"""

import contextlib
import functools
import tempfile
from pathlib import Path

from receiver.ledger import FILE_NAME
from receiver.ledger.sqlite import schema
from receiver.ledger.sqlite.driver import sqlite3


def make_empty_ledger(folder: Path) -> Path:
    """Writes a ledger without a job into a folder, as a first start leaves it, and returns the folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / FILE_NAME
    file.touch(0o600, exist_ok=False)
    file.write_bytes(_empty())
    return folder


@functools.cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE_NAME
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            schema.prepare(db, path)
        return path.read_bytes()
