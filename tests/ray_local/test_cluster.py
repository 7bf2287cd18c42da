"""Connecting: a private cluster is stopped with all its processes, an outer one is kept, strangers stay untouched."""

import os
import subprocess
import sys

from ftlib.config.base import ClusterConfig
from ftlib.runtime.cluster import SERVE_ENVIRONMENT, connect

PRIVATE = """
import json, os, glob, tempfile
from ftlib.config.base import ClusterConfig
from ftlib.runtime.cluster import connect
import ray
before = set(glob.glob(tempfile.gettempdir() + "/ft-*"))
with connect(ClusterConfig(num_cpus=2)) as cluster:
    assert cluster.owned
    folder = (set(glob.glob(tempfile.gettempdir() + "/ft-*")) - before).pop()
    pid, _, serves = ray.get(ray.remote(lambda: (
        os.getpid(), os.environ["RAY_AUTH_TOKEN"],
        {name: value for name, value in os.environ.items() if name.startswith("RAY_SERVE_")},
    )).remote())
assert "RAY_AUTH_TOKEN" not in os.environ and "RAY_SERVE_THROUGHPUT_OPTIMIZED" not in os.environ
print(json.dumps([pid, folder, ray.is_initialized(), serves]))
"""


def test_private_cluster_leaves_nothing_behind():
    import json

    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_A", "RAY_SERVE_"))}
    chosen = {"RAY_SERVE_LOG_TO_STDERR": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PRIVATE], capture_output=True, text=True, check=True, timeout=120, env=clean | chosen
    )
    pid, folder, initialized, serves = json.loads(done.stdout.splitlines()[-1])
    assert serves == {**SERVE_ENVIRONMENT, **chosen}
    assert not initialized and not os.path.exists(folder)
    assert not os.path.exists(f"/proc/{pid}")


def test_inner_connection_uses_the_outer_one_and_leaves_it_open(ray_local):
    import ray

    with connect(ClusterConfig(address="127.0.0.1:1")) as inner:  # the address is not even looked at
        assert inner.address == ray_local.address and not inner.owned
    assert ray.is_initialized()


def test_workers_import_this_tree_and_get_one_thread(ray_local):
    import ray

    import ftlib

    @ray.remote
    def where():
        import ftlib as worker_ftlib

        return worker_ftlib.__file__, os.environ.get("OMP_NUM_THREADS")

    file, threads = ray.get(where.remote())
    assert file == ftlib.__file__
    assert threads == os.environ.get("OMP_NUM_THREADS", "1")
