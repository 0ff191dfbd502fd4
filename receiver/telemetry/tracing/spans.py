"""Creates OpenTelemetry spans from steps that have ended.

Between a delivery and its archived image there may be a restart, or a day, so a trace's context cannot be
carried along. It follows from what the ledger knows of the job: a hash of its id and of the time at which it
was received gives the id of the trace and that of its first span, the delivery. Every process that works on
the job names the same trace and the same parent; no column is needed, and where tracing is off nothing is
computed. A job that is received anew, such as with a fresh URL after it expired, begins a new trace; an
operator's retry continues the old one.
"""

import asyncio
import hashlib
from contextlib import suppress
from importlib import metadata
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision

from receiver.core.concurrency import run_in_thread
from receiver.core.instrumentation import Step

CLOSE_SECONDS = 2.0
"""How long a stop waits for the collector; what it has not taken by then is dropped."""

BEGINNINGS = {("delivery", "recorded"), ("record", "found")}
"""The first span of a trace: the delivery, or the record of a completion that was found by asking."""

KINDS = {
    "delivery": trace.SpanKind.SERVER,
    **dict.fromkeys(("confirm", "ask", "fetch", "archive"), trace.SpanKind.CLIENT),
}


class Spans:
    """Makes spans of steps, and passes them to a processor; by default to the SDK's collector."""

    def __init__(self, processor: SpanProcessor | None = None) -> None:
        self._ids = _Ids()
        # No global provider is set, and the end of the process is left to `aclose`.
        self._provider = TracerProvider(resource=_resource(), id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("receiver")

    def on_step(self, step: Step) -> None:
        """Make a span of a step that has ended; a step of no known job belongs to no trace."""
        if step.job is None or step.received_at is None:
            return
        trace_id, root = _derived(step.job, step.received_at)
        begins = (step.name, step.outcome) in BEGINNINGS
        self._ids.given = (trace_id, root) if begins else None
        span = self._tracer.start_span(
            step.name,
            context=Context() if begins else self._below(trace_id, root),
            kind=KINDS.get(step.name, trace.SpanKind.INTERNAL),
            attributes=_attributes(step),
            start_time=step.started_at,
        )
        self._ids.given = None
        if step.reason is not None:
            span.set_status(trace.StatusCode.ERROR, step.reason)
        span.end(step.started_at + int(step.seconds * 1e9))

    async def aclose(self) -> None:
        """Send what is left, for at most `CLOSE_SECONDS`."""
        # A collector that does not answer would keep a stop waiting for as long as the exporter retries.
        with suppress(TimeoutError):
            await asyncio.wait_for(run_in_thread(self._provider.shutdown), CLOSE_SECONDS)

    def _below(self, trace_id: int, root: int) -> Context:
        # A sampler that decides by the trace's id decides alike for its first span and, here, for all others.
        decision = self._provider.sampler.should_sample(None, trace_id, "delivery").decision
        sampled = decision is Decision.RECORD_AND_SAMPLE
        flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if sampled else trace.TraceFlags.DEFAULT)
        parent = trace.SpanContext(trace_id, root, is_remote=True, trace_flags=flags)
        return trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())


class _Ids(RandomIdGenerator):
    """Makes random ids, except for a trace and its first span that are given."""

    given: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        return self.given[0] if self.given else super().generate_trace_id()

    def generate_span_id(self) -> int:
        return self.given[1] if self.given else super().generate_span_id()


def _derived(job: str, received_at: int) -> tuple[int, int]:
    """Return the ids of a job's trace and of its first span."""
    digest = hashlib.sha256(f"{job}\n{received_at}".encode()).digest()
    # Neither may be 0, which means none.
    return int.from_bytes(digest[:16]) or 1, int.from_bytes(digest[16:24]) or 1


def _attributes(step: Step) -> dict[str, str | int]:
    found = {
        "receiver.job": step.job,
        "receiver.attempt": step.attempt,
        "receiver.bytes": step.bytes,
        "receiver.outcome": step.outcome,
        "url.full": None if step.url is None else _without_secrets(step.url),
        "error.type": step.reason,
    }
    return {name: value for name, value in found.items() if value is not None}


def _without_secrets(url: str) -> str:
    """Return a URL without its query, which may be signed, and without a password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"


def _resource() -> Resource:
    # The environment's name for the service wins over the receiver's own.
    found = Resource.create()
    if not str(found.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return found
    own = {SERVICE_NAME: "upscale-receiver", SERVICE_VERSION: metadata.version("upscale-receiver")}
    return found.merge(Resource(own))
