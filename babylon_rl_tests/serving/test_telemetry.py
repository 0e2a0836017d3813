"""Spans reach a collector over OTLP, continue the client's trace, and hold no word that was said."""

import asyncio
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from babylon_rl.serving.telemetry import OtlpTracing
from babylon_rl_tests.serving.doubles import UpstreamDouble, status
from babylon_rl_tests.serving.running import ACTIVE, Gateway, serving, upstream

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


class Collector:
    """Receives spans."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def spans(self) -> list:
        return [
            span
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


def attributes(span) -> dict[str, object]:  # noqa: ANN001
    def value(any_value) -> object:  # noqa: ANN001
        kind = any_value.WhichOneof("value")
        return (
            [value(one) for one in any_value.array_value.values]
            if kind == "array_value"
            else getattr(any_value, kind)
        )

    return {pair.key: value(pair.value) for pair in span.attributes}


def test_spans_of_calls(collector: Collector, tmp_path: Path) -> None:
    tracing = OtlpTracing(collector.url)
    with (
        UpstreamDouble() as double,
        Gateway(serving(upstream(double.url), fallback=False), tracing=tracing, retries=0) as gateway,
    ):
        answered = gateway.ask(temperature=0.5, max_tokens=9, secret="SECRET")
        gateway.post(
            b'{"messages":[{"role":"user","content":"SECRET words"}],"stream":true}', traceparent=PARENT
        )
        assert double.requests[-1].headers["traceparent"].split("-")[1] == TRACE
        double.behave = status(500)
        gateway.ask()
        asyncio.run(asyncio.to_thread(tracing.shutdown))
    first, second, failed = collector.spans()
    assert first.name == "chat babylon-agent"
    seen = attributes(first)
    assert seen["gen_ai.operation.name"] == "chat"
    assert seen["gen_ai.request.temperature"] == 0.5 and seen["gen_ai.request.max_tokens"] == 9
    assert seen["gen_ai.response.id"] == answered.json()["id"]
    assert seen["gen_ai.response.finish_reasons"] == ["stop"]
    assert (seen["gen_ai.usage.input_tokens"], seen["gen_ai.usage.output_tokens"]) == (3, 3)
    assert (seen["babylon.version"], seen["babylon.variant"], seen["babylon.fallback"]) == (
        ACTIVE,
        "active",
        False,
    )
    assert second.trace_id.hex() == TRACE and second.parent_span_id.hex() == "b7ad6b7169203331"
    assert failed.status.code == 2 and attributes(failed)["error.type"] == "upstream_error"
    assert not any(b"SECRET" in body or b"buy" in body for body in collector.bodies)
