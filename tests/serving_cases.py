"""Replicas of the endpoint's engine as processes, for those who kill them."""

import urllib.request

import psutil


def engine_pids() -> list[int]:
    """Processes of the engine's replicas, among those that this process started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "ServeReplica:" in (title := " ".join(process.cmdline())) and ":Engine" in title:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def num_resumed(url: str) -> float:
    """Streams that went on in another replica, as the endpoint at `url` (without `/v1`) counts them."""
    return sum(metric(url, "ftlib:streams_resumed_total"))


def metric(url: str, name: str) -> list[float]:
    """The values of a metric of the endpoint at `url` (without `/v1`), one a set of labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{")]
