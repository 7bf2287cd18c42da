"""A small cluster on this machine, a `jobs.prepare` on it, and SIGKILL to its parts at a chosen moment.

For the test and the benchmark of faults. What is killed: the `driver`, one `worker` process, or a `node`: every process
of a Ray node at once. Only processes of the cluster that was started here are ever touched.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlib.runtime import local
from ftlib.runtime.envfile import read_env
from ftlib.runtime.local import Head
from ftlib.runtime.nodes import add_workers
from ftlib.runtime.processes import find_marked

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("driver", "worker", "node")
MAX_RERUNS = 2
_JOB_TIMEOUT_S = 240


@dataclass
class Nodes:
    """The head, which runs no tasks, and worker nodes."""

    head: Head
    count: int
    cpus: int

    def restore(self) -> None:
        """Bring back nodes that were killed."""
        # One that was killed a moment ago may still be counted.
        deadline = time.monotonic() + 60
        wanted = 1 + len(node_roots(self.head))
        while self.head.num_alive_nodes() > wanted and time.monotonic() < deadline:
            time.sleep(0.5)
        missing = self.count - min(len(node_roots(self.head)), self.head.num_alive_nodes() - 1)
        if missing > 0:
            add_workers(self.head, missing, self.cpus)


@contextmanager
def cluster(state: Path, count: int, cpus: int) -> Iterator[Nodes]:
    """A head of no CPUs and `count` worker nodes of `cpus` CPUs."""
    head = local.start(state, cpus=0, endpoint_port=0)
    try:
        add_workers(head, count, cpus)
        yield Nodes(head, count, cpus)
    finally:
        local.stop(state)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def node_roots(head: Head) -> list[int]:
    """Process ids of the worker nodes' first processes."""
    marked = (item.pid for item in find_marked(head.cluster_id, head.temp_dir))
    return sorted(pid for pid in marked if "ray.scripts.scripts start" in title(pid) and "--head" not in title(pid))


def below(root: int, head: Head) -> set[int]:
    """A process of the cluster and all its descendants."""
    parents = {}
    for item in find_marked(head.cluster_id, head.temp_dir):
        try:
            parents[item.pid] = parent(item.pid)
        except OSError:
            continue
    found = {root}
    while more := {pid for pid, above in parents.items() if above in found} - found:
        found |= more
    return found


def victims(kind: str, job: "subprocess.Popen[str]", head: Head, rng: random.Random) -> set[int]:
    """Process ids to be killed; empty where there is none of the kind at this moment."""
    if kind == "driver":
        return {job.pid}
    if kind == "node":
        return below(rng.choice(node_roots(head)), head)
    marked = (item.pid for item in find_marked(head.cluster_id, head.temp_dir))
    # Ray's agents are part of a node, which ends with them.
    working = sorted(pid for pid in marked if title(pid).startswith("ray::") and "Agent" not in title(pid))
    busy = [pid for pid in working if "IDLE" not in title(pid)]
    return {rng.choice(busy or working)} if working else set()


def start(arguments: list[str], nodes: Nodes, log: Path, job: str = "jobs.prepare") -> "subprocess.Popen[str]":
    """`python -m JOB` on the cluster; its log is appended."""
    environment = {**os.environ, **read_env(nodes.head.state / "env"), "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_AUTH_TOKEN", None)  # of this session's own cluster
    environment["FTLIB_KEY"] = "0123456789abcdef"
    environment.pop("FTLIB_KEY_FILE", None)
    with open(log, "a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", job, *arguments],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=output, text=True,
        )  # fmt: skip


def finish(job: "subprocess.Popen[str]", timeout_s: float = _JOB_TIMEOUT_S) -> dict[str, Any] | None:
    """The job's result; None where it did not end well."""
    output, _ = job.communicate(timeout=timeout_s)
    return json.loads(output.splitlines()[-1]) if job.returncode == 0 else None


def disturbed(
    arguments: list[str], nodes: Nodes, log: Path, kind: str, after_s: float, rng: random.Random
) -> dict[str, Any]:
    """Start the job, kill something `after_s` seconds later, and run the job again until it ends well."""
    job = start(arguments, nodes, log)
    started = time.monotonic()
    with suppress(subprocess.TimeoutExpired):
        job.wait(after_s)
    early = job.poll() is not None
    killed = set() if early else victims(kind, job, nodes.head, rng)
    titles = sorted({title(pid).split("(")[0][:40] for pid in killed})
    for pid in killed:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    result, reruns = finish(job), 0
    while result is None and reruns < MAX_RERUNS:
        reruns += 1
        result = finish(start(arguments, nodes, log))
    return {
        "kind": kind,
        "after_s": round(after_s, 2),
        "num_killed": len(killed),
        "killed": titles[:4],
        "reruns": reruns,
        "ended": result is not None,
        "seconds": round(time.monotonic() - started, 1),
    }


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of every file of a dataset but `result.json`; the manifest without its timing."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    found.pop("result.json", None)
    manifest = json.loads(found.pop("manifest.json"))
    manifest.pop("timing")
    return {**found, "manifest.json": json.dumps(manifest, sort_keys=True).encode()}
