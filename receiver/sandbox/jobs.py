"""What a provider was asked to do, and how far it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Generic, TypeVar

from receiver.sandbox.faults import Plan
from receiver.sandbox.upscale import Upscaled, Upscaling

Clock = Callable[[], float]
"""Seconds since the epoch."""


class State(StrEnum):
    """How far a job is. Each provider has words of its own for them."""

    WAITING = "waiting"
    WORKING = "working"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    ABORTED = "aborted"


ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELED, State.ABORTED})


class Event(StrEnum):
    """A moment at which a provider may call the webhook."""

    STARTED = "started"
    OUTPUT = "output"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A valid submit.

    Attributes:
        source: the picture's URL; ``None`` if the body of the submit holds the picture itself.
        headers: those of the calls of the webhook.
        plan: the faults that the submit itself names.
    """

    source: str | None
    upscaling: Upscaling
    webhook: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    plan: Plan | None = None


OrderT = TypeVar("OrderT", bound=Order)


@dataclass(slots=True)
class Output:
    """One result of a job.

    Attributes:
        url: where it is at present; ``None`` if it is not given out.
        announced_url: the URL in the completion.
    """

    file: Upscaled
    url: str | None = None
    announced_url: str | None = None


@dataclass(slots=True)
class Job(Generic[OrderT]):
    """One job.

    Attributes:
        base_url: the sandbox's address as the submitter used it, without a trailing slash.
        created, started, ended, modified: seconds since the epoch.
    """

    id: str
    order: OrderT
    plan: Plan
    base_url: str
    created: float
    modified: float
    state: State = State.WAITING
    started: float | None = None
    ended: float | None = None
    error: str | None = None
    outputs: list[Output] = field(default_factory=list)
    downloads: int = 0


def timestamp(seconds: float | None) -> str | None:
    """Format a time in UTC, always with microseconds, and a Z."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
