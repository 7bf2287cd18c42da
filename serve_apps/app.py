"""The Ray Serve application: one deployment whose replicas each hold the engine and its HTTP routes.

`build_app` is Serve's typed builder: `AppArgs` in, `Application` out. A replica is ready when its constructor has
loaded the base and every adapter and checked each adapter's SHA-256, so a broken one never gets traffic. The engine
keeps the queue: Serve's own limits stand a little above it, so that probes get through when it is full and clients get
a 429 in OpenAI's shape.
"""

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig

from serve_apps.auth import KeyRing

_PROBES = 32  # requests beyond the engine's rows and queue: probes, and refusals on their way out
_SHUTDOWN_S = 180.0  # a full context of 2,048 tokens at 75 ms each takes 154 s; Serve's 20 s would cut streams
_UNLIMITED = 100_000


class AdapterArgs(BaseModel):
    """An adapter under a public name, fixed by content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    path: str
    sha256: str


class AppArgs(BaseModel):
    """What a replica needs. Holds digests of keys, never keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    base_name: str
    adapters: list[AdapterArgs] = []
    precision: str = "auto"
    max_model_len: int = 2048
    max_ongoing_requests: int = 16
    max_queued_requests: int = 64
    key_pepper: str = ""
    key_digests: list[str] = []
    num_replicas: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    surge: bool = True


class ModelServer:
    """A replica: the embedded engine behind the routes of `serve_apps.http`."""

    def __init__(self, args: AppArgs) -> None:
        from ftlib.core.logging import setup_logging
        from ftlib.inference.embedded import EmbeddedEngine
        from ftlib.models.source import resolve_source

        setup_logging()
        device = "cuda" if args.num_gpus > 0 else "cpu"
        precision = "float32" if args.precision == "auto" and device == "cpu" else args.precision
        self._args = args
        self._folder = resolve_source(args.source)
        self._engine = EmbeddedEngine(
            lambda: _load_runner(self._folder, precision, device, args.num_cpus),
            max_model_len=args.max_model_len,
            max_rows=args.max_ongoing_requests,
            max_waiting=args.max_queued_requests,
        )
        self._engine.start()
        for adapter in args.adapters:
            self._engine.load_adapter(_engine_id(adapter), Path(adapter.path), adapter.sha256)

    def __serve_build_asgi_app__(self) -> Any:
        """The routes, built in the replica after its constructor (Ray Serve's hook)."""
        from serve_apps.endpoint import Endpoint
        from serve_apps.http import build_http
        from serve_apps.metrics import EndpointMetrics

        metrics = EndpointMetrics(self._engine, serve.get_replica_context().replica_id.unique_id)
        endpoint = Endpoint(self._engine, self._served_names(), metrics)
        return build_http(endpoint, KeyRing(self._args.key_pepper, tuple(self._args.key_digests)))

    def check_health(self) -> None:
        """Called by Serve; a replica whose engine stands still is replaced."""
        health = self._engine.health()
        if not health.ok:
            raise RuntimeError(health.message)

    def _served_names(self) -> list[Any]:
        """The base and the adapters, each with the tokenizer and chat template that it was trained with."""
        from ftlib.models.load import load_tokenizer
        from serve_apps.endpoint import ServedName

        # Not the engine's tokenizer object: that one decodes in the engine's thread.
        base = load_tokenizer(self._folder)
        names = [ServedName(self._args.base_name, None, self._args.source, base)]
        for adapter in self._args.adapters:
            has_own = (Path(adapter.path) / "tokenizer_config.json").exists()
            tokenizer = load_tokenizer(adapter.path) if has_own else base
            names.append(
                ServedName(adapter.name, _engine_id(adapter), _engine_id(adapter), tokenizer, self._args.base_name)
            )
        return names


def _engine_id(adapter: AdapterArgs) -> str:
    """An adapter's immutable name: the same name with other content is another adapter."""
    return f"{adapter.name}@{adapter.sha256[:12]}"


def _load_runner(folder: Path, precision: str, device: str, num_cpus: float) -> Any:
    import torch

    from ftlib.inference.runner import ModelRunner

    if device == "cpu":
        torch.set_num_threads(max(1, min(int(num_cpus), os.cpu_count() or 1)))
    return ModelRunner.load(folder, precision, device)


def build_app(args: AppArgs) -> Application:
    """The application. `serve run serve_apps.app:build_app source=… base_name=…` works too."""
    queued = args.max_queued_requests if args.max_queued_requests >= 0 else _UNLIMITED
    deployment = serve.deployment(
        name="ModelServer",
        num_replicas=args.num_replicas,
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus},
        max_ongoing_requests=args.max_ongoing_requests + queued + _PROBES,
        max_queued_requests=queued + _PROBES,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=2),
        max_surge_percent=100 if args.surge else 0,
        graceful_shutdown_timeout_s=_SHUTDOWN_S,
        health_check_period_s=10,
        health_check_timeout_s=60,
        max_constructor_retry_count=2,
    )
    return deployment(serve.ingress()(ModelServer)).bind(args)
