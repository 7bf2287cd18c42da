"""Which Ray cluster a job runs on: a named one, the one it was submitted to, or a small one of its own.

The order is `cluster.address`, then the cluster of `ray job submit` or `RAY_ADDRESS`, then a cluster on this machine
that is started for the block and stopped at its end. A cluster that happens to run on the machine is never joined
unasked. Ray itself retries an address that does not answer for about two minutes and then exits the process, so the
address is probed first.
"""

import fcntl
import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlib.config.base import ClusterConfig
from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger

logger = get_logger(__name__)

PROBE_TIMEOUT_S = 5.0
START_TIMED_OUT = "timed out during startup"
"""What Ray says when its daemons need more than 30 s to come up."""
SERVE_ENVIRONMENT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",  # no ports of gateways beside the proxy's
    "RAY_SERVE_LOG_TO_STDERR": "1",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
}
"""How Ray Serve works on clusters that ftlib starts, unless their environment says otherwise: fewer threads to hand a
token on, gRPC from the proxy to the gateways, and a controller that goes round twice a second, not ten times."""
_LONGEST_TEMP_DIR = 30  # a session's socket path adds about 65 characters and may hold 107 in all
_MIN_LOCAL_CPUS = 2


@dataclass(frozen=True)
class Cluster:
    """The cluster in use: its GCS address (`host:port`) and whether this process started it."""

    address: str
    owned: bool


@contextmanager
def connect(config: ClusterConfig) -> Iterator[Cluster]:
    """Connect this process to a Ray cluster for the length of the block.

    Inside an outer connection nothing happens: the outer one is used and left open. Raises UserError within seconds
    when no cluster answers at the address, or when it refuses the token.
    """
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if ray.is_initialized():
        yield Cluster(ray.get_runtime_context().gcs_address, owned=False)
        return
    address = config.address or os.environ.get("RAY_ADDRESS")
    with _own_cluster(config) if address in (None, "", "local") else _existing_cluster(str(address)) as cluster:
        yield cluster


def in_own_cluster() -> bool:
    """Whether this process drives, or works in, a cluster that a job started for itself and that ends with the job."""
    return _OWN in os.environ


_OWN = "FTLIB_OWN_CLUSTER"
"""Set while a job's own cluster starts, so that every process of that cluster inherits it: a sweep's trial trains in
a worker and has to know too."""


@contextmanager
def _own_cluster(config: ClusterConfig) -> Iterator[Cluster]:
    with _own_temp_dir() as folder, _started_in(folder, config) as cluster:
        yield cluster


@contextmanager
def _started_in(folder: str, config: ClusterConfig) -> Iterator[Cluster]:
    import ray

    cpus = config.num_cpus or usable_cpus()
    saved = {name: os.environ.get(name) for name in (*_TOKEN_VARIABLES, _OWN, *SERVE_ENVIRONMENT)}
    try:
        _use_own_token()
        os.environ[_OWN] = "1"
        os.environ.update({**SERVE_ENVIRONMENT, **os.environ})
        logger.info("starting a Ray cluster of %d CPUs for this job", cpus)
        _start_ray(cpus, folder)
        yield Cluster(ray.get_runtime_context().gcs_address, owned=True)
    finally:
        ray.shutdown()
        for name, value in saved.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        reload_authentication()


def _start_ray(cpus: int, folder: str) -> None:
    """Start the cluster; once more where Ray gave up on a busy machine (its limit of 30 s is fixed)."""
    import ray

    for last in (False, True):
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                logging_level=logging.ERROR,
                _temp_dir=folder,
            )
            return
        except Exception as error:
            if last or START_TIMED_OUT not in str(error):
                raise
            logger.warning("Ray did not start within its 30 s; trying once more")
            ray.shutdown()


