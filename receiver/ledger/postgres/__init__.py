"""The ledger in a PostgreSQL database, which several receivers may share."""
