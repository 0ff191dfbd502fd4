"""The ledger: the only SQL of the program, and the only writer of a state."""

from receiver.ledger.ledger import FILE_NAME, Ledger, LedgerView, monotonic_clock, wall_clock
from receiver.ledger.lock import DirectoryLock, ListLock
from receiver.ledger.queries import Filter, Page, Stats, UnreadDelivery, UnreadPage
from receiver.ledger.readings import COUNTED_TO, Readings
from receiver.ledger.rows import Intent, Silent
from receiver.ledger.schema import SAFE_SQLITE, unsafe_sqlite
from receiver.ledger.verbs import (
    ADOPTED,
    ASKED,
    FOUND,
    LATE,
    OTHER_URL,
    Answer,
    Claim,
    Delivery,
    Recorded,
    Submission,
)

__all__ = [
    "ADOPTED",
    "ASKED",
    "COUNTED_TO",
    "FILE_NAME",
    "FOUND",
    "LATE",
    "OTHER_URL",
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
    "Readings",
    "Recorded",
    "Silent",
    "Stats",
    "Submission",
    "UnreadDelivery",
    "UnreadPage",
    "monotonic_clock",
    "unsafe_sqlite",
    "wall_clock",
]
