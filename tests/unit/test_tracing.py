"""Steps become spans: one trace for each job, whoever works on it and when."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from receiver.core.errors import FetchError
from receiver.core.instrumentation import UNFORESEEN, Instrumentation, StepName
from receiver.telemetry import tracing
from receiver.telemetry.tracing.spans import CLOSE_SECONDS, Spans
from tests.support.clock import NOW
from tests.support.processes import ROOT, environment

SIGNED = (
    "https://user:canary-of-a-password@images.example:8443/a%20b.png?X-Amz-Signature=canary-of-a-url#canary"
)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Spans:
    return Spans(SimpleSpanProcessor(exporter))


def take(
    spans: Spans,
    name: StepName,
    job: str | None = "job-1",
    received_at: int | None = NOW,
    *,
    outcome: str | None = None,
    error: Exception | None = None,
    url: str | None = None,
) -> None:
    """One step, as a room takes it."""

    def failed(*_: object) -> None:
        """Nobody counts here."""

    with (
        suppress(FetchError, ValueError),
        Instrumentation(spans.on_step, failed).step(name, job, received_at, attempt=2) as step,
    ):
        step.outcome, step.url, step.bytes = outcome, url, 7
        if error is not None:
            raise error


def whole_way(spans: Spans, job: str = "job-1", received_at: int = NOW) -> None:
    take(spans, "record", job, received_at)
    take(spans, "delivery", job, received_at, outcome="recorded")
    for name in ("confirm", "fetch", "verify", "archive"):
        take(spans, name, job, received_at)


def ids(span: ReadableSpan) -> tuple[int, int, int | None]:
    """Of its trace, of itself, and of its parent."""
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id, span.parent.span_id if span.parent else None


def test_all_steps_of_a_job_are_one_trace_below_its_delivery(
    spans: Spans, exporter: InMemorySpanExporter
) -> None:
    whole_way(spans)

    found = {span.name: ids(span) for span in exporter.get_finished_spans()}
    assert list(found) == ["record", "delivery", "confirm", "fetch", "verify", "archive"]
    trace_id, root, parent = found.pop("delivery")
    assert parent is None
    assert {(found_trace, above) for found_trace, _, above in found.values()} == {(trace_id, root)}
    assert len({own for _, own, _ in found.values()} | {root}) == 6


def test_another_process_names_the_same_trace(spans: Spans, exporter: InMemorySpanExporter) -> None:
    later = InMemorySpanExporter()
    take(spans, "delivery", outcome="recorded")
    take(Spans(SimpleSpanProcessor(later)), "archive")

    (delivery,), (archive,) = exporter.get_finished_spans(), later.get_finished_spans()
    assert (ids(archive)[0], ids(archive)[2]) == ids(delivery)[:2]


def test_other_jobs_and_a_job_that_is_received_anew_are_other_traces(
    spans: Spans, exporter: InMemorySpanExporter
) -> None:
    whole_way(spans)
    whole_way(spans, "job-2")
    whole_way(spans, "job-1", NOW + 1)

    assert len({ids(span)[0] for span in exporter.get_finished_spans()}) == 3


def test_the_same_delivery_again_is_a_span_of_its_own_in_the_same_trace(
    spans: Spans, exporter: InMemorySpanExporter
) -> None:
    take(spans, "delivery", outcome="recorded")
    take(spans, "delivery", outcome="duplicate")

    first, again = map(ids, exporter.get_finished_spans())
    assert again[0] == first[0]
    assert again[1] != first[1]
    assert again[2] == first[1]


def test_what_belongs_to_no_known_job_is_no_span(spans: Spans, exporter: InMemorySpanExporter) -> None:
    take(spans, "delivery", None, None, outcome="unread")
    take(spans, "record", "job-1", None)

    assert exporter.get_finished_spans() == ()


def test_a_span_says_what_was_done_without_secrets(spans: Spans, exporter: InMemorySpanExporter) -> None:
    take(spans, "fetch", url=SIGNED, error=FetchError("fetch.timeout", "canary of a detail"))

    (span,) = exporter.get_finished_spans()
    assert span.attributes == {
        "receiver.job": "job-1",
        "receiver.attempt": 2,
        "receiver.bytes": 7,
        "url.full": "https://images.example:8443/a%20b.png",
        "error.type": "fetch.timeout",
    }
    assert (span.status.status_code, span.status.description) == (trace.StatusCode.ERROR, "fetch.timeout")
    assert "canary" not in span.to_json()


@pytest.mark.parametrize("url", ["https://[canary", "https://host:canary/x", "canary"])
def test_a_url_that_cannot_be_read_breaks_nothing(
    spans: Spans, exporter: InMemorySpanExporter, url: str
) -> None:
    take(spans, "fetch", url=url)

    (span,) = exporter.get_finished_spans()
    assert span.attributes is not None
    assert str(span.attributes["url.full"]) in ("", ":///canary", "://canary")


def test_a_bug_s_words_stay_out_of_the_span(spans: Spans, exporter: InMemorySpanExporter) -> None:
    take(spans, "verify", error=ValueError("canary of a bug"))

    (span,) = exporter.get_finished_spans()
    assert span.status.description == UNFORESEEN
    assert "canary" not in span.to_json()


def test_a_span_lasts_as_long_as_its_step(spans: Spans, exporter: InMemorySpanExporter) -> None:
    before = time.time_ns()
    take(spans, "verify")
    after = time.time_ns()

    (span,) = exporter.get_finished_spans()
    assert span.start_time is not None
    assert span.end_time is not None
    assert before <= span.start_time <= span.end_time <= after + 1_000_000


@pytest.fixture
def sampled() -> Iterator[None]:
    """Half of all traces, by the SDK's own variables, which it reads when a provider is made."""
    before = dict(os.environ)
    os.environ |= {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("sampled")
def test_a_trace_is_sampled_whole_or_not_at_all(exporter: InMemorySpanExporter) -> None:
    spans = Spans(SimpleSpanProcessor(exporter))
    for number in range(40):
        whole_way(spans, f"job-{number}")

    traces = [ids(span)[0] for span in exporter.get_finished_spans()]
    assert 0 < len(set(traces)) < 40
    assert {traces.count(each) for each in traces} == {6}


def test_no_global_provider_is_set(spans: Spans) -> None:
    whole_way(spans)

    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


class Stuck(SpanProcessor):
    """A collector that does not answer."""

    def __init__(self) -> None:
        self.answers = threading.Event()

    def shutdown(self) -> None:
        self.answers.wait()


async def test_a_stop_does_not_wait_long_for_a_collector_that_does_not_answer() -> None:
    began, collector = time.monotonic(), Stuck()
    await Spans(collector).aclose()

    assert time.monotonic() - began >= CLOSE_SECONDS
    collector.answers.set()  # else the stop would still wait


async def test_a_stop_hands_over_what_is_left(exporter: InMemorySpanExporter) -> None:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    spans = Spans(BatchSpanProcessor(exporter))
    whole_way(spans)
    await spans.aclose()

    assert len(exporter.get_finished_spans()) == 6


def test_nothing_is_traced_without_an_endpoint() -> None:
    assert tracing.from_environment({}) is None
    assert tracing.from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}) is None


LOADS = """
import sys
import receiver.cli, receiver.bootstrap.serve
from receiver.telemetry.tracing import from_environment
assert from_environment({}) is None
assert not [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]
"""

WITHOUT_THE_EXTRA = """
import sys
sys.meta_path.insert(0, type("Missing", (), {"find_spec": staticmethod(
    lambda name, *_: (_ for _ in ()).throw(ModuleNotFoundError(name)) if name == "opentelemetry" else None
)})())
from receiver.telemetry.tracing import from_environment
assert from_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}) is None
"""


@pytest.mark.parametrize("program", [LOADS, WITHOUT_THE_EXTRA], ids=["off", "extra missing"])
def test_nothing_of_opentelemetry_is_needed_where_it_is_not_wanted(tmp_path: Path, program: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(tmp_path, {}),
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
