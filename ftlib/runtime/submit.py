"""Submit a job to a Ray cluster, follow its log and return its own exit code and result.

`python -m jobs.submit NAME --config FILE [key.path=value ...]` does what `ray job submit --working-dir . -- python -m
jobs.NAME …` does, and besides: mistakes in the configuration are reported before anything is sent, relative paths
become absolute, the job's exit code is passed on, and its result is the last line of standard output.

The dashboard's address comes from `--address`, `RAY_API_SERVER_ADDRESS`, `RAY_ADDRESS` (when it is a URL) or
`.ftlib/env` of the working directory (the local head of `ftlib.runtime.local`), in this order.
"""

import argparse
import asyncio
import importlib
import json
import logging
import os
import pkgutil
import shlex
import socket
import sys
import time
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from ftlib.config.base import JobConfig
from ftlib.config.loader import absolute_paths, as_override, load_config
from ftlib.core.errors import FtlibError, UserError
from ftlib.core.logging import get_logger, setup_logging
from ftlib.runtime.cluster import reload_authentication, token_hint
from ftlib.runtime.envfile import apply_env, read_env

logger = get_logger(__name__)

EXCLUDES = [".git", ".venv", ".ftlib", "runs", "build", "dist", "__pycache__", "*.pyc", ".*_cache"]
_PROBE_TIMEOUT_S = 5.0
_STARTING_TIMEOUT_S = 30.0
_SILENCE_TIMEOUT_S = 60.0
_LOG_GRACE_S = 10.0
_POLL_S = 0.3
_FAILED = 1
_INTERRUPTED = 130


@dataclass(frozen=True)
class Outcome:
    """How a submitted job ended: its exit code and the JSON object it printed last (empty when it printed none)."""

    exit_code: int
    result: dict[str, Any]


def job_names() -> list[str]:
    """The jobs that can be submitted: every configuration module that defines a JobConfig of its name."""
    import ftlib.config as package

    modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return [name for name in modules if name not in ("base", "loader", "values")]


def config_class(job: str) -> type[JobConfig]:
    """The configuration model of a job; raises UserError for an unknown job, with the nearest name."""
    if job in job_names():
        found = getattr(importlib.import_module(f"ftlib.config.{job}"), f"{job.title()}Config", None)
        if isinstance(found, type) and issubclass(found, JobConfig):
            return found
    near = get_close_matches(job, job_names(), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"there is no job {job!r}{hint} Jobs: {', '.join(job_names())}")


def build_entrypoint(job: str, source: str | None, overrides: Sequence[str], root: Path | None) -> str:
    """The shell command that the cluster runs, every path in it absolute.

    A config file below `root`, the folder that is uploaded, is named by its place there, followed by overrides; any
    other travels as inline JSON. Raises UserError for every mistake in the configuration.
    """
    cls = config_class(job)
    config = absolute_paths(load_config(cls, source, overrides))
    wanted = config.model_dump(mode="json", exclude_unset=True)
    arguments = ["--config", json.dumps(wanted, separators=(",", ":"))] if wanted else []
    if source and root and not source.lstrip().startswith("{") and Path(source).resolve().is_relative_to(root):
        given = load_config(cls, source).model_dump(mode="json", exclude_unset=True)
        changes = difference(given, wanted)
        said = [as_override(cls, path, value) for path, value in changes]
        if None not in said:
            inside = str(Path(source).resolve().relative_to(root))
            arguments = ["--config", inside, *filter(None, said)]
    return shlex.join(["python", "-m", f"jobs.{job}", *arguments])


def difference(given: dict[str, Any], wanted: dict[str, Any]) -> list[tuple[tuple[str, ...], Any]]:
    """Key paths, with their values, that turn `given` into `wanted`; lists are replaced whole."""
    changes: list[tuple[tuple[str, ...], Any]] = []
    for key, value in wanted.items():
        old = given.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            changes += [((key, *path), inner) for path, inner in difference(old, value)]
        elif key not in given or old != value:
            changes.append(((key,), value))
    return changes


def find_root(job: str) -> Path | None:
    """The source tree to upload: the working directory or this code's own; None where the cluster has it installed."""
    for folder in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (folder / "jobs" / f"{job}.py").exists() and (folder / "ftlib").is_dir():
            return folder if (folder / "pyproject.toml").exists() else None
    return None


