#!/usr/bin/env bash
# SQLite since 3.47 plans a prepared statement anew at every execution where its LIMIT is a bound parameter.
#
# pysqlite3 0.6.1 (SQLite 3.53.4), and apsw 3.46.1.0, 3.47.2.0 and 3.51.1.0, each with the SQLite of its number; Python
# 3.11.7 on Linux, November 2026.
#
# The documentation of sqlite3_prepare_v3() names two kinds of parameters whose values make a statement be compiled
# again: those of LIKE and GLOB, and those compared to an indexed column with SQLITE_ENABLE_STAT4. All of them are in the
# WHERE clause. Since 3.47 a bare parameter behind LIMIT is a third one: caches of prepared statements, such as that of
# Python's sqlite3, save nothing for a page of a list. A sign before the parameter makes it an expression, whose value
# is not looked at. An authorizer, which is called while a statement is compiled, shows it.
#
# Output seen: which of three executions of one statement, with other values each, compiled it
#   SQLite 3.46.1, LIMIT ?: first
#   SQLite 3.46.1, LIMIT +?: first
#   SQLite 3.47.2, LIMIT ?: first, second, third
#   SQLite 3.47.2, LIMIT +?: first
#   SQLite 3.51.1, LIMIT ?: first, second, third
#   SQLite 3.51.1, LIMIT +?: first
#   SQLite 3.53.4, LIMIT ?: first, second, third
#   SQLite 3.53.4, LIMIT +?: first
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat >"$folder/look.py" <<'PYTHON'
import sys

if sys.argv[1] == "apsw":
    import apsw

    db = apsw.Connection(":memory:")
    version = apsw.sqlitelibversion()
else:
    from pysqlite3 import dbapi2

    db = dbapi2.connect(":memory:")
    version = dbapi2.sqlite_version

compiled = False


def note(*_):
    global compiled
    compiled = True
    return 0


db.execute("CREATE TABLE jobs (seq INTEGER PRIMARY KEY)")
if sys.argv[1] == "apsw":
    db.authorizer = note
else:
    db.set_authorizer(note)
for limit in ("LIMIT ?", "LIMIT +?"):
    found = []
    for name, value in (("first", 10), ("second", 20), ("third", 30)):
        compiled = False
        list(db.execute(f"SELECT seq FROM jobs ORDER BY seq {limit}", (value,)))
        found += [name] if compiled else []
    print(f"SQLite {version}, {limit}: {', '.join(found)}")
PYTHON
look() {
  "$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install "$1==$2"
  "$folder/venv/bin/python" "$folder/look.py" "$1"
}
seen=$(look apsw 3.46.1.0 && look apsw 3.47.2.0 && look apsw 3.51.1.0 && look pysqlite3 0.6.1)
echo "$seen"
wanted=$(sed -n 's/^#   SQLite/SQLite/p' "$0")
[ "$seen" = "$wanted" ]
