"""Arguments and results of the ledger's commands and queries. Times are ms since the epoch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from receiver.core.completion import Completion
from receiver.core.jobs import Event, Job, State


@dataclass(frozen=True, slots=True)
class Delivery:
    """A completion, and how it came.

    Attributes:
        deadline: when the image URL expires.
        ref: the submitter's own reference.
        ticket: the number of the ticket that authenticated it.
        endpoint: such as ``upscale_2x``.
        found: whether the provider was asked for it, and did not deliver it.
        mark: the `Intent.mark` that came back with it.
    """

    completion: Completion
    body: bytes
    deadline: int
    ref: str | None = None
    ticket: str | None = None
    endpoint: str | None = None
    found: bool = False
    mark: str | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a delivery.

    Attributes:
        state: of the job now.
        duplicate: whether the delivery changed nothing.
        received_at: when the completion that counts was recorded.
        events: that the job's history got.
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
    """The provider's answer about a job that has not ended, or why there was none.

    Attributes:
        status: the provider's own word for the job's state.
        reason: one of ``errors.REASONS`` where there was no answer.
        detail: a sentence for the operator.
    """

    status: str | None = None
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a job until a lease ends.

    Attributes:
        holder: names the claim in the ledger.
        host: host and port of the job's image URL, empty where it has none.
    """

    job: Job
    holder: str
    host: str = ""


@dataclass(frozen=True, slots=True)
class HostLimits:
    """How many downloads of one host may run at a time.

    Attributes:
        running: downloads in progress, by host.
        most: of hosts for which it is another number than ``default``.
        share: of any host, while jobs of other hosts wait.
    """

    running: Mapping[str, int]
    most: Mapping[str, int]
    default: int
    share: int


@dataclass(frozen=True, slots=True)
class Intent:
    """What is about to be submitted, or was.

    Attributes:
        key: names one image of one list, or of one call.
        mark: is sent in a header, and found again in the provider's list.
        at: when it was first about to be sent.
        job: the provider's id of the job, once that is known.
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
    """A submitted job without a completion.

    Attributes:
        asks: how many requests to the provider found no completion.
        ask_at: when the next request is due.
        unanswered: whether the last request had no answer.
    """

    id: str
    submitted_at: int
    asks: int
    ask_at: int
    unanswered: bool


@dataclass(frozen=True, slots=True)
class Transition:
    """A history entry that created a job or changed its state; ``seq`` is the cursor of the change feed."""

    seq: int
    id: str
    ref: str | None
    event: Event


@dataclass(frozen=True, slots=True)
class TransitionPage:
    """A page of the change feed, oldest first.

    Attributes:
        until: the last entry that was read, whether or not it was a transition.
        more: whether there may be later entries.
        pruned: the last entry that was removed by now; 0 without one.
    """

    transitions: tuple[Transition, ...]
    until: int
    more: bool
    pruned: int


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification of a job that became final.

    Attributes:
        seq: the history entry in which it became final.
        job: the provider's id of the job.
        at: when it became final.
        attempts: that failed.
        detail: of the last failure.
    """

    seq: int
    job: str
    at: int
    body: bytes
    attempts: int
    detail: str | None
