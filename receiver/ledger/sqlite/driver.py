"""The SQLite that the ledger uses: the newer one of Python's own and of the package pysqlite3.

Python's module is linked to the SQLite of the system, which on Debian and Ubuntu is for years older than
`receiver.ledger.schema.SAFE_SQLITE`. pysqlite3 is the same module with a recent SQLite inside; pyproject.toml
says where it is installed.

All of this package takes it from here, and nothing else may: each copy of SQLite in a process takes locks of
its own on a file, and where one of two copies closes the file, POSIX takes the locks of the other away.
"""

import sqlite3
from typing import TYPE_CHECKING

if not TYPE_CHECKING:  # its errors and rows are other classes of the same kind, and it brings no types
    try:
        from pysqlite3 import dbapi2 as bundled
    except ImportError:
        pass
    else:
        if bundled.sqlite_version_info > sqlite3.sqlite_version_info:
            sqlite3 = bundled

__all__ = ["sqlite3"]
