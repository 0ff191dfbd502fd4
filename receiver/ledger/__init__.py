"""The ledger: the only SQL of the program, and the only writer of a state."""

from receiver.ledger.ledger import FILE_NAME, Ledger, LedgerView, monotonic_clock, wall_clock
from receiver.ledger.lock import DirectoryLock, ListLock
from receiver.ledger.notifications import COUNTER as NOTIFICATIONS
from receiver.ledger.notifications import OUTCOMES as NOTIFICATION_OUTCOMES
from receiver.ledger.queries import Filter, Page, Stats, UnreadDelivery, UnreadPage
from receiver.ledger.rows import Intent, Notification, Silent, Stretch, Transition
from receiver.ledger.schema import SAFE_SQLITE, unsafe_sqlite
from receiver.ledger.verbs import Answer, Claim, Delivery, Recorded, Submission

__all__ = [
    "FILE_NAME",
    "NOTIFICATIONS",
    "NOTIFICATION_OUTCOMES",
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
    "Notification",
    "Page",
    "Recorded",
    "Silent",
    "Stats",
    "Stretch",
    "Submission",
    "Transition",
    "UnreadDelivery",
    "UnreadPage",
    "monotonic_clock",
    "unsafe_sqlite",
    "wall_clock",
]
