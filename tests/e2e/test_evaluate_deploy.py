"""`python -m jobs.evaluate` and `python -m jobs.deploy` as a user runs them, each on a cluster of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.evaluation_cases import PATTERN, write_prepared
from tests.inference_cases import save_varied_model


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    folder = save_varied_model(tokenizer, tmp_path_factory.mktemp("jobs"), num_adapters=1)
    write_prepared(folder / "data", num_test=4)
    return folder


def _environment(home):
    # Without the address of a cluster that another test may have left in the environment.
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "FTLIB_API_KEYS_FILE")}
    return {**kept, "FTLIB_HOME": str(home)}


def _job(name, home, *arguments):
    command = [sys.executable, "-m", f"jobs.{name}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=_environment(home), check=False)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_evaluate_writes_and_judges(folder, tmp_path):
    config = {
        "model": {"source": str(folder / "base"), "adapter": str(folder / "adapter0"), "precision": "float32"},
        "data": {"path": str(folder / "data")},
        "output": {"path": str(folder / "eval")},
        "tasks": [{"kind": "answer", "pattern": PATTERN, "max_new_tokens": 4}, "perplexity"],
        "gates": [{"metric": "exact_match", "min": 0.5}],
        "enforce_gates": True,
    }
    code, result, errors = _job("evaluate", tmp_path, "--config", json.dumps(config))
    assert (code, result["status"]) == (3, "gate_failed"), errors
    assert result["metrics"]["exact_match"] == 0.0
    assert (folder / "eval" / "report.html").exists()
    assert json.loads((folder / "eval" / "result.json").read_text())["manifest"] == result["manifest"]


def test_evaluate_refuses_before_it_starts(folder, tmp_path):
    overrides = [f"model.source={folder}/base", f"data.path={folder}/data", f"output.path={folder}/none"]
    code, result, _ = _job("evaluate", tmp_path, *overrides, "gates=[{metric: exakt_match}]")
    assert code == 2 and "exakt_match is not measured" in result["message"]
    assert not (folder / "none").exists()


def test_deploy_on_its_own_cluster_serves_until_interrupted(folder, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jobs.deploy",
        f"model.source={folder}/base",
        "model.name=base",
        f"http.port={port}",
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=_environment(tmp_path))
        try:
            _wait_for((tmp_path / "log"), "serves until this job ends", process)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=30) as response:
                assert [model["id"] for model in json.load(response)["data"]] == ["base"]
        finally:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=120)
    result = json.loads(output.splitlines()[-1])
    assert process.returncode == 0 and result["url"] == f"http://127.0.0.1:{port}/v1"
    assert "every process on this machine can use the endpoint" in (tmp_path / "log").read_text()


def _wait_for(log, text, process):
    deadline = time.monotonic() + 240
    while text not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.2)
