"""A Ray head of this checkout's own: start, stop, status.

    python -m ftlib.runtime.local start|stop|status [--state FOLDER] [--num-cpus N] [--workers N]

The head has token authentication, ports and a temporary folder of its own, a dashboard on loopback, and this
interpreter's `bin` first in PATH, so that `python -m jobs.X` in an entry point is this environment's. What a job needs
from its node comes with it: the files of secrets, `HF_HUB_OFFLINE=1`, no telemetry. State stands in `.ftlib/`:

    cluster.json       what was started: id, process, addresses, temporary folder
    env                the same as `export` lines (see `ftlib.runtime.envfile`)
    ray_token, redaction.key, api_keys    secrets, readable by the owner only; kept over a stop
    head.log           output of the head

Starting again finds the living head; a dead one is cleared away and replaced. Stopping ends exactly what was started
(see `ftlib.runtime.processes`).
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlib.core.errors import FtlibError, UserError
from ftlib.core.logging import get_logger, setup_logging
from ftlib.core.secrets import API_KEYS, REDACTION_KEY
from ftlib.core.storage import make_private_dir, read_json, state_home, use_private_umask, write_json
from ftlib.runtime.cluster import SERVE_ENVIRONMENT, START_TIMED_OUT, short_temp_dir, usable_cpus
from ftlib.runtime.envfile import write_env
from ftlib.runtime.processes import CLUSTER_ID, Process, end, find_marked, process

logger = get_logger(__name__)

START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 10.0
_LEFT_OVER_TIMEOUT_S = 4.0  # worker nodes without a head would wait much longer for it
_POLL_S = 0.3
_REQUEST_TIMEOUT_S = 10.0
_OBJECT_STORE_BYTES = 1_500_000_000
_NODE_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # jobs log their own progress, one line at a time
}
# Would lead the head to another cluster, or (threads) override what Ray gives each worker.
_NOT_INHERITED = (
    "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_JOB_CONFIG_JSON_ENV_VAR", "OMP_NUM_THREADS",
)  # fmt: skip


@dataclass(frozen=True)
class Head:
    """A running head."""

    cluster_id: str
    process: Process
    address: str
    dashboard_url: str
    endpoint_port: int
    temp_dir: str
    state: Path

    @property
    def token_file(self) -> Path:
        """File of the cluster's authentication token."""
        return self.state / "ray_token"

    def environment(self) -> dict[str, str]:
        """What a client of this cluster needs: the content of the `env` file."""
        return {
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": self.dashboard_url,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "FTLIB_DASHBOARD_URL": self.dashboard_url,
            "FTLIB_ENDPOINT_URL": f"http://127.0.0.1:{self.endpoint_port}/v1",
            **_secret_files(self.state),
            "FTLIB_HOME": str(state_home().absolute()),
        }

    def is_alive(self) -> bool:
        """Whether the process runs and its dashboard counts a living node."""
        return self.process.is_alive() and self.num_alive_nodes() > 0

    def num_alive_nodes(self) -> int:
        """Living nodes as the dashboard counts them; 0 when it does not answer."""
        try:
            token = self.token_file.read_text(encoding="utf-8").strip()
            headers = {"Authorization": f"Bearer {token}"}
            request = urllib.request.Request(f"{self.dashboard_url}/nodes?view=summary", headers=headers)
            with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S) as response:
                nodes = json.load(response)["data"]["summary"]
        except (OSError, ValueError, KeyError):
            return 0
        return sum(node.get("raylet", {}).get("state") == "ALIVE" for node in nodes)


def _secret_files(state: Path) -> dict[str, str]:
    return {f"{REDACTION_KEY}_FILE": str(state / "redaction.key"), f"{API_KEYS}_FILE": str(state / "api_keys")}


def default_state() -> Path:
    """`.ftlib` of the working directory."""
    return Path.cwd() / ".ftlib"


def find(state: Path) -> Head | None:
    """The head recorded in a state folder, dead or alive."""
    state = state.absolute()
    path = state / "cluster.json"
    if not path.exists():
        return None
    values: dict[str, Any] = read_json(str(path))
    return Head(**{**values, "process": Process(**values["process"]), "state": state})


def start(state: Path, cpus: int | None = None, endpoint_port: int = 8000) -> Head:
    """Start a head, or return the living one of this state folder. Raises UserError with the head's last words.

    `endpoint_port` is kept for the endpoint if it is free, else another one. A head of 0 CPUs runs no tasks: its
    workers do.
    """
    state = state.absolute()
    head = find(state)
    if head and head.is_alive():
        logger.info("the Ray head at %s is up (dashboard %s)", head.address, head.dashboard_url)
        return head
    if head:
        logger.info("the Ray head at %s is dead or not complete: replacing it", head.address)
        stop(state)
    use_private_umask()
    make_private_dir(state)
    for name, path in {"ray_token": state / "ray_token", **_secret_paths(state)}.items():
        make_secret(path, prefix="sk-ftlib-" if name == API_KEYS else "")
    try:
        head = _launch(state, usable_cpus() if cpus is None else cpus, endpoint_port)
    except UserError as error:
        if START_TIMED_OUT not in str(error):
            raise
        logger.warning("Ray did not start within its 30 s; trying once more")
        head = _launch(state, usable_cpus() if cpus is None else cpus, endpoint_port)
    comment = f"How to reach the local cluster of this checkout: source {state / 'env'}"
    write_env(state / "env", head.environment(), comment, bin_dir=Path(sys.executable).parent)
    return head


def _secret_paths(state: Path) -> dict[str, Path]:
    return {name.removesuffix("_FILE"): Path(path) for name, path in _secret_files(state).items()}


