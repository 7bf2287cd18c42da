"""The Ray Serve application: gateways, which hold the HTTP routes, before replicas of the engine.

`build_app` is Serve's typed builder: `AppArgs` in, `Application` out. A gateway keeps the tokens of each answer under
way, so that a replica may die or be replaced and its streams go on in another (`serve_apps.remote`). The engine keeps
the queue: Serve's own limits stand a little above it, so that probes get through when it is full and clients get a 429
in OpenAI's shape.
"""

from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, BackpressureConfig, RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from serve_apps.args import AdapterArgs, AppArgs, VllmArgs
from serve_apps.auth import KeyRing
from serve_apps.replica import EngineReplica
from serve_apps.router import AdapterRouter

__all__ = ["AdapterArgs", "AppArgs", "VllmArgs", "build_app"]

_PROBES = 32  # requests beyond the engine's rows and queue: probes, and refusals on their way out
_SHUTDOWN_S = 180.0  # a full context of 2,048 tokens at 75 ms each takes 154 s; Serve's 20 s would cut streams
_UNLIMITED = 100_000
_LOOK_BACK_S = 10.0  # loads are means of so long
# Neither of our replicas blocks its event loop, so Serve need not hand every token from thread to thread.
_ONE_LOOP = {
    "runtime_env": {
        "env_vars": {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
    }
}


class Gateway:
    """The routes of `serve_apps.http` before the engine's replicas."""

    def __init__(self, args: AppArgs, engines: DeploymentHandle) -> None:
        from ftlib.core.logging import setup_logging
        from ftlib.models.load import load_tokenizer
        from ftlib.models.source import resolve_source
        from serve_apps.remote import RemoteEngine

        setup_logging()
        self._args = args
        self._folder = resolve_source(args.source)
        self._tokenizer = load_tokenizer(self._folder)
        room = args.max_ongoing_requests + args.max_queued_requests
        self._engine = RemoteEngine(
            engines, room if args.max_queued_requests >= 0 else -1, everywhere=args.adapter_replicas is None
        )

    def __serve_build_asgi_app__(self) -> Any:
        """The routes, built in the replica after its constructor (Ray Serve's hook)."""
        from serve_apps.adapters import AdapterDesk
        from serve_apps.batch_worker import BatchWorker
        from serve_apps.batches import BatchStore
        from serve_apps.endpoint import Endpoint
        from serve_apps.http import build_http
        from serve_apps.metrics import EndpointMetrics
        from serve_apps.shelf import AdapterShelf

        args, engine = self._args, self._engine
        gateway = serve.get_replica_context().replica_id.unique_id
        metrics = EndpointMetrics(engine, gateway, args.base_name, len(args.adapters), engine.snapshots)
        endpoint = Endpoint(engine, self._served_names(), metrics)
        worker = None
        if args.state_dir:
            share = int(args.max_ongoing_requests * args.batch_share)
            worker = BatchWorker(BatchStore(Path(args.state_dir)), endpoint, share)
        desk = None
        if args.load_adapters:
            shelf = AdapterShelf(Path(args.state_dir) / "adapters", self._folder)
            desk = AdapterDesk(shelf, endpoint, engine, self._adapter_name)
        return build_http(endpoint, KeyRing(args.key_pepper, tuple(args.key_digests)), worker, desk)

    def _served_names(self) -> list[Any]:
        """The base and the adapters."""
        from serve_apps.endpoint import ServedName

        base = ServedName(self._args.base_name, None, self._args.source, self._tokenizer)
        return [base, *(self._adapter_name(adapter) for adapter in self._args.adapters)]

    def _adapter_name(self, adapter: AdapterArgs) -> Any:
        """An adapter's name, with the tokenizer and chat template that it was trained with."""
        from ftlib.models.adapt import fetch_adapter
        from ftlib.models.load import load_tokenizer
        from serve_apps.endpoint import ServedName

        folder = fetch_adapter(adapter.path, adapter.sha256)
        tokenizer = load_tokenizer(folder) if (folder / "tokenizer_config.json").exists() else self._tokenizer
        return ServedName(adapter.name, adapter.engine_id, adapter.engine_id, tokenizer, self._args.base_name)


def build_app(args: AppArgs) -> Application:
    """The application. `serve run serve_apps.app:build_app source=… base_name=…` works too."""
    queued = args.max_queued_requests if args.max_queued_requests >= 0 else _UNLIMITED
    listeners = 2 * args.num_gateways  # while gateways are replaced, both generations
    each = args.max_ongoing_requests + queued + _PROBES + listeners
    common: dict[str, Any] = {
        "max_surge_percent": 100 if args.surge else 0,
        "graceful_shutdown_timeout_s": _SHUTDOWN_S,
        "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=2),
        "logging_config": LoggingConfig(log_level="WARNING", enable_access_log=False),
    }
    most = args.max_replicas or args.num_replicas
    engines = serve.deployment(
        name="Engine",
        **_number(args),
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus, **_ONE_LOOP},
        request_router_config=RequestRouterConfig(
            request_router_class=AdapterRouter,
            request_router_kwargs={
                "rows": args.max_ongoing_requests + args.num_gateways,
                "target": args.adapter_replicas,
                "targets": {item.engine_id: item.replicas for item in args.adapters if item.replicas is not None},
            },
        ),
        max_ongoing_requests=each,
        max_queued_requests=-1,
        health_check_period_s=2,
        health_check_timeout_s=60,
        max_constructor_retry_count=2,
        **common,
    )
    gateways = serve.deployment(
        name="Gateway",
        num_replicas=args.num_gateways,
        ray_actor_options={"num_cpus": args.gateway_cpus, **_ONE_LOOP},
        max_ongoing_requests=each * most,
        max_queued_requests=each * most,
        **common,
    )
    return gateways(serve.ingress()(Gateway)).bind(args, engines(EngineReplica).bind(args))


def _number(args: AppArgs) -> dict[str, Any]:
    """Options for a fixed number of engines, or one that follows the load."""
    if args.max_replicas is None:
        return {"num_replicas": args.num_replicas}
    policy = AutoscalingPolicy(
        policy_function="serve_apps.autoscale:LoadPolicy", policy_kwargs={"target": args.target_load}
    )
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=args.num_replicas,
            max_replicas=args.max_replicas,
            upscale_delay_s=args.upscale_delay_s,
            downscale_delay_s=args.downscale_delay_s,
            look_back_period_s=_LOOK_BACK_S,
            policy=policy,
        )
    }
