"""`python -m tests.otlp_receiver`: a receiver of spans, as a collector is one, in a process.

It serves OTLP's trace service over gRPC and over HTTP, on free ports, and writes what it gets to
standard output: first a line with its ports, then a line for each span, as JSON. Asked on standard
input, it marks what it has taken so far by an empty line. With the argument `silent` it takes spans
and writes none, with `refusing` it takes none. It is built on the messages and the service of
opentelemetry-proto and knows nothing of Stoker.
"""

import gzip
import json
import sys
import threading
from collections.abc import Iterable
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

_writing = threading.Lock()


def value_of(value: AnyValue) -> str | int | float | bool:
    """The one that is set; of the kinds that spans of ours have."""
    kind = value.WhichOneof("value")
    found: str | int | float | bool = getattr(value, kind or "string_value")
    return found


def attributes_of(attributes: Iterable[KeyValue]) -> dict[str, str | int | float | bool]:
    """As a mapping."""
    return {each.key: value_of(each.value) for each in attributes}


def write_spans(request: ExportTraceServiceRequest, protocol: str) -> None:
    """A line for each span, unless the receiver is silent."""
    if "silent" in sys.argv:
        return
    lines = [
        json.dumps(
            {
                "protocol": protocol,
                "resource": attributes_of(of_resource.resource.attributes),
                "scope": of_scope.scope.name,
                "name": span.name,
                "kind": span.kind,
                "trace_id": span.trace_id.hex(),
                "span_id": span.span_id.hex(),
                "parent_id": span.parent_span_id.hex(),
                "trace_state": span.trace_state,
                "flags": span.flags,
                "start_ns": span.start_time_unix_nano,
                "end_ns": span.end_time_unix_nano,
                "attributes": attributes_of(span.attributes),
                "links": [[each.trace_id.hex(), each.span_id.hex()] for each in span.links],
                "status": span.status.code,
                "status_message": span.status.message,
            }
        )
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]
    with _writing:
        sys.stdout.write("".join(line + "\n" for line in lines))
        sys.stdout.flush()


class GrpcReceiver(TraceServiceServicer):
    """The service over gRPC."""

    def Export(  # noqa: N802 (the service's name)
        self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> ExportTraceServiceResponse:
        if "refusing" in sys.argv:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no spans from you")
        write_spans(request, "grpc")
        return ExportTraceServiceResponse()


class HttpReceiver(BaseHTTPRequestHandler):
    """The service over HTTP: protobuf to /v1/traces."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path != "/v1/traces":
            self.send_error(404)
            return
        if "refusing" in sys.argv:
            self.send_error(403)
            return
        write_spans(ExportTraceServiceRequest.FromString(body), "http")
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Standard error is the test's."""


def main() -> None:
    """Serves until standard input ends; writes an empty line for each line that it reads there."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(GrpcReceiver(), server)  # type: ignore[no-untyped-call]  # generated
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    over_http = ThreadingHTTPServer(("127.0.0.1", 0), HttpReceiver)
    threading.Thread(target=over_http.serve_forever, daemon=True).start()
    print(json.dumps({"grpc": grpc_port, "http": over_http.server_port}), flush=True)  # noqa: T201
    for _ in sys.stdin:
        with _writing:
            print(flush=True)  # noqa: T201
    server.stop(0).wait()
    over_http.shutdown()


if __name__ == "__main__":
    main()
