"""In CI a test that is skipped is a test that did not run: only what no CI machine has may excuse it."""

import os
from collections.abc import Generator

import pytest

MAY_SKIP = frozenset({"needs_docker", "needs_gpu", "needs_internet"})
"""Markers of tests that may be skipped in CI."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns a skip into a failure."""
    report = yield
    excused = hasattr(report, "wasxfail") or any(marker.name in MAY_SKIP for marker in item.iter_markers())
    if report.skipped and _in_ci() and not excused:
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turns the skip of a whole file into a failure."""
    report = yield
    if report.skipped and _in_ci():
        _fail(report)
    return report


def _in_ci() -> bool:
    return os.environ.get("CI") == "true"


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    report.outcome = "failed"
    report.longrepr = f"skipped, which counts as a failure in CI: {report.longreprtext}"
