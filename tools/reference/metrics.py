"""The page of metrics, from a scrape."""

from collections.abc import Mapping, Sequence

from prometheus_client import Metric

from tools.reference.markdown import code, codes, table


def page(metrics: Mapping[str, Metric]) -> str:
    """Return the page."""
    rows = [row(name, metric) for name, metric in sorted(metrics.items()) if name.startswith("receiver_")]
    return table(("metric", "type", "labels", "meaning"), rows)


def row(name: str, metric: Metric) -> tuple[str, ...]:
    """Return the row of a metric."""
    return code(name), metric.type, "; ".join(_labels(metric)), metric.documentation


def _labels(metric: Metric) -> Sequence[str]:
    """Each label; with its values, where these are known beforehand."""
    found: dict[str, dict[str, None]] = {}
    for sample in metric.samples:
        for label, value in sample.labels.items():
            found.setdefault(label, {})[value] = None
    found.pop("le", None)
    return [
        code(label) if label in ("reason", "version") else f"{code(label)}: {codes(values)}"
        for label, values in found.items()
    ]
