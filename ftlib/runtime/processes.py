"""The processes of one cluster, told from all others by a marker in their environment (Linux).

A head is started with `FTLIB_CLUSTER_ID=<id>`. Everything below it inherits the variable: Ray's daemons, its workers,
the drivers of its jobs. Some of Ray's daemons overwrite their environment with a long process title; these are known
by their working folder, which lies in the cluster's temporary one. So stopping a cluster ends exactly these processes,
never those of another Ray on the machine. A process is named by its id and its start time, because ids are used again.
"""

import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

CLUSTER_ID = "FTLIB_CLUSTER_ID"
_POLL_S = 0.1


@dataclass(frozen=True)
class Process:
    """A process: its id and its start in clock ticks since boot."""

    pid: int
    start_ticks: int

    def is_alive(self) -> bool:
        """Whether this very process runs still (a zombie does not)."""
        return _stat(self.pid) == (self.start_ticks, True)

    def as_json(self) -> dict[str, int]:
        """For a state file."""
        return asdict(self)


def _stat(pid: int) -> tuple[int, bool] | None:
    """Start ticks and whether it runs; None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ValueError):
        return None
    fields = text.rpartition(")")[2].split()
    return int(fields[19]), fields[0] not in "ZX"


def process(pid: int) -> Process | None:
    """The process that now has this id."""
    stat = _stat(pid)
    return Process(pid, stat[0]) if stat else None


def find_marked(cluster_id: str, temp_dir: str) -> list[Process]:
    """The running processes of a cluster, this process and its ancestors left out."""
    marker = f"{CLUSTER_ID}={cluster_id}".encode()
    own = _ancestors()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in own:
            continue
        candidate = process(int(entry.name)) if _belongs(entry, marker, temp_dir) else None
        if candidate and candidate.is_alive():
            found.append(candidate)
    return found


def _belongs(entry: Path, marker: bytes, temp_dir: str) -> bool:
    try:
        if marker in (entry / "environ").read_bytes().split(b"\0"):
            return True
        titled = (entry / "cmdline").read_bytes().startswith(b"ray::")
        folder = str((entry / "cwd").readlink()).removesuffix(" (deleted)")
        return titled and f"{folder}/".startswith(f"{temp_dir}/")
    except OSError:
        return False


def _ancestors() -> set[int]:
    pids, pid = set(), os.getpid()
    while pid > 1:
        pids.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            break
    return pids


def end(processes: list[Process], number: signal.Signals, timeout_s: float) -> list[Process]:
    """Send a signal to each that still runs and wait; returns those that outlive the timeout."""
    for item in processes:
        if item.is_alive():
            try:
                os.kill(item.pid, number)
            except ProcessLookupError:
                continue
    deadline = time.monotonic() + timeout_s
    left = [item for item in processes if item.is_alive()]
    while left and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        left = [item for item in left if item.is_alive()]
    return left
