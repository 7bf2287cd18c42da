"""Jobs submitted to a head that `ftlib.runtime.local` started, as the quickstart does."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftlib.core.errors import UserError
from ftlib.runtime import local
from ftlib.runtime.envfile import read_env
from ftlib.runtime.processes import end, find_marked

ROOT = Path(__file__).resolve().parents[2]
TICKETS = [
    {"input": f"Ticket {i}: the {thing} number {i} does not {verb} since day {i * 7}.", "output": f"queue: {thing}"}
    for i, (thing, verb) in enumerate([("printer", "print"), ("router", "connect"), ("screen", "light up")] * 8)
]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head in a state folder of its own, and the environment of a client that sourced its `env`."""
    state = tmp_path_factory.mktemp("state")
    started = local.start(state, cpus=2, endpoint_port=0)
    environment = {**os.environ, **read_env(state / "env"), "FTLIB_HOME": os.environ.get("FTLIB_HOME", "")}
    environment.pop("RAY_AUTH_TOKEN", None)  # of this session's own cluster; sourcing the file drops it too
    yield started, {name: value for name, value in environment.items() if value}
    local.stop(state)


def submit(environment, *arguments, cwd=ROOT):
    """Run `python -m jobs.submit`; returns exit code, the last line's object and the rest of the output."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.submit", *map(str, arguments)],
        capture_output=True, text=True, timeout=240, check=False, cwd=cwd, env={**environment, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 1, (done.stdout, done.stderr)
    return done.returncode, json.loads(lines[0]), done.stderr


def test_mistakes_are_told_before_anything_is_sent(head):
    _, environment = head
    started = time.monotonic()
    code, result, log = submit(environment, "prepare", "input.pths=x", "dedup.threshold=2")
    assert code == 2 and result["status"] == "error"
    assert "did you mean input.paths" in log and "dedup.threshold" in log and "submitted" not in log
    assert time.monotonic() - started < 15


def test_job_s_own_exit_code_and_result_come_back(head, tmp_path):
    _, environment = head
    code, result, log = submit(
        environment, "promote", "run.path=none", "evaluation.path=none", "registry.uri=reg", cwd=tmp_path
    )
    assert code == 2 and result["job"] == "promote" and result["submission_id"]
    assert str(tmp_path / "none") in result["message"]  # made absolute from where the user stood
    assert "Traceback" not in log


def test_prepare_through_submit_writes_where_the_user_stands(head, tmp_path):
    _, environment = head
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TICKETS))
    config = tmp_path / "prepare.yaml"
    config.write_text(
        "input: {paths: [in.jsonl]}\noutput: {path: out}\npii: {profile: none}\ndedup: {enabled: false}\n"
    )
    code, result, log = submit(environment, "prepare", "--config", config, "filter.enabled=false", cwd=tmp_path)
    assert code == 0, log
    assert result["manifest"] == str(tmp_path / "out" / "manifest.json")
    assert (tmp_path / "out" / "_SUCCESS").exists()
    written = json.loads((tmp_path / "out" / "result.json").read_text())
    assert {**written, "submission_id": result["submission_id"]} == result


def test_plain_ray_job_submit_refuses_relative_paths_with_the_absolute_one(head):
    _, environment = head
    ray = Path(sys.executable).parent / "ray"
    done = subprocess.run(
        [ray, "job", "submit", "--working-dir", ".", "--", "python", "-m", "jobs.prepare", "--config",
         "jobs/configs/quickstart/prepare.yaml"],
        capture_output=True, text=True, timeout=120, check=False, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert done.returncode != 0
    assert "input.paths" in done.stdout and "is relative; give the absolute one" in done.stdout
    assert '"exit_code": 2' in done.stdout or "exit code 2" in done.stdout


def test_wrong_token_is_a_user_error(head):
    _, environment = head
    wrong = {**environment, "RAY_AUTH_TOKEN": "f" * 64}
    wrong.pop("RAY_AUTH_TOKEN_PATH")
    code, result, _ = submit(wrong, "promote", "run.path=a", "evaluation.path=a", "registry.uri=r")
    assert code == 2 and "token" in result["message"]


def test_bad_address_ends_a_job_within_seconds(tmp_path):
    started = time.monotonic()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_A")}
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TICKETS))
    done = subprocess.run(
        [sys.executable, "-m", "jobs.prepare", f"input.paths=[{tmp_path}/in.jsonl]", f"output.path={tmp_path}/out",
         "pii.profile=none", "cluster.address=127.0.0.1:1"],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT, env=clean,
    )  # fmt: skip
    assert done.returncode == 2 and "no Ray cluster answers" in done.stderr
    assert not (tmp_path / "out").exists()
    assert time.monotonic() - started < 30


def test_start_again_finds_the_head_and_stop_ends_only_its_own(head, tmp_path):
    running, _ = head
    again = local.start(running.state, cpus=2)
    assert again.process == running.process and again.address == running.address

    copy = tmp_path / "state"  # a second head beside the first
    second = local.start(copy, cpus=1, endpoint_port=0)
    try:
        assert second.address != running.address and second.dashboard_url != running.dashboard_url
        # Dies badly: its daemons must still be cleared away. A dying process may look alive for a moment.
        assert end([second.process], signal.SIGKILL, timeout_s=30) == []
        third = local.start(copy, cpus=1, endpoint_port=0)
        assert third.process != second.process and third.is_alive()
        assert find_marked(second.cluster_id, second.temp_dir) == []
    finally:
        local.stop(copy)
    assert find_marked(third.cluster_id, third.temp_dir) == [] and not os.path.exists(third.temp_dir)
    assert not local.stop(copy)
    assert running.is_alive()
    assert (copy / "ray_token").exists() and not (copy / "env").exists()


def test_a_head_that_cannot_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "_object_store_bytes", lambda: 1)
    with pytest.raises(UserError, match="its last words"):
        local.start(tmp_path / "state", cpus=1, endpoint_port=0)
    assert not (tmp_path / "state" / "cluster.json").exists()
    shutil.rmtree(tmp_path / "state")
