"""The README's tables of metrics and of log lines say what the code says."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from receiver.bootstrap.app import open_receiver
from receiver.config import load
from receiver.core.instrumentation import StepName
from receiver.ledger import COUNTED_TO, NOTIFICATION_OUTCOMES, RECONCILED
from receiver.telemetry.metrics import DELIVERED
from tests.docs.readme import README, ROOT, codes, section, table
from tests.e2e.test_logs import COMPLETIONS, LINES

TOKEN = "a-token-for-metrics"


@dataclass(frozen=True, slots=True)
class Row:
    """A metric as the README has it."""

    labels: list[str]
    meaning: str


ROWS = {codes(name)[0]: Row(codes(labels), meaning) for name, labels, meaning in table(section("Metrics"))}


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[dict[str, Metric]]:
    """What a receiver without a token of the provider tells."""
    config = load({"RECEIVER_DATA_DIR": str(tmp_path), "RECEIVER_API_TOKENS": TOKEN})
    async with open_receiver(config, {}) as receiver:
        transport = httpx.ASGITransport(receiver.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
            await client.get("/jobs")  # is refused, and counted
            answer = await client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        yield {
            family.name + ("_total" if family.type == "counter" else ""): family
            for family in text_string_to_metric_families(answer.text)
        }


async def test_the_metrics_table_names_every_metric_and_no_other(live: dict[str, Metric]) -> None:
    ours = {name for name in live if name.startswith("receiver_")}

    assert set(ROWS) == ours
    assert {name.partition("_")[0] for name in set(live) - ours} == {"process", "python"}


async def test_the_metrics_table_names_the_labels_and_the_histograms(live: dict[str, Metric]) -> None:
    for name, row in ROWS.items():
        assert row.meaning.startswith("histogram: ") == (live[name].type == "histogram"), name
        found = {label for sample in live[name].samples for label in sample.labels} - {"le"}
        if live[name].samples:
            assert set(row.labels) == found, name


async def test_what_the_metrics_table_says_to_be_absent_is_absent(live: dict[str, Metric]) -> None:
    # Failures have no samples before the first of their reason.
    empty = {name for name in ROWS if not live[name].samples and not name.endswith("_failures_total")}

    said = {name for name, row in ROWS.items() if "absent" in row.meaning or "without samples" in row.meaning}
    assert said == empty


def test_the_values_of_labels_are_those_of_the_code() -> None:
    for name, values in {
        "receiver_deliveries_total": DELIVERED,
        "receiver_reconcile_total": RECONCILED,
        "receiver_notifications_total": NOTIFICATION_OUTCOMES,
    }.items():
        assert set(codes(ROWS[name].meaning)) == set(values), name
    assert all(str(COUNTED_TO) in ROWS[f"receiver_jobs_{which}"].meaning for which in ("overdue", "at_risk"))


def test_every_metric_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`(receiver_[a-z_]+)`", README))

    assert named == set(ROWS)


def test_the_log_s_table_names_every_line_of_a_job() -> None:
    named = {line for lines, _ in table(section("Logs")) for line in codes(lines)}

    assert named == {*LINES, *COMPLETIONS}
    sources = "\n".join(path.read_text() for path in (ROOT / "receiver").rglob("*.py"))
    for line in named:
        assert f'"{line}"' in sources, line


def test_the_spans_that_the_readme_names_are_those_of_the_code() -> None:
    said = section("Traces").partition("The spans are ")[2].partition(", sent as")[0]

    assert tuple(codes(said)) == StepName.__args__  # type: ignore[attr-defined] # of a Literal
