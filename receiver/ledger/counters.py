"""Durable counters of what happened, by name and reason."""

from receiver.ledger.transaction import Transaction

FOUND = "found"
"""Event and counter: the provider, when asked, had a completion that was not delivered."""

ADOPTED = "adopted"
"""Event and counter: the same, of a job that was not announced."""

LATE = "late"
"""Counter: a completion was delivered after it had been found."""

ASKED = "asked"
"""Counter: requests about pending jobs that found no completion, by the reason where there was no answer."""

RECONCILED = (ASKED, FOUND, LATE, ADOPTED)
"""All counters of reconciliation."""


def count(tx: Transaction, name: str, reason: str = "", by: int = 1) -> None:
    tx.db.execute(
        "INSERT INTO counters (name, reason, count) VALUES (?, ?, ?)"
        " ON CONFLICT (name, reason) DO UPDATE SET count = counters.count + excluded.count",
        (name, reason, by),
    )
