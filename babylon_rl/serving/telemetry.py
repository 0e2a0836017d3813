"""Spans of calls, after OpenTelemetry's conventions for generative AI, where a collector is configured.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/. Prompts and answers are never in a span.
"""

from typing import Any, Protocol

from babylon_rl.serving.answers import Answer
from babylon_rl.serving.protocol import ChatCall
from babylon_rl.serving.upstream import Target

SERVICE = "babylon-gateway"


class CallSpan(Protocol):
    """The span of one call."""

    headers: dict[str, str]
    """What an upstream gets to continue the trace."""

    def answered(self, answer: Answer, target: Target, response_id: str) -> None: ...

    def end(self, status: int, variant: str, fallback: bool, error: str | None) -> None: ...


class Tracing(Protocol):
    """Makes spans."""

    def start(self, call: ChatCall, traceparent: str) -> CallSpan: ...

    def shutdown(self) -> None: ...


class _NoSpan:
    headers: dict[str, str] = {}

    def answered(self, answer: Answer, target: Target, response_id: str) -> None:
        return

    def end(self, status: int, variant: str, fallback: bool, error: str | None) -> None:
        return


class NoTracing:
    """No collector: nothing is recorded, and a client's trace is not passed on."""

    _span = _NoSpan()

    def start(self, call: ChatCall, traceparent: str) -> CallSpan:
        return self._span

    def shutdown(self) -> None:
        return


class _Span:
    def __init__(self, span: Any, headers: dict[str, str]) -> None:
        self._span = span
        self.headers = headers

    def answered(self, answer: Answer, target: Target, response_id: str) -> None:
        counts = answer.counts()
        attributes = {
            "gen_ai.provider.name": target.upstream.name,
            "gen_ai.response.id": response_id,
            "gen_ai.response.model": target.model_id,
            "gen_ai.response.finish_reasons": [answer.finish_reason] if answer.finish_reason else None,
            "gen_ai.usage.input_tokens": counts.prompt_tokens,
            "gen_ai.usage.output_tokens": counts.completion_tokens,
            "babylon.version": target.version,
        }
        self._set(attributes)

    def end(self, status: int, variant: str, fallback: bool, error: str | None) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._set(
            {
                "http.response.status_code": status,
                "babylon.variant": variant,
                "babylon.fallback": fallback,
                "error.type": error,
            }
        )
        if status >= 500 or error:
            self._span.set_status(Status(StatusCode.ERROR, error or ""))
        self._span.end()

    def _set(self, attributes: dict[str, Any]) -> None:
        self._span.set_attributes({key: value for key, value in attributes.items() if value is not None})


class OtlpTracing:
    """Sends spans to a collector over HTTP, in batches, from a thread.

    Args:
        endpoint: the collector's base address (`OTEL_EXPORTER_OTLP_ENDPOINT`).
    """

    def __init__(self, endpoint: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}))
        exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", timeout=5)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("babylon_rl.serving")

    def start(self, call: ChatCall, traceparent: str) -> CallSpan:
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        body, propagator = call.body, TraceContextTextMapPropagator()
        parent = propagator.extract({"traceparent": traceparent}) if traceparent else None
        model = body.model[:200] or "babylon-agent"
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": model,
            "gen_ai.request.temperature": body.temperature,
            "gen_ai.request.top_p": body.top_p,
            "gen_ai.request.max_tokens": body.limit,
            "gen_ai.request.seed": body.seed,
        }
        span = self._tracer.start_span(
            f"chat {model}",
            context=parent,
            kind=SpanKind.SERVER,
            attributes={key: value for key, value in attributes.items() if value is not None},
        )
        headers: dict[str, str] = {}
        propagator.inject(headers, set_span_in_context(span))
        return _Span(span, headers)

    def shutdown(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()
