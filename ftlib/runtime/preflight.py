"""Checks before work starts: what would fail after an hour fails in the first second, with the next step."""

import os
from typing import Any

from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.core.storage import filesystem, free_bytes, is_uri, local_path

logger = get_logger(__name__)

MIN_FREE_BYTES = 200 * 1024 * 1024
AUTOSCALING = "RAY_enable_autoscaler_v2"


def check_output(path: str, needed_bytes: int = MIN_FREE_BYTES) -> None:
    """Raise UserError unless a result can be written to `path`: reachable, writable, with room for `needed_bytes`."""
    if is_uri(path):
        _check_remote(path)
        return
    target = local_path(path).absolute()
    if target.exists() and not target.is_dir():
        raise UserError(f"output.path={path} is a file; name a folder")
    probe = target
    while not probe.exists():
        probe = probe.parent
    if not probe.is_dir():
        raise UserError(f"output.path={path}: {probe} is a file, so no folder can be made below it")
    if not os.access(probe, os.W_OK | os.X_OK):
        raise UserError(f"output.path={path}: {probe} is not writable by this user ({_user()})")
    free = free_bytes(path)
    if free is not None and free < needed_bytes:
        raise UserError(
            f"output.path={path}: {free / 1e9:.2f} GB are free there, about {needed_bytes / 1e9:.2f} GB are needed"
        )


def _check_remote(path: str) -> None:
    fs, inner = filesystem(path)
    try:
        fs.exists(inner)
    except Exception as error:  # each object store has its own: no credentials, no such bucket, no route
        raise UserError(f"output.path={path} cannot be reached: {type(error).__name__}: {error}") from error


def _user() -> str:
    return f"uid {os.getuid()}"


def check_resources(
    *, num_cpus: float = 0, num_gpus: float = 0, accelerator_type: str | None = None, what: str = "the job"
) -> None:
    """Raise UserError when the connected cluster has not, in all, what `what` asks for.

    A cluster that scales itself (`RAY_enable_autoscaler_v2=1`) may grow to it: there it is a warning.
    """
    import ray

    problem = shortage(dict(ray.cluster_resources()), num_cpus, num_gpus, accelerator_type)
    if problem is None:
        return
    message = f"{what} needs {problem}; lower scaling.num_workers or scaling.cpus_per_worker, or add nodes"
    if os.environ.get(AUTOSCALING) == "1":
        logger.warning("%s (waiting for the autoscaler)", message)
        return
    raise UserError(message)


def shortage(
    resources: dict[str, Any], num_cpus: float, num_gpus: float, accelerator_type: str | None = None
) -> str | None:
    """What is missing in `resources` (name → amount), as text; None when there is enough."""
    for name, needed in (("CPU", num_cpus), ("GPU", num_gpus)):
        available = float(resources.get(name, 0))
        if needed > available:
            return f"{needed:g} {name}s at once, and the Ray cluster has {available:g} in all"
    if accelerator_type and f"accelerator_type:{accelerator_type}" not in resources:
        known = sorted(name.partition(":")[2] for name in resources if name.startswith("accelerator_type:"))
        return f"accelerators of type {accelerator_type}, and the Ray cluster has {', '.join(known) or 'none'}"
    return None
