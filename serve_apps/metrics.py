"""What the endpoint counts, as Prometheus text under vLLM's names, so that dashboards made for vLLM work unchanged.

Figures are of the replica that answers, named by the label `replica`. No label holds anything of a prompt.
"""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ftlib.inference.protocol import Engine

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
_TOKEN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
_TOKENS = (1, 8, 32, 128, 512, 2048, 8192)
_LABELS = ["model_name", "replica"]


class EndpointMetrics:
    """Counters and histograms of one replica, in a registry of its own."""

    def __init__(self, engine: Engine, replica: str) -> None:
        self._replica = replica
        self.registry = CollectorRegistry()
        self._success = Counter(
            "vllm:request_success", "Finished requests", [*_LABELS, "finished_reason"], registry=self.registry
        )
        self._rejected = Counter(
            "ftlib:requests_rejected", "Requests refused, by HTTP status", ["status", "replica"], registry=self.registry
        )
        self._first = self._histogram("vllm:time_to_first_token_seconds", "Request to first token", _SECONDS)
        self._between = self._histogram("vllm:inter_token_latency_seconds", "Between two tokens", _TOKEN_SECONDS)
        self._whole = self._histogram("vllm:e2e_request_latency_seconds", "Request to last token", _SECONDS)
        self._prompt = self._histogram("vllm:request_prompt_tokens", "Tokens of a prompt", _TOKENS)
        self._generated = self._histogram("vllm:request_generation_tokens", "Tokens of an answer", _TOKENS)
        self.registry.register(_EngineCollector(engine, replica))

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, _LABELS, buckets=buckets, registry=self.registry)

    def first_token(self, model: str, seconds: float) -> None:
        """A request got its first token."""
        self._first.labels(model, self._replica).observe(seconds)

    def next_token(self, model: str, seconds: float) -> None:
        """A request got another one."""
        self._between.labels(model, self._replica).observe(seconds)

    def finished(self, model: str, reason: str, seconds: float, prompt_tokens: int, generated_tokens: int) -> None:
        """A request ended."""
        self._success.labels(model, self._replica, reason).inc()
        self._whole.labels(model, self._replica).observe(seconds)
        self._prompt.labels(model, self._replica).observe(prompt_tokens)
        self._generated.labels(model, self._replica).observe(generated_tokens)

    def rejected(self, status: int) -> None:
        """A request was refused."""
        self._rejected.labels(str(status), self._replica).inc()

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)


class _EngineCollector:
    """The engine's own gauges and counters, read when they are asked for."""

    def __init__(self, engine: Engine, replica: str) -> None:
        self._engine, self._replica = engine, replica

    def collect(self) -> Any:
        stats = self._engine.stats()
        for name, text, value in (
            ("vllm:num_requests_running", "Requests being generated", stats.num_running),
            ("vllm:num_requests_waiting", "Requests waiting for a row", stats.num_waiting),
            ("ftlib:kv_cache_tokens", "Tokens in the key/value cache", stats.num_kv_tokens),
        ):
            yield self._family(GaugeMetricFamily, name, text, value)
        for name, text, value in (
            ("vllm:prompt_tokens", "Prompt tokens computed", stats.prompt_tokens_total),
            ("vllm:generation_tokens", "Tokens generated", stats.generation_tokens_total),
        ):
            yield self._family(CounterMetricFamily, name, text, value)

    def _family(self, kind: Any, name: str, text: str, value: float) -> Any:
        family = kind(name, text, labels=["replica"])
        family.add_metric([self._replica], value)
        return family
