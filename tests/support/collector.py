"""A collector of traces on loopback: takes OTLP over HTTP, and keeps what came."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Collector:
    """What the collector was sent.

    Attributes:
        url: its own.
        spans: in the order in which they came.
        services: the names of the services that sent them.
        raw: every body as it came.
    """

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    raw: bytes = b""


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    """Runs a collector until the block ends."""
    it = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            known = self.path == "/v1/traces"
            if known:
                self._take(body)
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _take(self, body: bytes) -> None:
            it.raw += body
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                it.services |= {
                    pair.value.string_value
                    for pair in resource.resource.attributes
                    if pair.key == "service.name"
                }
                it.spans += [span for scope in resource.scope_spans for span in scope.spans]

        def log_message(self, *_: object) -> None:
            """Tests read `Collector.spans` instead."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        it.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield it
        finally:
            server.shutdown()
            thread.join()
