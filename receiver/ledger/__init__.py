"""The ledger: the only SQL of the program, and the only writer of a state."""

from receiver.ledger.archived_objects import RELOCATED, ArchivedJob, AuditFinding
from receiver.ledger.commands.deliveries import OTHER_URL, OTHER_URLS
from receiver.ledger.commands.rebuild import REBUILT, Rebuilt
from receiver.ledger.counters import RECONCILED
from receiver.ledger.ledger import Ledger, LedgerReader
from receiver.ledger.notifications import COUNTER as NOTIFICATIONS
from receiver.ledger.notifications import OUTCOMES as NOTIFICATION_OUTCOMES
from receiver.ledger.queries.aggregates import COUNTED_TO, Stats
from receiver.ledger.queries.dashboard import Overview
from receiver.ledger.queries.search import Filter
from receiver.ledger.retention import RecordKind
from receiver.ledger.sqlite.backup import Copy, back_up
from receiver.ledger.sqlite.database import FILE_NAME
from receiver.ledger.sqlite.lock import LOCK_NAME, DirectoryLock, ListLock, holder, open_for_owner
from receiver.ledger.sqlite.schema import SAFE_SQLITE, unsafe_sqlite
from receiver.ledger.types import (
    Answer,
    Claim,
    Delivery,
    HostLimits,
    Intent,
    Notification,
    PendingJob,
    Recorded,
    Submission,
    Transition,
)

__all__ = [
    "COUNTED_TO",
    "FILE_NAME",
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
    "HostLimits",
    "Intent",
    "Ledger",
    "LedgerReader",
    "ListLock",
    "Notification",
    "Overview",
    "PendingJob",
    "Rebuilt",
    "RecordKind",
    "Recorded",
    "Stats",
    "Submission",
    "Transition",
    "back_up",
    "holder",
    "open_for_owner",
    "unsafe_sqlite",
]
