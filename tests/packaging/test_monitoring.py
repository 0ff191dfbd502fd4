"""Alert rules and dashboard: read by promtool, resting on metrics that exist, each alert explained."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.metric_names import METRICS
from tests.support.processes import Programs, settings

ROOT = Path(__file__).resolve().parents[2]
RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())["groups"][
    0
]["rules"]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/dashboard.json").read_text())
EXPLAINED = (ROOT / "docs/operations/monitoring.md").read_text()
HISTOGRAM = re.compile(r"_(?:bucket|sum|count)$")


def promtool() -> str:
    """Where it is; the test is skipped where tools/promtool could not bring it."""
    found = shutil.which("promtool", path=f"{ROOT / '.venv/bin'}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip("there is no promtool; tools/promtool says why")
    return found


def asked() -> Iterator[tuple[str, str]]:
    """Where a question is asked, and the question."""
    for rule in RULES:
        yield f"alert {rule['alert']}", rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"]


def metrics_of(expression: str) -> set[str]:
    return {HISTOGRAM.sub("", name) for name in re.findall(r"\breceiver_\w+", expression)}


@pytest.mark.parametrize("arguments", [["check", "rules", "deploy/prometheus/rules.yaml"]])
def test_promtool_reads_the_rules(arguments: list[str]) -> None:
    done = subprocess.run([promtool(), *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RULES)} rules found" in done.stdout


def test_promtool_reads_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("token")
    text = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
    (tmp_path / "rules.yaml").write_text((ROOT / "deploy/prometheus/rules.yaml").read_text())
    (tmp_path / "prometheus.yml").write_text(
        text.replace("/run/secrets/metrics-token", str(tmp_path / "token"))
    )
    done = subprocess.run(
        [promtool(), "check", "config", "prometheus.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_none_for_a_receiver_that_is_well() -> None:
    tests = ROOT / "tests/packaging/rules_test.yaml"
    done = subprocess.run(
        [promtool(), "test", "rules", tests], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    suites = yaml.safe_load(tests.read_text())["tests"]
    silent: set[str] = set()
    fired: set[str] = set()
    for case in (case for suite in suites for case in suite["alert_rule_test"]):
        (fired if case["exp_alerts"] else silent).add(case["alertname"])
    assert fired == {rule["alert"] for rule in RULES}
    assert silent == fired


@pytest.mark.parametrize(("where", "expression"), list(asked()))
def test_every_metric_that_is_asked_for_exists_with_its_labels(where: str, expression: str) -> None:
    for name in metrics_of(expression):
        assert name in METRICS, where
    for name, selected in re.findall(r"\b(receiver_\w+)\{([^}]*)\}", expression):
        labels = set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)", selected))
        assert labels <= METRICS[HISTOGRAM.sub("", name)], where


def test_the_dashboard_shows_every_metric_there_is() -> None:
    shown = {
        name for where, expression in asked() if where.startswith("panel") for name in metrics_of(expression)
    }
    assert shown == set(METRICS)


def test_every_metric_is_there_at_a_receiver_that_runs(programs: Programs) -> None:
    with programs.receiver(settings(programs.folder, XIMILAR_API_TOKEN="t")) as receiver:
        page = receiver.get("/metrics").raise_for_status().text
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    there = set(types) | {f"{name}_total" for name, kind in types.items() if kind == "counter"}
    assert set(METRICS) - there == set()


def test_the_panels_have_their_own_places_and_names() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        assert panel["description"]
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_names_the_section_that_explains_it(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook"] == f"docs/operations/monitoring.md#{rule['alert'].lower()}"
    section = re.search(rf"^### {rule['alert']}\n\n(.+?)(?=^##|\Z)", EXPLAINED, re.MULTILINE | re.DOTALL)
    assert section is not None, "docs/operations/monitoring.md has no such section"
    assert len(section[1].split()) > 15


def test_no_section_explains_an_alert_that_is_gone() -> None:
    explained = re.search(r"^## Alerts\n(.+?)(?=^## |\Z)", EXPLAINED, re.MULTILINE | re.DOTALL)
    assert explained is not None
    assert re.findall(r"^### (\w+)$", explained[1], re.MULTILINE) == [rule["alert"] for rule in RULES]