def dashboard_address(address: str | None = None) -> str:
    """The URL of the dashboard to submit to; raises UserError when none is known or nothing answers there."""
    if not any(os.environ.get(name) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")):
        apply_env(read_env(Path.cwd() / ".ftlib" / "env"))
    candidates = [address, os.environ.get("RAY_API_SERVER_ADDRESS"), os.environ.get("RAY_ADDRESS")]
    url = next((item for item in candidates if item and item.startswith(("http://", "https://"))), None)
    if url is None:
        shown = next((item for item in candidates if item), None)
        raise UserError(
            (f"{shown} is no dashboard address" if shown else "no cluster to submit to")
            + "; give --address http://HOST:8265 or set RAY_API_SERVER_ADDRESS, or start a local head: "
            "python -m ftlib.runtime.local start"
        )
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_PROBE_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(f"no Ray dashboard answers at {url} ({error}); is the cluster up?") from None
    return url


def submit(
    job: str,
    source: str | None,
    overrides: Sequence[str] = (),
    *,
    address: str | None = None,
    echo: Callable[[str], None] | None = None,
) -> Outcome:
    """Submit a job, hand each piece of its log to `echo` (default: standard error), wait for its end.

    Raises UserError before anything is sent for a wrong configuration, no cluster, or a refused token. An interrupt
    stops the job.
    """
    root = find_root(job)
    entrypoint = build_entrypoint(job, source, overrides, root)
    environment: dict[str, Any] = {"working_dir": str(root), "excludes": EXCLUDES} if root else {}
    client, submission_id = _send(dashboard_address(address), job, entrypoint, environment)
    logger.info("submitted %s as %s", job, submission_id)
    follower = _Follower(job, echo or _echo)
    try:
        info = asyncio.run(_follow(client, submission_id, follower))
    except KeyboardInterrupt:
        logger.warning("interrupted: stopping %s", submission_id)
        client.stop_job(submission_id)
        return Outcome(_INTERRUPTED, {"job": job, "status": "interrupted", "manifest": None})
    code = info.driver_exit_code if info.driver_exit_code is not None else _FAILED
    if not follower.result:
        logger.error("%s ended without a result: %s", submission_id, " ".join(str(info.message).split())[:500])
        follower.result = {"job": job, "status": str(info.status.value).lower(), "manifest": None}
        code = code or _FAILED
    return Outcome(code, {**follower.result, "submission_id": submission_id})


def _send(address: str, job: str, entrypoint: str, environment: dict[str, Any]) -> tuple[Any, str]:
    """Submit, and try again for a while where a cluster that has just started does not take jobs yet."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("_private.runtime_env", "dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk"):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)  # they list every file that is not uploaded
    reload_authentication()
    deadline = time.monotonic() + _STARTING_TIMEOUT_S
    while True:
        try:
            client = JobSubmissionClient(address)
            return client, client.submit_job(
                entrypoint=entrypoint, runtime_env=environment, metadata={"ftlib_job": job}
            )
        except AuthenticationError as error:
            raise UserError(f"{address}: {token_hint()}") from error
        except (RuntimeError, OSError) as error:  # ConnectionError and the errors of `requests` are OSErrors
            reason = " ".join(str(error).split())
            if "status code 401" in reason or "status code 403" in reason:
                raise UserError(f"{address}: {token_hint()}") from error
            if time.monotonic() > deadline:
                raise UserError(f"{address}: jobs cannot be submitted there: {reason[:300]}") from error
            time.sleep(1)


class _Follower:
    """Passes a log on line by line and keeps the job's result, which is not echoed."""

    def __init__(self, job: str, echo: Callable[[str], None]) -> None:
        self._job, self._echo, self._rest = job, echo, ""
        self.result: dict[str, Any] = {}

    def feed(self, text: str) -> None:
        lines = (self._rest + text).split("\n")
        self._rest = lines.pop()
        for line in lines:
            self._line(line)

    def close(self) -> None:
        if self._rest:
            self._line(self._rest)
        self._rest = ""

    def _line(self, line: str) -> None:
        if line.startswith("{"):
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            if isinstance(value, dict) and value.get("job") == self._job and "status" in value:
                self.result = value
                return
        self._echo(line)


async def _follow(client: Any, submission_id: str, follower: _Follower) -> Any:
    """Pass the log on until the job has ended; returns Ray's record of it.

    The log's stream stays open for about five seconds after the end, so it is left as soon as the result is there.
    """
    tail = asyncio.create_task(_tail(client, submission_id, follower))
    try:
        while not (info := await _job_info(client, submission_id)).status.is_terminal():
            await asyncio.sleep(_POLL_S)
        deadline = time.monotonic() + _LOG_GRACE_S
        while not tail.done() and not follower.result and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
    finally:
        tail.cancel()
        await asyncio.gather(tail, return_exceptions=True)
    if not follower.result:
        follower.close()
    return info


async def _job_info(client: Any, submission_id: str) -> Any:
    """Ray's record of the job; a dashboard that does not answer is waited for, since the job may go on without it."""
    deadline = time.monotonic() + _SILENCE_TIMEOUT_S
    while True:
        try:
            return await asyncio.to_thread(client.get_job_info, submission_id)
        except (RuntimeError, OSError) as error:  # ConnectionError and the errors of `requests` are OSErrors
            if time.monotonic() > deadline:
                reason = " ".join(str(error).split())[:200]
                raise FtlibError(
                    f"the dashboard has not answered for {_SILENCE_TIMEOUT_S:.0f} s: {reason}. The job may go on: "
                    f"ray job status {submission_id}"
                ) from error
            await asyncio.sleep(_POLL_S)


async def _tail(client: Any, submission_id: str, follower: _Follower) -> None:
    try:
        async for text in client.tail_job_logs(submission_id):
            follower.feed(text)
    except (RuntimeError, OSError) as error:
        logger.warning("the job goes on, but its log can no longer be followed: %s", error)


def _echo(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The command line of `jobs.submit`; exits with the job's own code."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.submit", description="Submit a job to a Ray cluster and follow it.",
        epilog=f"jobs: {', '.join(job_names())}",
    )  # fmt: skip
    parser.add_argument("job", metavar="NAME", help="the job: jobs.NAME")
    parser.add_argument("--config", metavar="FILE", help="YAML file (or inline JSON)")
    parser.add_argument("--address", metavar="URL", help="the cluster's dashboard, http://HOST:8265")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="win over the file")
    arguments = parser.parse_intermixed_args(argv)
    setup_logging()
    try:
        outcome = submit(arguments.job, arguments.config, arguments.overrides, address=arguments.address)
    except FtlibError as error:
        logger.error("%s: %s", arguments.job, error)
        result = {"job": arguments.job, "status": "error", "manifest": None, "message": str(error)}
        outcome = Outcome(error.exit_code, result)
    print(json.dumps(outcome.result, default=str), flush=True)
    sys.exit(outcome.exit_code)
