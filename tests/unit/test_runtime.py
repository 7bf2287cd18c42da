"""Addresses, preflight checks, process bookkeeping and the tour's arithmetic: all without Ray."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ftlib.core.errors import UserError
from ftlib.runtime.cluster import SERVE_ENVIRONMENT, probe, short_temp_dir
from ftlib.runtime.local import _secret_paths, free_ports, head_environment, make_secret
from ftlib.runtime.preflight import check_output
from ftlib.runtime.processes import CLUSTER_ID, Process, end, find_marked, process
from ftlib.runtime.quickstart import Estimate, group_overrides, metrics_table


@pytest.mark.parametrize("address", ["nonsense", "host:port", ":6379", "http://127.0.0.1:8265"])
def test_malformed_addresses_are_refused(address):
    with pytest.raises(UserError, match=r"cluster\.address="):
        probe(address)


def test_closed_port_and_other_server_are_told_apart_within_seconds():
    (port,) = free_ports(1)
    started = time.monotonic()
    with pytest.raises(UserError, match="no Ray cluster answers"):
        probe(f"127.0.0.1:{port}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept_and_hang_up, args=(server,), daemon=True).start()
        with pytest.raises(UserError, match="is no Ray cluster"):
            probe(f"127.0.0.1:{server.getsockname()[1]}", timeout_s=1)
    assert time.monotonic() - started < 5


def _accept_and_hang_up(server):
    while True:
        try:
            server.accept()[0].sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        except OSError:
            return


def test_all_clusters_run_serve_alike_unless_told_otherwise(tmp_path, monkeypatch):
    for name in SERVE_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    assert SERVE_ENVIRONMENT.items() <= head_environment(tmp_path, "cluster").items()
    image = (Path(__file__).resolve().parents[2] / "cluster" / "Dockerfile").read_text()
    assert all(f"{name}={value}" in image.split() for name, value in SERVE_ENVIRONMENT.items())
    monkeypatch.setenv("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "2")
    assert head_environment(tmp_path, "cluster")["RAY_SERVE_CONTROL_LOOP_INTERVAL_S"] == "2"


def test_temp_dir_leaves_room_for_socket_paths(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    folder = short_temp_dir()
    try:
        session = "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
        assert len(f"{folder}/w1/{session}") < 107
    finally:
        Path(folder).rmdir()


def test_secret_is_private_and_kept(tmp_path):
    path = tmp_path / "key"
    make_secret(path, "sk-")
    first = path.read_text()
    make_secret(path)
    assert path.read_text() == first and first.startswith("sk-") and len(first) == 67
    assert path.stat().st_mode & 0o077 == 0
    assert set(_secret_paths(tmp_path)) == {"FTLIB_KEY", "FTLIB_API_KEYS"}


def test_marked_processes_are_found_and_others_left_alone(tmp_path):
    sleep = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
    marked = {**os.environ, CLUSTER_ID: "unit-test-a"}
    other = {**os.environ, CLUSTER_ID: "unit-test-ab"}
    children = [subprocess.Popen(sleep, env=env, stdout=subprocess.PIPE) for env in (marked, other)]
    try:
        for child in children:
            assert child.stdout.readline() == b"up\n"
        found = find_marked("unit-test-a", str(tmp_path))
        assert [item.pid for item in found] == [children[0].pid]
        assert end(found, signal.SIGTERM, 10) == []
        assert children[1].poll() is None
    finally:
        for child in children:
            child.kill()
            child.wait()
            child.stdout.close()


def test_titled_process_in_the_temporary_folder_is_found_without_its_environment(tmp_path):
    """As Ray's dashboard agent, whose title runs over its environment; a user's process in that folder is not ours."""
    ours, same_prefix = tmp_path / "ft-1", tmp_path / "ft-10"
    children = []
    for folder, name in ((ours / "w2", "ray::Agent"), (ours, "vi"), (same_prefix, "ray::Agent")):
        folder.mkdir(parents=True, exist_ok=True)
        children.append(subprocess.Popen([name, "60"], executable=shutil.which("sleep"), cwd=folder, env={}))
    try:
        # A process has no command line yet when `Popen` returns, for some microseconds.
        while not all(Path(f"/proc/{child.pid}/cmdline").read_bytes() for child in children):
            time.sleep(0.01)
        shutil.rmtree(ours / "w2")  # the folder is gone by then
        assert [item.pid for item in find_marked("nobody", str(ours))] == [children[0].pid]
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_a_reused_pid_is_another_process():
    me = process(os.getpid())
    assert me is not None and me.is_alive()
    impostor = Process(me.pid, me.start_ticks - 1)
    assert not impostor.is_alive()
    assert end([impostor], signal.SIGKILL, 1) == []  # or this test would not return


def test_output_checks(tmp_path):
    check_output(str(tmp_path / "new" / "deep"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        check_output(str(tmp_path / "file"))
    with pytest.raises(UserError, match="no folder can be made"):
        check_output(str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match="GB are needed"):
        check_output(str(tmp_path / "new"), needed_bytes=1 << 60)
    with pytest.raises(UserError, match="no file system"):
        check_output("nosuch://bucket/x")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_unwritable_output_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="not writable"):
        check_output(str(tmp_path / "new"))


def test_estimate_follows_the_speed_seen():
    estimate = Estimate([60.0, 600.0])
    assert estimate.left(0) == 660
    estimate.record(0, 180.0)  # three times slower than expected, over a minute's prior
    assert estimate.left(1) == 600 * 240 / 120
    estimate.record(1, 1000.0)
    assert estimate.left(2) == 0


def test_table_pairs_base_and_tuned():
    entry = {"value": 0.9, "interval": [0.85, 0.95], "n": 100}
    lines = metrics_table(
        {
            "exact_match": entry,
            "baseline_exact_match": {**entry, "value": 0.1},
            "exact_match_gain": entry,
            "lone": entry,
        }
    )
    assert len(lines) == 3 and lines[2].split()[:3] == ["exact", "match", "0.100"]
    assert lines[2].index("0.100") == lines[0].index("base")


def test_overrides_of_the_tour_name_their_job():
    groups = group_overrides(["sweep.search.num_trials=2", "evaluate.gates=[]", "sweep.seed=1"])
    assert groups["sweep"] == ["search.num_trials=2", "seed=1"] and groups["evaluate"] == ["gates=[]"]
    for wrong in ("train.seed=1", "sweep", "sweep.seed"):
        with pytest.raises(UserError, match="is not of the form JOB"):
            group_overrides([wrong])
