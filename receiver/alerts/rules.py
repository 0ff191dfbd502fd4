"""The conditions that somebody should know of, over the metrics of ``GET /metrics``.

``rules.toml`` has them all. They are the rules of Prometheus, too: ``python -m tools.reference`` writes them
into ``deploy/prometheus/rules.yaml``. docs/operations/monitoring.md says at length what to do about each.
"""

import re
import tomllib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Literal

from prometheus_client import Metric

from receiver.alerts.states import MINUTE

Labels = tuple[tuple[str, str], ...]
"""Names and values of a series, sorted by name."""

Samples = Mapping[str, Mapping[Labels, float]]
"""The series of each metric at one moment."""

_VALUE = re.compile(r"\{\{ \$value( \| humanizePercentage)?[^}]*\}\}")
_LABEL = re.compile(r"\{\{ \$labels\.(\w+) \}\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One condition: a metric beyond a limit for some minutes.

    Attributes:
        severity: ``page``: an image is in danger, or soon will be; ``ticket``: look at it in the next days.
        summary: for people, in the templates of Prometheus: ``{{ $value }}`` and ``{{ $labels.NAME }}``.
        what_to_do: in a sentence.
        page: what of the status page shows more.
        only: what the labels must be, or with ``!`` before it must not be.
        whole: if set, the metric counts as its share of the sum with this other one.
        minutes: if set, what counts is by how much it rose in so many minutes.
        by: the only label that tells series apart; the others are added up.
        wait: minutes for which it must hold.
    """

    name: str
    severity: Literal["page", "ticket"]
    metric: str
    over: float | None = None
    equals: float | None = None
    only: Mapping[str, str] = field(default_factory=dict)
    whole: str | None = None
    minutes: int | None = None
    by: str | None = None
    wait: int = 0
    summary: str
    what_to_do: str
    page: str = "/"

    @property
    def title(self) -> str:
        """The name in words."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.name).capitalize()

    def values(self, samples: Samples) -> dict[Labels, float] | None:
        """Return what is compared or, with ``minutes``, what must have risen; ``None`` if it is not known."""
        if self.metric not in samples or (self.whole is not None and self.whole not in samples):
            return None
        found: dict[Labels, float] = {}
        for labels, value in samples[self.metric].items():
            given = dict(labels)
            if all(
                given.get(name) != wanted[1:] if wanted[0] == "!" else given.get(name) == wanted
                for name, wanted in self.only.items()
            ):
                kept = tuple(pair for pair in labels if self.by in (None, pair[0]))
                found[kept] = found.get(kept, 0) + value
        if self.whole is not None:
            rest = samples[self.whole][()]
            return {labels: part / (part + rest) if part + rest else 0 for labels, part in found.items()}
        return found

    def is_beyond(self, value: float) -> bool:
        return value > self.over if self.over is not None else value == self.equals

    def text(self, value: float, labels: Labels) -> str:
        """Return the summary with its value and labels."""
        given = dict(labels)
        text = _VALUE.sub(lambda match: f"{value:.0%}" if match[1] else f"{value:.0f}", self.summary)
        return _LABEL.sub(lambda match: given.get(match[1], ""), text)


_TABLE = tomllib.loads(resources.files(__package__).joinpath("rules.toml").read_text("utf-8"))
RULES: Sequence[Rule] = [Rule(name=name, **row) for name, row in _TABLE.items()]


class Rises:
    """What metrics were before, so that their rise is known. After a start it is counted from there on."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[int, dict[Labels, float]]]] = {}

    def since(self, rule: Rule, values: dict[Labels, float], now: int) -> dict[Labels, float]:
        """Note the values at ``now`` (ms), and return by how much each rose in the rule's minutes."""
        assert rule.minutes is not None
        seen = self._seen.setdefault(rule.name, deque())
        seen.append((now, values))
        begin = now - rule.minutes * MINUTE
        while len(seen) > 1 and seen[1][0] <= begin:
            seen.popleft()
        return {labels: value - seen[0][1].get(labels, 0) for labels, value in values.items()}


def samples_of(families: Sequence[Metric]) -> Samples:
    """Return the samples of metrics, by the names that rules use."""
    found: dict[str, dict[Labels, float]] = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found
