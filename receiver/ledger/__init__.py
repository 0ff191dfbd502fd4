"""The ledger: the only SQL of the program, and the only writer of a state."""

from receiver.ledger.ledger import FILE_NAME, Ledger, LedgerView, monotonic_clock, wall_clock
from receiver.ledger.lock import DirectoryLock, ListLock, holder
from receiver.ledger.queries import Filter, Page, Stats, UnreadDelivery, UnreadPage
from receiver.ledger.rows import Intent, Silent
from receiver.ledger.schema import SAFE_SQLITE, unsafe_sqlite
from receiver.ledger.verbs import Answer, Claim, Delivery, Recorded, Submission

__all__ = [
    "FILE_NAME",
    "SAFE_SQLITE",
    "Answer",
    "Claim",
    "Delivery",
    "DirectoryLock",
    "Filter",
    "Intent",
    "Ledger",
    "LedgerView",
    "ListLock",
    "Page",
    "Recorded",
    "Silent",
    "Stats",
    "Submission",
    "UnreadDelivery",
    "UnreadPage",
    "holder",
    "monotonic_clock",
    "unsafe_sqlite",
    "wall_clock",
]
