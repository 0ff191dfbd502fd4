"""The ledger: the only SQL of the program, and the only writer of a state."""

from receiver.ledger.commands import (
    ADOPTED,
    ASKED,
    FOUND,
    LATE,
    OTHER_URL,
    OTHER_URLS,
    RECONCILED,
    Answer,
    Claim,
    Delivery,
    Recorded,
    Submission,
)
from receiver.ledger.ledger import FILE_NAME, Ledger, LedgerReader
from receiver.ledger.maintenance import REBUILT, RELOCATED, ArchivedJob, AuditFinding, Rebuilt
from receiver.ledger.notifications import COUNTER as NOTIFICATIONS
from receiver.ledger.notifications import OUTCOMES as NOTIFICATION_OUTCOMES
from receiver.ledger.overview import Overview
from receiver.ledger.queries import Filter, Page, Stats, UnreadDelivery, UnreadPage
from receiver.ledger.readings import COUNTED_TO, Gauges
from receiver.ledger.retention import PruneBatch, RecordKind
from receiver.ledger.sqlite.backup import Copy, back_up
from receiver.ledger.sqlite.lock import LOCK_NAME, DirectoryLock, ListLock, holder, open_for_owner
from receiver.ledger.sqlite.schema import SAFE_SQLITE, unsafe_sqlite
from receiver.ledger.types import Intent, Notification, PendingJob, Transition, TransitionPage

__all__ = [
    "ADOPTED",
    "ASKED",
    "COUNTED_TO",
    "FILE_NAME",
    "FOUND",
    "LATE",
    "LOCK_NAME",
    "NOTIFICATIONS",
    "NOTIFICATION_OUTCOMES",
    "OTHER_URL",
    "OTHER_URLS",
    "REBUILT",
    "RECONCILED",
    "RELOCATED",
    "SAFE_SQLITE",
    "Answer",
    "ArchivedJob",
    "AuditFinding",
    "Claim",
    "Copy",
    "Delivery",
    "DirectoryLock",
    "Filter",
    "Gauges",
    "Intent",
    "Ledger",
    "LedgerReader",
    "ListLock",
    "Notification",
    "Overview",
    "Page",
    "PendingJob",
    "PruneBatch",
    "Rebuilt",
    "RecordKind",
    "Recorded",
    "Stats",
    "Submission",
    "Transition",
    "TransitionPage",
    "UnreadDelivery",
    "UnreadPage",
    "back_up",
    "holder",
    "open_for_owner",
    "unsafe_sqlite",
]
