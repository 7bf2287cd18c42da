"""Deployment: from a configuration to an endpoint that answers.

Everything that can be wrong is checked before Serve is touched: keys, the port, the base, every adapter (its alias, its
content, its fit on the base). Serve has one HTTP proxy for all applications of a cluster, so the first deployment fixes
host and port; another address needs `serve.shutdown()` or another cluster. Deploying again replaces the application:
new replicas start first where the cluster has room for both, else the old ones stop first.

The manifest lies in `FTLIB_HOME/deployments/APP/`: which name stands for which content, and where it is served.
"""

import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from ftlib.config.deploy import DeployConfig, ServedAdapterConfig
from ftlib.core.errors import UserError
from ftlib.core.fingerprints import folder_sha256
from ftlib.core.logging import get_logger
from ftlib.core.storage import state_home
from ftlib.registry.manifest import build_manifest, work_key, write_manifest
from serve_apps.app import build_app
from serve_apps.args import AdapterArgs, AppArgs, VllmArgs
from serve_apps.auth import KeyRing, is_loopback, read_keys

logger = get_logger(f"ftlib.{__name__}")

KIND = "deployment"
_POLL_S = 0.5


def deploy(config: DeployConfig) -> dict[str, Any]:
    """Serve a base and its adapters, and wait until they answer. Needs a Ray connection.

    Returns:
        `manifest`, `url` (base URL for OpenAI clients), `models` (public names), `app`.

    Raises:
        UserError: no key for a public host, port in use, an unknown alias, an adapter that does not fit, an endpoint
            that is not ready within `ready_timeout_s`.
    """
    started = time.time()
    keys = read_keys()
    if not keys and not is_loopback(config.http.host):
        raise UserError(
            f"http.host={config.http.host} can be reached from other machines and no API key is set: point "
            "FTLIB_API_KEYS_FILE at a file with one key a line (make one with: openssl rand -hex 32)"
        )
    if not keys:
        logger.warning("no FTLIB_API_KEYS_FILE is set: every process on this machine can use the endpoint")
    running = _running_address()
    _check_address(config, running)
    base, adapters = resolve_models(config)
    args = app_args(config, base["name"], adapters, KeyRing.of(keys) if keys else KeyRing())
    _serve(config, args)
    url = _url(config)
    models = _wait_ready(url, config.ready_timeout_s)
    logger.info("serving %s at %s/v1", ", ".join(models), url)
    resolved = config.resolved()
    manifest = build_manifest(
        KIND,
        work_key(KIND, resolved, {"base": base, "adapters": [adapter.model_dump() for adapter in adapters]}),
        resolved,
        inputs={"base": base, "adapters": [adapter.model_dump() for adapter in adapters]},
        started=started,
        url=f"{url}/v1",
        models=models,
        num_keys=len(keys),
    )
    path = write_manifest(str(state_home() / "deployments" / config.app_name), manifest)
    return {"manifest": path, "url": f"{url}/v1", "models": models, "app": config.app_name}


def resolve_models(config: DeployConfig) -> tuple[dict[str, str], list[AdapterArgs]]:
    """The base (`source`, `name`, `fingerprint`) and the adapters by content; UserError where one does not fit."""
    from ftlib.models.adapt import check_adapter
    from ftlib.models.fingerprint import model_fingerprint
    from ftlib.models.source import resolve_source

    folder = resolve_source(config.model.source)
    name = config.model.name or config.model.source.rstrip("/").rsplit("/", 1)[-1].removeprefix("embedded:")
    base = {"source": config.model.source, "name": name, "fingerprint": model_fingerprint(folder)}
    if name in (adapter.name for adapter in config.adapters):
        raise UserError(f"adapters: the name {name} is the base's; set model.name to another")
    adapters = []
    for adapter in config.adapters:
        path, sha256 = _resolve_adapter(config, adapter, base["fingerprint"])
        check_adapter(path, folder)
        homes = adapter.replicas or config.replicas.adapter_replicas
        adapters.append(AdapterArgs(name=adapter.name, path=str(path), sha256=sha256, replicas=homes))
    return base, adapters


def _resolve_adapter(config: DeployConfig, adapter: ServedAdapterConfig, base_fingerprint: str) -> tuple[Path, str]:
    if adapter.path is not None:
        from ftlib.models.adapt import find_adapter

        path = find_adapter(adapter.path).absolute()
        return path, folder_sha256(path)
    from ftlib.registry.models import resolve_alias

    assert config.registry is not None and adapter.alias is not None  # the configuration saw to it
    model = resolve_alias(config.registry, adapter.alias)
    label = f"{model.name} version {model.version} (alias {adapter.alias})"
    if model.result != "adapter":
        raise UserError(f"{label} is a whole model, not an adapter; serve it with model.source={model.adapter_path}")
    if model.base_fingerprint and model.base_fingerprint != base_fingerprint:
        raise UserError(f"{label} was trained on {model.base_source}, which is not model.source={config.model.source}")
    return model.adapter_path.absolute(), model.sha256


