"""Traces of a real receiver, as a collector gets them over OTLP."""

import time
from collections.abc import Iterator

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.faults.steps import asking, question, says
from tests.support.collector import Collector, collector
from tests.support.processes import SECRETS, Programs, completion, settings
from tests.support.source import SIZE, Answer, Source, picture, signed, source

SIGNATURE = "canary-of-a-signed-url"


@pytest.fixture
def host() -> Iterator[Source]:
    with source() as it:
        yield it


@pytest.fixture
def collected() -> Iterator[Collector]:
    with collector() as it:
        yield it


def attributes(span: Span) -> dict[str, str | int]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}


def of_job(collected: Collector, job_id: str) -> dict[str, Span]:
    """The spans of a job by their names; of several with one name the last."""
    return {span.name: span for span in collected.spans if attributes(span).get("receiver.job") == job_id}


def test_a_job_is_one_trace_from_its_delivery_to_the_archive_across_a_restart(
    programs: Programs, host: Source, collected: Collector
) -> None:
    gate = host.gate()
    image = picture(1)
    url = host.offer("image", Answer(image, gate=gate), image)
    url = f"{signed(url, since=time.time(), seconds=3600)}&X-Amz-Signature={SIGNATURE}"
    host.offer(question("job"), says("job", url))
    values = settings(
        programs.folder,
        OTEL_EXPORTER_OTLP_ENDPOINT=collected.url,
        RECEIVER_CONFIRM="on",
        **asking(host),
    )
    with programs.receiver_process(values) as first:
        first.deliver(completion("job", url, *SIZE))
        host.until_asked("image")
        assert first.program.stop()[0] == 0
    gate.set()
    before = set(of_job(collected, "job"))
    with programs.receiver_process(values) as second:
        assert second.ended("job")["state"] == "archived"
        second.deliver(completion("job", url, *SIZE))
        assert second.program.stop()[0] == 0

    assert before == {"delivery", "record", "confirm", "fetch"}
    assert attributes(of_job(collected, "job")["fetch"])["url.full"] == f"{host.url}/image"
    assert {span.trace_id for span in collected.spans} == {collected.spans[0].trace_id}
    (root,) = (span for span in collected.spans if not span.parent_span_id)
    assert (root.name, attributes(root)["receiver.outcome"]) == ("delivery", "recorded")
    assert {span.parent_span_id for span in collected.spans if span is not root} == {root.span_id}
    good = [span.name for span in collected.spans if span.status.code != Status.STATUS_CODE_ERROR]
    assert {"delivery", "record", "confirm", "fetch", "verify", "archive"} == set(good)
    assert good.count("delivery") == 2
    assert collected.services == {"upscale-receiver"}
    for secret in (*SECRETS, SIGNATURE):
        assert secret.encode() not in collected.raw
        assert secret not in first.program.log + second.program.log


def test_what_failed_is_said_with_its_reason_and_the_service_has_the_name_that_it_was_given(
    programs: Programs, host: Source, collected: Collector
) -> None:
    url = host.offer("image", picture(1))
    values = settings(
        programs.folder,
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collected.url}/v1/traces",
        OTEL_SERVICE_NAME="ours",
    )
    with programs.receiver_process(values) as receiver:
        receiver.deliver(completion("job", url, 4000, 3000))
        receiver.ended("job")
        receiver.program.stop()

    verify = of_job(collected, "job")["verify"]
    assert verify.status.code == Status.STATUS_CODE_ERROR
    assert attributes(verify)["error.type"] == "image.wrong_size"
    assert collected.services == {"ours"}


def test_a_collector_that_is_away_costs_no_image_and_no_stop(programs: Programs, host: Source) -> None:
    with collector() as gone:
        away = gone.url
    values = settings(programs.folder, OTEL_EXPORTER_OTLP_ENDPOINT=away)
    with programs.receiver_process(values) as receiver:
        receiver.deliver(completion("job", host.offer("image", picture(1)), *SIZE))
        assert receiver.ended("job")["state"] == "archived"
        code, seconds = receiver.program.stop()

    assert code == 0
    assert seconds < 9
