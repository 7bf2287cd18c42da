"""More nodes on one machine: worker nodes that join a local head, to try jobs on several nodes.

Each has a temporary folder, a port range and an object store of its own. They carry the head's marker, so that
`ftlib.runtime.local.stop` ends them with it.
"""

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.runtime.local import START_TIMEOUT_S, Head, free_ports, head_environment, is_free

logger = get_logger(__name__)

PORTS_PER_NODE = 100
_FIRST_WORKER_PORT, _LAST_WORKER_PORT = 21000, 30000  # below the ports that Linux gives out by itself
_OBJECT_STORE_BYTES = 500_000_000
_POLL_S = 0.5


def add_workers(head: Head, count: int, cpus: int) -> None:
    """Start `count` worker nodes of `cpus` CPUs each and wait until the head counts them.

    Raises UserError when one does not come up.
    """
    wanted = head.num_alive_nodes() + count
    ranges = _free_ranges(count)
    children = [_launch(head, number, cpus, first) for number, first in enumerate(ranges, 1)]
    deadline = time.monotonic() + START_TIMEOUT_S
    while head.num_alive_nodes() < wanted:
        dead = [child for child in children if child.poll() is not None]
        if dead or time.monotonic() > deadline:
            logs = ", ".join(str(path) for path in sorted(head.state.glob("worker-*.log")))
            raise UserError(f"a worker node did not come up; see {logs}")
        time.sleep(_POLL_S)
    logger.info("%d worker nodes of %d CPUs joined %s", count, cpus, head.address)


def _free_ranges(count: int) -> list[int]:
    """First ports of ranges in which nothing listens: another cluster may run on this machine."""
    starts = range(_FIRST_WORKER_PORT, _LAST_WORKER_PORT, PORTS_PER_NODE)
    free = (first for first in starts if all(map(is_free, range(first, first + PORTS_PER_NODE))))
    ranges = list(itertools.islice(free, count))
    if len(ranges) < count:
        raise UserError(f"no {count} free ranges of {PORTS_PER_NODE} ports between {starts.start} and {starts.stop}")
    return ranges


def _launch(head: Head, number: int, cpus: int, first: int) -> "subprocess.Popen[bytes]":
    folder = Path(head.temp_dir) / f"w{number}"
    folder.mkdir(exist_ok=True)
    agent, object_manager, node_manager = free_ports(3)
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
        f"--address={head.address}", f"--temp-dir={folder}", f"--num-cpus={cpus}",
        f"--min-worker-port={first}", f"--max-worker-port={first + PORTS_PER_NODE - 1}",
        f"--object-manager-port={object_manager}", f"--node-manager-port={node_manager}",
        f"--dashboard-agent-listen-port={agent}", f"--object-store-memory={_OBJECT_STORE_BYTES}",
        "--resources", json.dumps({f"worker_{number}": 1}),
    ]  # fmt: skip
    with open(head.state / f"worker-{number}.log", "wb") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder,
            env=head_environment(head.state, head.cluster_id),
        )
