"""Arguments and results of the ledger's commands and queries.

Times are ms since the epoch. Fields that have the name of a field of `Job` mean the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from receiver.core.completion import Completion
from receiver.core.jobs import Event, Job, State


@dataclass(slots=True)  # a frozen one takes three times as long to make, and each delivery makes one
class Delivery:
    """A completion, and how it arrived: with a ticket of this number, or the `Intent.mark` that was sent.

    ``found``: the provider was asked for it, and did not deliver it. ``ref_dropped``: its reference was none.
    """

    completion: Completion
    body: bytes
    deadline: int
    ref: str | None = None
    ticket: str | None = None
    endpoint: str | None = None
    found: bool = False
    mark: str | None = None
    ref_dropped: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """The result of a delivery: the job's state, and the events that were added to its history.

    ``received_at`` is of the completion that counts; ``duplicate``: the delivery changed nothing.
    """

    state: State
    duplicate: bool
    received_at: int | None = field(default=None, compare=False)
    events: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that was submitted to the provider, by this program or by another."""

    id: str
    ref: str | None = None
    endpoint: str | None = None
    source_url: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The provider's own word for the state of a job that has not ended, or why there was no answer."""

    status: str | None = None
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a job until a lease ends; ``holder`` names the claim in the ledger.

    ``host`` is host and port of the job's image URL, empty where it has none.
    """

    job: Job
    holder: str
    host: str = ""


@dataclass(frozen=True, slots=True)
class HostLimits:
    """How many downloads of one host may run at a time.

    ``running`` are in progress, by host, ``retried`` of them are further attempts. ``most`` is for hosts of
    which it is another number than ``default``, ``share`` for any host while jobs of other hosts wait.
    """

    running: Mapping[str, int]
    retried: Mapping[str, int]
    most: Mapping[str, int]
    default: int
    share: int


@dataclass(frozen=True, slots=True)
class Intent:
    """A submission that is about to be sent, or was sent; ``at`` is the time of the first try.

    ``key`` names one image of one list, or of one call. ``mark`` is sent in a header, and found again in the
    provider's list.
    """

    key: str
    mark: str
    ref: str | None = None
    endpoint: str | None = None
    source_url: str | None = None
    at: int = 0
    job: str | None = None


@dataclass(frozen=True, slots=True)
class PendingJob:
    """A submitted job without a completion; ``asks`` requests to the provider found none.

    The next one is due at ``ask_at``; ``unanswered``: the last one had no answer.
    """

    id: str
    submitted_at: int
    asks: int
    ask_at: int
    unanswered: bool
    endpoint: str | None = None


class Transition(NamedTuple):
    """A history entry that created a job or changed its state; ``seq`` is the cursor of the change feed."""

    seq: int
    id: str
    ref: str | None
    event: Event


@dataclass(frozen=True, slots=True)
class TransitionPage:
    """A page of the change feed, oldest first, up to the last entry that was read, a transition or not.

    ``more``: there may be later ones. ``pruned`` is the last entry that was removed by now; 0 without one.
    """

    transitions: tuple[Transition, ...]
    until: int
    more: bool
    pruned: int


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification of a job that became final, with its failed attempts and the last one's detail.

    ``seq`` is the history entry in which the job became final, and ``at`` its time.
    """

    seq: int
    job: str
    at: int
    body: bytes
    attempts: int
    detail: str | None


@dataclass(frozen=True, slots=True)
class Member:
    """This process among those that share a ledger.

    ``id`` is of the data directory, empty where the ledger is never shared, ``name`` the one that people gave
    it, ``run`` of the process, ``version`` of the program.
    """

    id: str = ""
    name: str = ""
    run: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Buried:
    """What became of the work of a dead instance.

    Others take the downloads that were ``interrupted``. They fetch images in its spool again; there may be
    ``more``. The images whose URL has ended are ``waiting`` for its return.
    """

    name: str
    interrupted: int
    fetched_again: int
    waiting: int
    more: bool


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat found: ``dead`` instances, and whether others took this one for dead (``returned``).

    ``fence`` grows each time that another process leads; ``None`` where this one does not.
    """

    fence: int | None
    returned: bool = False
    dead: tuple[Buried, ...] = ()


@dataclass(frozen=True, slots=True)
class Instance:
    """A receiver that shares the ledger; ``images``, of so many ``bytes``, wait in its spool for the archive.

    It lives until ``lives_until`` unless it is heard of again; ``None`` after a stop in good order.
    ``leads_until`` is the same of the one that does what is done once for all.
    """

    name: str
    version: str
    started_at: int
    heartbeat_at: int
    lives_until: int | None
    leads_until: int | None
    images: int
    bytes: int

    def state(self, now: int) -> str:
        """Return ``live``, ``stopped`` or ``dead``."""
        if self.lives_until is None:
            return "stopped"
        return "live" if now < self.lives_until else "dead"

    def leads(self, now: int) -> bool:
        return self.leads_until is not None and now < self.leads_until


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a database of PostgreSQL's version ``server`` is, and what it does not allow.

    ``at`` is its time in ms since the epoch. ``missing`` are rights that this user does not have, such as
    ``INSERT on jobs``, ``unsafe`` settings by which a power cut loses what was committed. ``is_read_only``:
    nothing can be written, as on a standby.
    """

    server: str
    at: int
    missing: Sequence[str]
    unsafe: Sequence[str]
    is_read_only: bool