@contextmanager
def _existing_cluster(address: str) -> Iterator[Cluster]:
    import ray

    probe(address)
    try:
        # A driver below `ray job submit` gets its runtime environment from the job.
        ray.init(address=address, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"cluster.address={address}: the Ray cluster there cannot be joined: {reason}") from error
    except Exception as error:
        if not _is_refused_token(error):
            raise
        raise UserError(f"cluster.address={address}: {token_hint()}") from error
    try:
        yield Cluster(ray.get_runtime_context().gcs_address, owned=False)
    finally:
        ray.shutdown()


def probe(address: str, timeout_s: float = PROBE_TIMEOUT_S) -> None:
    """Raise UserError unless a gRPC server answers at `host:port` or `ray://host:port`; `auto` is left to Ray."""
    if address == "auto":
        return
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"cluster.address={address} is a dashboard's; a driver needs the GCS address (host:6379). "
            "To submit to that dashboard: python -m jobs.submit NAME --config FILE"
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"cluster.address={address}: host:port, ray://host:port, auto or local is expected")
    advice = (
        "is the cluster up, and the port its GCS port (6379 by default)? Without cluster.address a local one is used"
    )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers at cluster.address={address} ({error}): {advice}") from None
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("0", "false", "") and not _speaks_grpc(
        f"{host}:{port}", timeout_s
    ):
        raise UserError(f"what answers at cluster.address={address} is no Ray cluster: {advice}")


def _speaks_grpc(target: str, timeout_s: float) -> bool:
    import grpc  # type: ignore[import-untyped]

    channel = grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)])
    try:
        grpc.channel_ready_future(channel).result(timeout=timeout_s)
        return True
    except grpc.FutureTimeoutError:
        return False
    finally:
        channel.close()


def usable_cpus() -> int:
    """The CPUs that this process may use, at least two: a job needs one for reads beside one for its actor."""
    return max(_MIN_LOCAL_CPUS, len(os.sched_getaffinity(0)))


def short_temp_dir() -> str:
    """A new private folder whose path is short enough for the Unix sockets that Ray puts below it."""
    return tempfile.mkdtemp(prefix=_PREFIX, dir=_temp_base())


_PREFIX, _LOCK = "ft-", "lock"


def _temp_base() -> str:
    base = tempfile.gettempdir()
    return base if len(base) <= _LONGEST_TEMP_DIR else "/tmp"


@contextmanager
def _own_temp_dir() -> Iterator[str]:
    """A folder for a cluster that ends with this process, inside a private one: Ray opens its own to everybody.

    It is locked by the process, so that the next job can tell what a killed one left, and removes it.
    """
    remove_dead_temp_dirs()
    outer = Path(short_temp_dir())
    try:
        with open(outer / f"{_LOCK}.new", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (outer / f"{_LOCK}.new").rename(outer / _LOCK)  # never there unlocked while its process lives
            yield str(outer / "r")
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def remove_dead_temp_dirs() -> None:
    """Remove this user's folders of clusters whose process was killed."""
    for folder in Path(_temp_base()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with open(folder / _LOCK, "r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


_TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def _use_own_token() -> None:
    """Give a private cluster a token of its own, so that no two processes race to create `~/.ray/auth_token`."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if not any(os.environ.get(name) for name in _TOKEN_VARIABLES[1:]):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ["RAY_AUTH_MODE"] = "token"
    reload_authentication()


def reload_authentication() -> None:
    """Make Ray's C++ core read the authentication variables again."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    AuthenticationTokenLoader.instance().reset_cache()
    Config.initialize("")


def _is_refused_token(error: Exception) -> bool:
    from ray.exceptions import AuthenticationError

    return isinstance(error, AuthenticationError)


def token_hint() -> str:
    """What to do when a cluster asks for another token."""
    return (
        "the cluster refuses the authentication token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the "
        "cluster's token file (for the quickstart's cluster: source .ftlib/env)"
    )


def cluster_resources() -> dict[str, Any]:
    """Total resources of the connected cluster by name (`CPU`, `GPU`, …)."""
    import ray

    return dict(ray.cluster_resources())