def make_secret(path: Path, prefix: str = "") -> None:
    """Put 256 random bits into a new file that only its owner can read; an existing file stays as it is."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with open(descriptor, "w") as file:
        file.write(prefix + secrets.token_hex(32))


def _launch(state: Path, cpus: int, endpoint_port: int) -> Head:
    cluster_id, temp_dir = secrets.token_hex(8), short_temp_dir()
    ports = free_ports(4)
    dashboard_port = _preferred(8265, ports[0])
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats",
        f"--port={ports[1]}", f"--temp-dir={temp_dir}", f"--num-cpus={cpus}",
        "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}",
        f"--ray-client-server-port={ports[2]}", f"--dashboard-agent-listen-port={ports[3]}",
        "--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={_object_store_bytes()}",
    ]  # fmt: skip
    log = state / "head.log"
    with open(log, "wb") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=temp_dir,
            env=head_environment(state, cluster_id),
        )
    started = process(child.pid)
    assert started is not None, "a child cannot vanish before it is waited for"
    head = Head(
        cluster_id, started, f"{node_ip()}:{ports[1]}", f"http://127.0.0.1:{dashboard_port}",
        _preferred(endpoint_port, free_ports(1)[0]), temp_dir, state,
    )  # fmt: skip
    _record(head)
    logger.info("starting a Ray head of %d CPUs at %s", cpus, head.address)
    try:
        _wait_until_up(head, child)
    except BaseException:
        stop(state)
        raise
    return head


def _record(head: Head) -> None:
    values = {name: value for name, value in vars(head).items() if name != "state"}
    write_json(str(head.state / "cluster.json"), {**values, "process": head.process.as_json()})


def head_environment(state: Path, cluster_id: str) -> dict[str, str]:
    """The environment that a head, and with it every job and worker, gets."""
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    return {
        **SERVE_ENVIRONMENT,
        **inherited,
        **_NODE_ENVIRONMENT,
        **_secret_files(state),
        CLUSTER_ID: cluster_id,
        "FTLIB_HOME": str(state_home().absolute()),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(state / "ray_token"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }


def _wait_until_up(head: Head, child: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not head.is_alive():
        if child.poll() is not None or time.monotonic() > deadline:
            why = f"ended with code {child.returncode}" if child.returncode is not None else "did not come up"
            log = head.state / "head.log"
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise UserError(f"the Ray head {why} within {START_TIMEOUT_S:.0f} s; its last words ({log}):\n{tail}")
        time.sleep(_POLL_S)


def stop(state: Path) -> bool:
    """End the head of a state folder with all that runs on it; returns whether there was one. Secrets stay."""
    head = find(state)
    if head is None:
        return False
    end([head.process], signal.SIGTERM, _STOP_TIMEOUT_S)
    left = end(find_marked(head.cluster_id, head.temp_dir), signal.SIGTERM, _LEFT_OVER_TIMEOUT_S)
    end([*left, *find_marked(head.cluster_id, head.temp_dir)], signal.SIGKILL, _LEFT_OVER_TIMEOUT_S)
    shutil.rmtree(head.temp_dir, ignore_errors=True)
    for name in ("cluster.json", "env"):
        (head.state / name).unlink(missing_ok=True)
    return True


def free_ports(count: int) -> list[int]:
    """Ports on which nothing listens now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()


def _preferred(port: int, otherwise: int) -> int:
    return port if is_free(port) else otherwise


def is_free(port: int) -> bool:
    """Whether nothing listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def node_ip() -> str:
    """The address by which Ray names this machine's node."""
    import ray.util

    return str(ray.util.get_node_ip_address())


def _object_store_bytes() -> int:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(_OBJECT_STORE_BYTES, physical // 5)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ftlib.runtime.local", description="A local Ray head.")
    parser.add_argument("action", choices=["start", "stop", "status"])
    parser.add_argument("--state", type=Path, default=default_state(), help="state folder (default: .ftlib)")
    parser.add_argument("--num-cpus", type=int, help="logical CPUs of the head (default: this machine's)")
    parser.add_argument("--workers", type=int, default=0, help="worker nodes to add on this machine")
    parser.add_argument("--worker-cpus", type=int, help="logical CPUs of each worker node (default: the head's)")
    arguments = parser.parse_args(argv)
    setup_logging()
    try:
        if arguments.action == "start":
            head = start(arguments.state, arguments.num_cpus)
            if arguments.workers:
                from ftlib.runtime.nodes import add_workers

                add_workers(head, arguments.workers, arguments.worker_cpus or arguments.num_cpus or usable_cpus())
            print(login_text(head))
        elif arguments.action == "stop":
            print("stopped" if stop(arguments.state) else f"no Ray head is recorded in {arguments.state}")
        else:
            found = find(arguments.state)
            alive = found is not None and found.is_alive()
            print(login_text(found) if found and alive else f"no Ray head runs for {arguments.state}")
            return 0 if alive else 1
    except FtlibError as error:
        logger.error("%s", error)
        return error.exit_code
    return 0


def login_text(head: Head) -> str:
    """How to reach the cluster and log in to its dashboard."""
    return (
        f"Ray head      {head.address}   (source {head.state}/env)\n"
        f"dashboard     {head.dashboard_url}   asks for a token: paste the output of  cat {head.token_file}\n"
        f"from afar     ssh -L {head.dashboard_url.rpartition(':')[2]}:127.0.0.1:"
        f"{head.dashboard_url.rpartition(':')[2]} THIS_MACHINE"
    )


if __name__ == "__main__":
    sys.exit(main())
