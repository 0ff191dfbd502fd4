"""The newer SQLite of two: Python's own and that of the package pysqlite3.

Python's module is linked to the system's SQLite, which on Debian and Ubuntu is for years older than
`schema.SAFE_SQLITE`. pysqlite3 is the same module with a recent SQLite inside; pyproject.toml says where it
is installed.

The whole program must take it from here: each copy of SQLite in a process takes its own locks on a file, and
when one of two copies closes the file, POSIX releases the locks of the other.
"""

import sqlite3
from typing import TYPE_CHECKING

if not TYPE_CHECKING:  # pysqlite3 has no types; its classes have the same names
    try:
        from pysqlite3 import dbapi2 as bundled
    except ImportError:
        pass
    else:
        if bundled.sqlite_version_info > sqlite3.sqlite_version_info:
            sqlite3 = bundled

__all__ = ["sqlite3"]
