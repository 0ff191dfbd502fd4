"""The faults that the sandbox can simulate, and the random choice of the jobs and calls that meet them."""

import random
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Self, TypeVar

_XIMILAR, _REPLICATE, _FAL, _FREEPIK = (frozenset({it}) for it in ("ximilar", "replicate", "fal", "freepik"))
_SIGNERS = _REPLICATE | _FAL | _FREEPIK


class Fault(StrEnum):
    """A fault: its name as the value, what it does as the text, and the providers that know it."""

    text: str
    providers: frozenset[str]

    def __new__(cls, name: str, text: str, providers: frozenset[str] = _XIMILAR | _SIGNERS) -> Self:
        fault = str.__new__(cls, name)
        fault._value_ = name
        fault.text = text
        fault.providers = providers
        return fault


class JobFault(Fault):
    """How a job ends. Ximilar's page does not say whether a failed job calls the webhook."""

    RECORD = "record", "DONE, but the one record carries an error (Ximilar).", _XIMILAR
    FAILED = "failed", "Failed; without a completion (Ximilar), or with one (the others)."
    FAILED_TOLD = "failed_told", "FAILED, with a completion (Ximilar).", _XIMILAR
    LIMIT = "limit", "API_LIMIT_EXCEEDED, without a completion (Ximilar).", _XIMILAR
    UNSUPPORTED = "unsupported", "NOT_SUPPORTED, without a completion (Ximilar).", _XIMILAR
    RETRY = (
        "retry",
        "RETRY on the way to DONE (Ximilar); tried again inside, under another id (fal.ai).",
        _XIMILAR | _FAL,
    )
    CANCELED = "canceled", "Canceled while it runs (Replicate).", _REPLICATE
    ABORTED = "aborted", "Aborted before it begins (Replicate).", _REPLICATE
    STUCK = "stuck", "In progress for ever."


class OutputFault(Fault):
    """What a job that ended well has made."""

    SEVERAL = "several", "Three pictures (not Ximilar).", _SIGNERS
    MAPPED = "mapped", "Two pictures, by name (Replicate).", _REPLICATE
    VIDEO = "video", "A picture and a video (not Ximilar).", _SIGNERS
    PAYLOAD_ERROR = "payload_error", "No payload in the completion, but one for who asks (fal.ai).", _FAL


class ResultFault(Fault):
    """What the result's URL answers."""

    CUT = "cut", "Half the body that Content-Length promises."
    CORRUPT = "corrupt", "Wrong bytes, right length."
    WRONG_SIZE = "wrong_size", "Not the promised width and height."
    HTML = "html", "200 with an HTML page."
    EMPTY = "empty", "200 with no body."
    SLOW = "slow", "Drips at --slow-rate."
    FLAKY = "flaky", "503 for --flaky-times, then the image."
    BROKEN = "broken", "500, always."
    GONE = "gone", "Like an expired URL, from the start."
    MISSING = "missing", "404, always."
    STALE = "stale", "A dead URL in the completion; the API names a good one."


class CompletionFault(Fault):
    """How the completion is sent."""

    DROP = "drop", "Never sent."
    TWICE = "twice", "Sent twice, the second time signed anew."
    REPLAY = "replay", "Sent twice, with the same signature."
    LATE = "late", "Sent later than the job is DONE, by --late-by."
    REORDER = "reorder", "Sent after another job's."


class ProofFault(Fault):
    """What is wrong with the signatures of a job's deliveries."""

    ALTERED = "altered", "The body is altered behind the signature (not Ximilar).", _SIGNERS
    WRONG_SIGNATURE = "wrong_signature", "Signed with another key (not Ximilar).", _SIGNERS
    OLD_TIMESTAMP = "old_timestamp", "Signed an hour ago (not Ximilar).", _SIGNERS


class SubmitFault(Fault):
    """How a submit is answered; the job is created in any case."""

    EARLY = "early", "A submit's answer comes after its completion."
    LOST_ANSWER = "lost_answer", "A submit works, and is answered with 502."
    CUT_ANSWER = "cut_answer", "A submit works, and its answer breaks off."


class CallFault(Fault):
    """How a call of the API fails without any effect."""

    REFUSE = "refuse", "401 for a good token."
    THROTTLE = "throttle", "Too many requests (429)."
    OUTAGE = "outage", "Bad gateway (502)."


JOB_GROUPS = (JobFault, OutputFault, ResultFault, CompletionFault, ProofFault, SubmitFault)
GROUPS = (*JOB_GROUPS, CallFault)
FAULTS: Mapping[str, Fault] = {fault.value: fault for group in GROUPS for fault in group}

F = TypeVar("F", bound=Fault)

Plan = frozenset[Fault]
"""The faults of one job: at most one of each group."""


def plan_of(names: Collection[str], provider: str = "ximilar") -> Plan:
    """Return the plan with exactly these faults.

    Raises:
        ValueError: a name is unknown, also to the provider, or two faults are of one group.
    """
    known = {fault for group in JOB_GROUPS for fault in group}
    if unknown := sorted(set(names) - known):
        raise ValueError(f"no such fault: {', '.join(unknown)}")
    plan = frozenset(FAULTS[name] for name in names)
    check_provider(plan, provider)
    for group in JOB_GROUPS:
        if len(chosen := [fault for fault in group if fault in plan]) > 1:
            raise ValueError(f"these exclude each other: {', '.join(chosen)}")
    return plan


def check_provider(faults: Iterable[Fault], provider: str) -> None:
    """Raise `ValueError` if a provider does not know one of the faults."""
    for fault in faults:
        if provider not in fault.providers:
            raise ValueError(f"{provider} has no fault {fault}")


class Faults:
    """The share (0 to 1) of jobs, or of API calls, that meet each fault; 0 for those not named.

    A job meets at most one fault of each group, so the shares of a group add up to 1 at most.

    Raises:
        ValueError: a name is unknown, a share is not in 0 to 1, or a group's shares exceed 1.
    """

    def __init__(self, **shares: float) -> None:
        if unknown := sorted(shares.keys() - FAULTS):
            raise ValueError(f"no such fault: {', '.join(unknown)}")
        self._shares = shares
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share from 0 to 1, not {share}")
        for group in GROUPS:
            # The sum of decimal shares, such as ten times 0.1, may differ a little from 1.
            if sum(map(self.share, group)) > 1 + 1e-9:
                raise ValueError(f"together more than 1: {', '.join(group)}")

    @property
    def chosen(self) -> list[Fault]:
        return [FAULTS[name] for name, share in self._shares.items() if share]

    def share(self, fault: Fault) -> float:
        return self._shares.get(fault, 0.0)


class FaultPicker:
    """Chooses faults at random, the same in every run with the same seed; without one, runs differ.

    Each group has its own generator, so that calls of the API, whose number depends on timing, do not change
    the faults of jobs.
    """

    def __init__(self, faults: Faults, seed: int | None) -> None:
        self._faults = faults
        self._generators: dict[type[Fault], random.Random] = {
            group: random.Random(None if seed is None else f"{seed}/{group.__name__}")  # noqa: S311 - no secret
            for group in GROUPS
        }

    def plan(self) -> Plan:
        return frozenset(fault for group in JOB_GROUPS if (fault := self.pick(group)))

    def pick(self, group: type[F]) -> F | None:
        """Choose at most one fault of a group, each with the probability of its share."""
        point = self._generators[group].random()
        for fault in group:
            point -= self._faults.share(fault)
            if point < 0:
                return fault
        return None
