"""The rules of Prometheus, from the receiver's own table of conditions."""

import json
from pathlib import Path

from receiver.alerts.rules import RULES, Rule

FILE = "deploy/prometheus/rules.yaml"
BEGIN = "      # From here on written by `python -m tools.reference`, from receiver/alerts/rules.toml.\n"
END = "      # Up to here.\n"


def page(root: Path) -> str:
    """Return the file, with the rules of the table between its marks."""
    text = (root / FILE).read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.partition(END)[2]
    return head + BEGIN + "\n" + "\n".join(map(_rule, RULES)) + "\n" + END + tail


def _rule(rule: Rule) -> str:
    wait = f"        for: {rule.wait}m\n" if rule.wait else ""
    return f"""\
      - alert: {rule.name}
        expr: {_expression(rule)}
{wait}\
        labels: {{severity: {rule.severity}}}
        annotations:
          summary: {json.dumps(rule.summary)}
          runbook: docs/operations/monitoring.md#{rule.name.lower()}
"""


def _expression(rule: Rule) -> str:
    """The condition in PromQL."""
    only = ",".join(
        f'{name}{"!=" if value[0] == "!" else "="}"{value.removeprefix("!")}"'
        for name, value in rule.only.items()
    )
    text = f"{rule.metric}{{{only}}}" if only else rule.metric
    if rule.whole is not None:
        text = f"{text} / ({text} + {rule.whole})"
    if rule.minutes is not None:
        function = "increase" if rule.metric.endswith("_total") else "delta"
        text = f"{function}({text}[{rule.minutes}m])"
    if rule.by is not None:
        text = f"sum by ({rule.by}) ({text})"
    return f"{text} > {rule.over:g}" if rule.over is not None else f"{text} == {rule.equals:g}"
