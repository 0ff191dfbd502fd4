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
        expr: {rule.expression}
{wait}\
        labels: {{severity: {rule.severity}}}
        annotations:
          summary: {json.dumps(rule.summary)}
          runbook: docs/operations/monitoring.md#{rule.name.lower()}
"""
