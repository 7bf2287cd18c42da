"""Several Ray nodes on one machine, and one of them dies: every process of it gets SIGKILL at once."""

import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ftlib.config.loader import load_config
from ftlib.config.train import TrainConfig
from ftlib.runtime.local import Head
from ftlib.train.loop import train
from ftlib.train.strategy import SingleProcess
from ftlib.train.worker import loop_settings
from tests import faults
from tests.prepared_data import small_prepared
from tests.training_cases import records

STEPS, INTERVAL, KILL_AT = 80, 10, 25
TRAIN = f"""
method: {{rank: 4, dropout: 0.1}}
optim: {{learning_rate: 0.01}}
train:
  {{max_steps: {STEPS}, global_batch_size: 4, max_seq_len: 128, precision: float32, eval_every_steps: {INTERVAL}}}
parallel: {{strategy: deepspeed, zero_stage: 2}}
scaling: {{num_workers: 2}}
seed: 5
"""


def kill_node_of_a_training_worker(head: Head) -> None:
    """SIGKILL to all processes of a node on which a training worker runs."""
    node = next(pids for root in faults.node_roots(head) if any(map(trains, pids := faults.below(root, head))))
    for pid in node:
        os.kill(pid, signal.SIGKILL)


def trains(pid: int) -> bool:
    return faults.title(pid).startswith("ray::") and "TrainWorker" in faults.title(pid)


def wait_for_step(metrics: Path, step: int, job: subprocess.Popen, timeout_s: float = 400) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and job.poll() is None:
        if metrics.exists() and f'"step": {step},' in metrics.read_text():
            return
        time.sleep(0.1)
    pytest.fail(f"no step {step} within {timeout_s} s (exit code {job.poll()})")


def test_training_outlives_the_node_of_one_of_its_workers(nodes, tiny_model, tmp_path):
    small_prepared(tmp_path / "data")
    config = tmp_path / "train.yaml"
    config.write_text(
        f"data: {{path: {tmp_path}/data}}\nmodel: {{source: {tiny_model}}}\n"
        f"output: {{path: {tmp_path}/runs, run_id: lost-node}}\n" + TRAIN
    )
    run_dir = tmp_path / "runs" / "lost-node"
    log = tmp_path / "log"
    job = faults.start(["train", "--config", str(config)], nodes, log, job="jobs.submit")
    wait_for_step(run_dir / "metrics.jsonl", KILL_AT, job)
    kill_node_of_a_training_worker(nodes.head)
    killed_at = len(records(run_dir, "train"))
    out, _ = job.communicate(timeout=400)
    result = json.loads(out.splitlines()[-1])
    assert job.returncode == 0, log.read_text()[-4000:]
    assert killed_at < STEPS  # else the node died after the work was done
    assert "resuming from" in log.read_text()

    # The same run in this process, which nothing disturbs.
    values = load_config(TrainConfig, str(config), [])
    folders = {
        json.loads(path.read_text())["num_rows"]: str(path.parent) for path in (tmp_path / "runs").rglob("split.json")
    }
    work = {
        "run_dir": str(run_dir), "total_steps": STEPS, "resume_key": "alone",
        "folders": {"train": folders[40], "val": folders[9]},
    }  # fmt: skip
    device = torch.device("cpu")
    settings = replace(loop_settings(values, work, device), run_dir=tmp_path / "alone")
    settings.run_dir.mkdir()
    alone = train(settings, SingleProcess(device))
    assert result["val_loss"] == pytest.approx(alone.val_loss, rel=1e-4)
    expected = [(record["step"], record["loss"]) for record in records(settings.run_dir, "train")]
    found = [(record["step"], record["loss"]) for record in records(run_dir, "train")]
    assert [step for step, _ in found] == [step for step, _ in expected] == list(range(1, STEPS + 1))
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], rel=1e-4, abs=1e-5)
    name = "adapter/adapter_model.safetensors"
    for key, tensor in load_file(settings.run_dir / name).items():
        torch.testing.assert_close(load_file(run_dir / name)[key], tensor, rtol=1e-2, atol=1e-4)
