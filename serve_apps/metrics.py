"""What the endpoint counts, as Prometheus text under vLLM's names, so that dashboards made for vLLM work unchanged.

Requests are counted by the gateway that answers, gauges and tokens by the engine's replicas; the label `replica` says
which. No label holds anything of a prompt.
"""

import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ftlib.inference.protocol import Engine
from serve_apps.replica import Snapshot

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
_TOKEN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
_TOKENS = (1, 8, 32, 128, 512, 2048, 8192)
_LABELS = ["model_name", "replica"]


class EndpointMetrics:
    """Counters and histograms of one gateway, in a registry of its own."""

    def __init__(
        self,
        engine: Engine,
        replica: str,
        base_name: str = "",
        num_adapters: int = 0,
        snapshots: Callable[[], list[Snapshot]] | None = None,
    ) -> None:
        """`replica`: the gateway's name. `snapshots`: of the engine's replicas; None: the engine is in this process."""

        def own() -> list[Snapshot]:
            texts = getattr(engine, "metrics_text", None)
            return [Snapshot(replica, engine.health(), engine.stats(), texts() if texts is not None else "")]

        self._replica, self._snapshots = replica, snapshots or own
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
        self.registry.register(_EngineCollector(engine, replica, base_name, num_adapters, self._snapshots))

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
        """Prometheus' text format; what an engine in another process counts itself (`metrics_text`) is passed on."""
        own = generate_latest(self.registry)
        theirs = "".join(item.metrics_text for item in self._snapshots())
        return own + _families_beside(theirs, own.decode()).encode()


def _families_beside(text: str, own: str) -> str:
    """The families of one text that another does not have."""
    known = {line.split()[2] for line in own.splitlines() if line.startswith("# TYPE ")}
    kept, name = [], ""
    for line in text.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            name = line.split()[2]
        if name not in known:
            kept.append(line + "\n")
    return "".join(kept)


class _EngineCollector:
    """The engines' own gauges and counters, as the snapshots have them."""

    def __init__(
        self,
        engine: Engine,
        gateway: str,
        base_name: str,
        num_adapters: int,
        snapshots: Callable[[], list[Snapshot]],
    ) -> None:
        self._engine, self._gateway, self._base_name = engine, gateway, base_name
        self._num_adapters, self._snapshots = num_adapters, snapshots

    def collect(self) -> Any:
        snapshots = self._snapshots()
        for name, text, field in (
            ("vllm:num_requests_running", "Requests being generated", "num_running"),
            ("vllm:num_requests_waiting", "Requests waiting for a row", "num_waiting"),
            ("vllm:kv_cache_usage_perc", "Share of the key/value cache in use, 0 to 1", "kv_cache_usage"),
            ("ftlib:kv_cache_tokens", "Tokens in the key/value cache", "num_kv_tokens"),
        ):
            yield self._family(GaugeMetricFamily(name, text, labels=_LABELS), field, snapshots)
        for name, text, field in (
            ("vllm:prompt_tokens", "Prompt tokens computed", "prompt_tokens_total"),
            ("vllm:generation_tokens", "Tokens generated", "generation_tokens_total"),
            ("vllm:prefix_cache_queries", "Prompt tokens looked up", "prefix_cache_queries_total"),
            ("vllm:prefix_cache_hits", "Prompt tokens whose states were reused", "prefix_cache_hits_total"),
        ):
            yield self._family(CounterMetricFamily(name, text, labels=_LABELS), field, snapshots)
        yield self._adapters(snapshots)
        held = GaugeMetricFamily("ftlib:adapters_held", "Adapters that a replica holds", labels=_LABELS)
        for item in snapshots:
            held.add_metric([self._base_name, item.replica], item.num_adapters)
        yield held
        resumed = CounterMetricFamily(
            "ftlib:streams_resumed", "Streams that went on in another replica", labels=_LABELS
        )
        resumed.add_metric([self._base_name, self._gateway], getattr(self._engine, "num_resumed", 0))
        yield resumed

    def _family(self, family: Any, field: str, snapshots: list[Snapshot]) -> Any:
        for item in snapshots:
            family.add_metric([self._base_name, item.replica], getattr(item.stats, field))
        return family

    def _adapters(self, snapshots: list[Snapshot]) -> Any:
        # As vLLM has it: the names are in the labels, the value is the time.
        labels = ["max_lora", "waiting_lora_adapters", "running_lora_adapters", *_LABELS]
        family = GaugeMetricFamily("vllm:lora_requests_info", "Adapters with requests", labels=labels)
        for item in snapshots:
            waiting, running = (
                ",".join(sorted(name.rsplit("@", 1)[0] for name in names))
                for names in (item.stats.waiting_adapters, item.stats.running_adapters)
            )
            family.add_metric([str(self._num_adapters), waiting, running, self._base_name, item.replica], time.time())
        return family
