#!/bin/sh
# Run once by the image of PostgreSQL, on an empty volume: a role for the receivers that owns its database, and is no
# superuser. The password is a file, which psql reads itself, so that no process list shows it.
set -eu
psql --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\set password `cat "$LEDGER_PASSWORD_FILE"`
CREATE ROLE receiver LOGIN PASSWORD :'password';
CREATE DATABASE receiver OWNER receiver;
REVOKE ALL ON DATABASE receiver FROM PUBLIC;
SQL
