"""The pages of docs/reference/ are what the code says."""

import re
from pathlib import Path

import pytest

from receiver.config import Config, load
from tests.docs.documents import ROOT
from tests.e2e.test_logs import COMPLETIONS, LINES
from tests.support.metric_names import METRICS
from tools.reference import logs, outdated, settings
from tools.reference.live import look

FIELDS = {field.alias: name for name, field in Config.model_fields.items() if field.alias}


def test_the_reference_is_generated_from_the_present_code() -> None:
    assert outdated() == [], "run `.venv/bin/python -m tools.reference`"


@pytest.mark.parametrize("setting", FIELDS)
def test_a_default_as_it_is_written_gives_the_default(setting: str) -> None:
    name = FIELDS[setting]
    written = settings.default(Config.model_fields[name])

    assert getattr(load({setting: written} if written else {}), name) == getattr(load({}), name)


AWAITED = ("REPLICATE_", "FAL_", "FREEPIK_", "RECEIVER_PROVIDERS")
"""Settings of providers whose packages are not there yet."""


READ_AS = {
    "archive": "archive_uri",
    "ledger": "ledger_location",
    "instance": "ledger_location",
    "backup_every": "runs_every",
    "audit_every": "runs_every",
}
"""Properties of the settings through which some are read."""


def test_every_setting_is_read() -> None:
    sources = "\n".join(
        path.read_text()
        for path in (ROOT / "receiver").rglob("*.py")
        if path.name != "config.py" and path.parent.name != "doctor"  # which looks at all of them
    )
    for setting, field in FIELDS.items():
        if setting.startswith(AWAITED):
            continue
        assert re.search(rf"\bconfig\.{READ_AS.get(field, field)}\b", sources), f"nothing reads {setting}"


async def test_every_metric_is_listed_for_rules_and_dashboards(tmp_path: Path) -> None:
    names = {name for name in (await look(tmp_path)).metrics if name.startswith("receiver_")}
    assert names == set(METRICS), "list it in tests/support/metric_names.py"


async def test_a_metric_without_samples_is_documented_as_absent(tmp_path: Path) -> None:
    for name, metric in (await look(tmp_path)).metrics.items():
        assert ("absent" in metric.documentation) == (not metric.samples), name


def test_every_line_of_a_job_s_history_has_a_log_line_with_its_id() -> None:
    found = logs.lines(ROOT / "receiver")
    for event in (*LINES, *COMPLETIONS):
        assert "job" in found[event].fields, event


def test_a_log_line_without_a_meaning_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "receiver").mkdir()
    module = 'log = structlog.get_logger("receiver.x")\ndef f(job):\n    log.info("news", job=job)\n'
    (tmp_path / "receiver" / "module.py").write_text(module)
    with pytest.raises(ValueError, match=r"missing \{'news'\}"):
        logs.page(tmp_path)