def app_args(config: DeployConfig, base_name: str, adapters: list[AdapterArgs], keys: KeyRing) -> AppArgs:
    """The application's arguments."""
    import ray

    replicas = config.replicas
    free = ray.available_resources()
    surge = (
        free.get("CPU", 0.0) >= replicas.num_replicas * replicas.num_cpus
        and free.get("GPU", 0.0) >= replicas.num_replicas * replicas.num_gpus
    )
    return AppArgs(
        source=config.model.source,
        base_name=base_name,
        adapters=adapters,
        precision=config.model.precision,
        vllm=VllmArgs(**config.engine.vllm.model_dump()) if config.engine.vllm is not None else None,
        max_model_len=config.model.max_model_len,
        max_ongoing_requests=replicas.max_ongoing_requests,
        max_queued_requests=replicas.max_queued_requests,
        key_pepper=keys.pepper,
        key_digests=list(keys.digests),
        state_dir=str(config.state_dir or state_home() / "deployments" / config.app_name / "state"),
        load_adapters=config.load_adapters,
        num_replicas=replicas.num_replicas,
        max_replicas=replicas.max_replicas,
        adapter_replicas=replicas.adapter_replicas,
        target_load=replicas.target_load,
        upscale_delay_s=replicas.upscale_delay_s,
        downscale_delay_s=replicas.downscale_delay_s,
        num_gateways=config.gateway.num_replicas,
        gateway_cpus=config.gateway.num_cpus,
        num_cpus=replicas.num_cpus,
        num_gpus=replicas.num_gpus,
        surge=surge,
    )


def _running_address() -> tuple[str, int] | None:
    """Host and port of the cluster's Serve proxy, None when Serve does not run."""
    from ray.serve.context import _get_global_client
    from ray.serve.exceptions import RayServeException

    try:
        client = _get_global_client()
    except RayServeException:
        return None
    return client.http_config.host, client.http_config.port


def _check_address(config: DeployConfig, running: tuple[str, int] | None) -> None:
    host, port = config.http.host, config.http.port
    if running is not None:
        if running != (host, port):
            raise UserError(
                f"http {host}:{port}: Ray Serve listens on {running[0]}:{running[1]} in this cluster already and has "
                f"one address for all applications; deploy there (http.port={running[1]}), or: serve shutdown"
            )
        _check_route(config)
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"http {host}:{port}: the endpoint cannot listen there ({error.strerror}); set http.port to a free one"
            ) from None


def _check_route(config: DeployConfig) -> None:
    """An application of another name must not hold the same route."""
    from ray import serve

    others = [name for name in serve.status().applications if name != config.app_name]
    taken = [name for name in others if _route(name) == _route(config.app_name)]
    if taken:
        raise UserError(f"app_name={config.app_name}: the application {taken[0]} has its route already")


def _route(app_name: str) -> str:
    """The default application answers at the root; others below their name, so that several fit on one port."""
    default = DeployConfig.model_fields["app_name"].default
    return "/" if app_name == default else f"/{app_name}"


def _url(config: DeployConfig) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(config.http.host, config.http.host)
    return f"http://{host}:{config.http.port}{_route(config.app_name)}".rstrip("/")


def _serve(config: DeployConfig, args: AppArgs) -> None:
    """Start Serve if need be and put the application on it; returns when its replicas run.

    A new application that does not come up is deleted; of one that is replaced the old replicas go on."""
    import logging

    from ray import serve
    from ray.serve.api import _run

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": config.http.host, "port": config.http.port},
        logging_config={"enable_access_log": False},
    )
    existed = config.app_name in serve.status().applications
    # `serve.run` would wait for ever for a CPU that is not there.
    _run(build_app(args), _blocking=False, name=config.app_name, route_prefix=_route(config.app_name))
    deadline = time.monotonic() + config.ready_timeout_s
    while (status := serve.status().applications[config.app_name]).status != "RUNNING":
        failed = status.status in ("DEPLOY_FAILED", "UNHEALTHY")
        if failed or time.monotonic() > deadline:
            details = [f"{name}: {item.message}" for name, item in status.deployments.items() if item.message]
            if not existed:
                serve.delete(config.app_name, _blocking=False)
            raise UserError(
                f"the application {config.app_name} {'failed' if failed else 'is not running'} after "
                f"{config.ready_timeout_s:.0f} s at most: {'; '.join(details) or status.message or status.status}"
            )
        time.sleep(_POLL_S)


def _wait_ready(url: str, timeout_s: float) -> list[str]:
    """Poll `/ready`; returns the public names that answer."""
    import json

    deadline = time.monotonic() + timeout_s
    reason = "no answer"
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=10) as response:
                names: list[str] = json.load(response)["models"]
                return names
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code}"
        except OSError as error:
            reason = str(error)
        time.sleep(_POLL_S)
    raise UserError(
        f"{url}/ready: not ready after {timeout_s:.0f} s ({reason}); see the replica's log in the dashboard"
    )


def keep_serving() -> None:
    """Block until the process is interrupted or asked to end: a cluster of the job's own goes with the job."""
    import signal
    import threading

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
