"""Maintenance of ledger and archive: audit, rebuild, migrate, retention."""
