"""Queries: what can be read from the ledger. Each is bounded by an index, however many jobs there are."""
