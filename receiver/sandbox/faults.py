"""What can go wrong, by name, and the dice that decide for which job it does."""

import random
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar


class JobFault(StrEnum):
    """How a job ends, or does not. The provider's page does not say whether a failed one calls back."""

    RECORD = "record"
    """DONE, with a completion, but its one record carries a status code other than 200."""
    FAILED = "failed"
    """FAILED, and nobody is told."""
    FAILED_TOLD = "failed_told"
    """FAILED, and the webhook is told."""
    LIMIT = "limit"
    """API_LIMIT_EXCEEDED, and nobody is told."""
    UNSUPPORTED = "unsupported"
    """NOT_SUPPORTED, and nobody is told."""
    RETRY = "retry"
    """RETRY for a while instead of PROCESSING, then DONE."""
    STUCK = "stuck"
    """PROCESSING for ever."""


class ResultFault(StrEnum):
    """What the result's URL gives."""

    CUT = "cut"
    """The whole Content-Length is promised, half of it comes."""
    CORRUPT = "corrupt"
    """The right number of bytes, some of them wrong."""
    WRONG_SIZE = "wrong_size"
    """A sound image of the source's width and height instead of the promised ones."""
    HTML = "html"
    """200 with an HTML page."""
    EMPTY = "empty"
    """200 with no body."""
    SLOW = "slow"
    """The bytes drip."""
    FLAKY = "flaky"
    """503 the first times, then the image."""
    BROKEN = "broken"
    """500, always."""
    GONE = "gone"
    """403, as after its lifetime."""
    MISSING = "missing"
    """404."""
    STALE = "stale"
    """403 at the URL in the completion, while ``GET /request/{id}`` names another one that works."""


class CompletionFault(StrEnum):
    """How the completion travels."""

    DROP = "drop"
    """It is never sent."""
    TWICE = "twice"
    """It is sent twice."""
    LATE = "late"
    """It is sent long after the job was done."""
    REORDER = "reorder"
    """It waits until another job's completion has overtaken it."""


class SubmitFault(StrEnum):
    """How the answer to a submit travels; the job exists in any case."""

    EARLY = "early"
    """The completion comes before the answer."""
    LOST_ANSWER = "lost_answer"
    """The answer is a 502."""
    CUT_ANSWER = "cut_answer"
    """The connection ends amid the answer."""


class CallFault(StrEnum):
    """How a call of the API fails without having done anything."""

    REFUSE = "refuse"
    """401, although the token is right."""
    THROTTLE = "throttle"
    """429."""
    OUTAGE = "outage"
    """502, with a gateway's HTML page."""


F = TypeVar("F", JobFault, ResultFault, CompletionFault, SubmitFault, CallFault)


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes wrong with one job: of each group at most one."""

    job: JobFault | None = None
    result: ResultFault | None = None
    completion: CompletionFault | None = None
    submit: SubmitFault | None = None


def plan_of(names: Collection[str]) -> Plan:
    """The plan with exactly the faults of these names.

    Raises:
        ValueError: a name is unknown, or two are of one group.
    """
    known: set[str] = set().union(*map(_names, (JobFault, ResultFault, CompletionFault, SubmitFault)))
    if unknown := sorted(set(names) - known):
        raise ValueError(f"no such fault: {', '.join(unknown)}")
    return Plan(
        job=_only(JobFault, names),
        result=_only(ResultFault, names),
        completion=_only(CompletionFault, names),
        submit=_only(SubmitFault, names),
    )


def _names(group: type[StrEnum]) -> set[str]:
    return {fault.value for fault in group}


def _only(group: type[F], names: Collection[str]) -> F | None:
    chosen = [fault for fault in group if fault.value in names]
    if len(chosen) > 1:
        raise ValueError(f"these exclude each other: {', '.join(chosen)}")
    return chosen[0] if chosen else None


@dataclass(frozen=True, slots=True)
class Faults:
    """The share (0 to 1) of jobs, or of API calls, that each fault befalls. The fields are the faults' names.

    Of one group a job meets at most one fault, so the shares of a group add up to 1 at most.

    Raises:
        ValueError: a share is not in 0 to 1, or a group's shares exceed 1.
    """

    record: float = 0.0
    failed: float = 0.0
    failed_told: float = 0.0
    limit: float = 0.0
    unsupported: float = 0.0
    retry: float = 0.0
    stuck: float = 0.0

    cut: float = 0.0
    corrupt: float = 0.0
    wrong_size: float = 0.0
    html: float = 0.0
    empty: float = 0.0
    slow: float = 0.0
    flaky: float = 0.0
    broken: float = 0.0
    gone: float = 0.0
    missing: float = 0.0
    stale: float = 0.0

    drop: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    reorder: float = 0.0

    early: float = 0.0
    lost_answer: float = 0.0
    cut_answer: float = 0.0

    refuse: float = 0.0
    throttle: float = 0.0
    outage: float = 0.0

    def __post_init__(self) -> None:
        for group in (JobFault, ResultFault, CompletionFault, SubmitFault, CallFault):
            for name in _names(group):
                if not 0 <= self.share(name) <= 1:
                    raise ValueError(f"{name} is a share from 0 to 1, not {self.share(name)}")
            # Decimal shares such as ten times 0.1 add up to 1 only nearly.
            if sum(self.share(name) for name in _names(group)) > 1 + 1e-9:
                raise ValueError(f"together more than 1: {', '.join(group)}")

    def share(self, name: str) -> float:
        """The share of the fault of this name."""
        share: float = getattr(self, name)
        return share


class Dice:
    """Decides by chance, and alike in every run of one seed.

    Each group has a generator of its own, so that calls of the API, whose number depends on timing, do not
    change what befalls the jobs.

    Args:
        faults: the shares.
        seed: any number for runs that repeat; None for runs that do not.
    """

    def __init__(self, faults: Faults, seed: int | None) -> None:
        self._faults = faults
        self._seed = seed
        self._generators: dict[str, random.Random] = {}

    def plan(self) -> Plan:
        """What goes wrong with the next job."""
        return Plan(
            job=self.throw(JobFault),
            result=self.throw(ResultFault),
            completion=self.throw(CompletionFault),
            submit=self.throw(SubmitFault),
        )

    def throw(self, group: type[F]) -> F | None:
        """At most one fault of the group, each with the probability that is its share."""
        point = self._generator(group.__name__).random()
        for fault in group:
            point -= self._faults.share(fault.value)
            if point < 0:
                return fault
        return None

    def _generator(self, name: str) -> random.Random:
        if name not in self._generators:
            seed = None if self._seed is None else f"{self._seed}/{name}"
            self._generators[name] = random.Random(seed)  # noqa: S311 - chance for trials, not for secrets
        return self._generators[name]
