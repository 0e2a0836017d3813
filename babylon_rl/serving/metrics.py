"""What Prometheus sees of the gateway. Labels are bounded: no agent, no text of a client ever becomes one."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from babylon_rl.serving.answers import Usage
from babylon_rl.serving.breaker import State
from babylon_rl.serving.routing import Serving
from babylon_rl.serving.spool import Spool
from babylon_rl.serving.upstream import Target

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_BREAKER: dict[State, int] = {"closed": 0, "half_open": 1, "open": 2}


class Metrics:
    """The gateway's instruments, in a registry of their own; also the dispatcher's observer."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "babylon_gateway_requests",
            "Chat requests by HTTP status, variant and served version.",
            ("status", "variant", "version"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "babylon_gateway_request_seconds",
            "From a request's arrival to the last byte of its answer.",
            ("variant",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._first_token = Histogram(
            "babylon_gateway_first_token_seconds",
            "From a streaming request's arrival to its first token.",
            ("variant",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._tokens = Counter(
            "babylon_gateway_tokens", "Tokens.", ("kind", "version"), registry=self.registry
        )
        self._failures = Counter(
            "babylon_gateway_upstream_failures",
            "Failed attempts at an upstream.",
            ("upstream", "version", "reason"),
            registry=self.registry,
        )
        self._retries = Counter(
            "babylon_gateway_retries", "Repeated attempts.", ("upstream",), registry=self.registry
        )
        self._fallbacks = Counter(
            "babylon_gateway_fallbacks",
            "Calls that went on to the base model.",
            ("reason",),
            registry=self.registry,
        )
        self._captured = Counter(
            "babylon_gateway_captured", "Calls kept in the spool.", ("level",), registry=self.registry
        )
        self.in_flight = Gauge(
            "babylon_gateway_in_flight", "Requests being answered.", registry=self.registry
        )

    def finished(self, status: int, variant: str, version: str, seconds: float) -> None:
        self._requests.labels(str(status), variant, version).inc()
        self._seconds.labels(variant).observe(seconds)

    def started_stream(self, variant: str, seconds: float) -> None:
        self._first_token.labels(variant).observe(seconds)

    def counted(self, version: str, usage: Usage) -> None:
        if usage.prompt_tokens:
            self._tokens.labels("prompt", version).inc(usage.prompt_tokens)
        if usage.completion_tokens:
            self._tokens.labels("completion", version).inc(usage.completion_tokens)

    def captured(self, level: str) -> None:
        self._captured.labels(level).inc()

    def failed(self, target: Target, reason: str) -> None:
        self._failures.labels(target.upstream.name, target.version, reason).inc()

    def retried(self, target: Target) -> None:
        self._retries.labels(target.upstream.name).inc()

    def fell_back(self, reason: str) -> None:
        self._fallbacks.labels(reason).inc()

    def watch(self, collector: Collector) -> None:
        """Also shows what a collector says when it is asked."""
        self.registry.register(collector)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


class SpoolCollector(Collector):
    """How full the spool is."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def collect(self) -> list[Metric]:
        used = GaugeMetricFamily("babylon_gateway_spool_bytes", "Bytes of the spool on disk.")
        used.add_metric([], self._spool.used)
        room = GaugeMetricFamily("babylon_gateway_spool_capacity_bytes", "Bytes at which callers get 503.")
        room.add_metric([], self._spool.capacity)
        return [used, room]


class ServingCollector(Collector):
    """Which versions are served, and the state of their circuits."""

    def __init__(self) -> None:
        self.serving: Serving | None = None

    def collect(self) -> list[Metric]:
        info = GaugeMetricFamily(
            "babylon_gateway_model",
            "1 for each version that is served.",
            labels=("version", "upstream", "role"),
        )
        circuit = GaugeMetricFamily(
            "babylon_gateway_circuit", "0 closed, 1 half open, 2 open.", labels=("version", "upstream")
        )
        serving = self.serving
        for version, target in (serving.targets if serving else {}).items():
            assert serving is not None
            role = "active" if version == serving.active else "base" if version == serving.base else "other"
            info.add_metric([version, target.upstream.name, role], 1)
            circuit.add_metric([version, target.upstream.name], _BREAKER[target.breaker.state])
        return [info, circuit]
