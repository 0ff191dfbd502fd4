"""The ledger's file: connections, schema, lock and backup of SQLite."""
