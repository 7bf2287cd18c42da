"""`kill -9` of a training rank, of the driver and of nodes, and 2 → 1 → 2 workers, against an undisturbed run.

    python -m tests.bench.train_resume [--kinds lora full] [--steps 40] [--interval 10]

A head and three worker nodes of one CPU on this machine; a tiny Llama in float32 by LoRA with ZeRO-2 and by full
fine-tuning with ZeRO-3, two workers. What is killed is killed in mid-run; a dead driver is started again. In the case
`elastic` two of the three nodes go, and a run of one to two workers goes on with the one that is left. For every case:
the largest relative difference of a step's loss from the undisturbed run's (target 1e-4), whether every step saw the
same tokens and weights once (no row lost or seen twice), and how many steps were done again after each restart (target:
at most one interval). The last line is JSON; exit code 1 where a target is missed.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ftlib.models.source import resolve_source
from tests import faults
from tests.prepared_data import small_prepared
from tests.tiny_model import write_tiny_model
from tests.training_cases import records

TOLERANCE = 1e-4
METHODS = {
    "lora": "method: {kind: lora, rank: 4, dropout: 0.1}\nparallel: {strategy: deepspeed, zero_stage: 2}",
    # Rare tokens get gradients of rounding size; a larger epsilon keeps Adam from magnifying it.
    "full": "method: {kind: full}\nparallel: {strategy: deepspeed, zero_stage: 3}",
}
CASES = ("rank", "driver", "node", "elastic", "2-1-2")


def write_config(folder: Path, kind: str, case: str, steps: int, interval: int) -> Path:
    path = folder / f"{kind}-{case}.yaml"
    path.write_text(
        f"data: {{path: {folder}/data}}\nmodel: {{source: {folder}/model}}\n"
        f"output: {{path: {folder}/runs, run_id: {kind}-{case}}}\n{METHODS[kind]}\n"
        f"optim: {{learning_rate: 0.003, eps: {1e-8 if kind == 'lora' else 1e-4}}}\n"
        f"train: {{max_steps: {steps}, global_batch_size: 4, max_seq_len: 128, precision: float32, "
        f"eval_every_steps: {interval}}}\nscaling: {{num_workers: 2, max_failures: 3"
        f"{', min_workers: 1' if case == 'elastic' else ''}}}\nseed: 5\n"
    )
    return path


def reaches(metrics: Path, step: int, job: "subprocess.Popen[str]") -> bool:
    """Wait until a run has done a step; False where its job ended before."""
    while job.poll() is None:
        if metrics.exists() and f'"step": {step},' in metrics.read_text():
            return True
        time.sleep(0.05)
    return False


def kill(pids: set[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def ranks(nodes: faults.Nodes) -> list[int]:
    marked = (item.pid for item in faults.find_marked(nodes.head.cluster_id, nodes.head.temp_dir))
    return sorted(pid for pid in marked if "TrainWorker" in faults.title(pid))


def node_of(pid: int, nodes: faults.Nodes) -> set[int]:
    return next(found for root in faults.node_roots(nodes.head) if pid in (found := faults.below(root, nodes.head)))


def disturb(config: Path, run_dir: Path, case: str, nodes: faults.Nodes, log: Path, at: list[int]) -> list[int]:
    """Run to the end with what the case says killed at the steps `at`; returns the last step done before each kill."""
    rng, done = random.Random(0), []
    arguments, metrics = ["--config", str(config)], run_dir / "metrics.jsonl"

    def wait_and_kill(job: "subprocess.Popen[str]", step: int, what: str) -> None:
        if not reaches(metrics, step, job):
            sys.exit(f"{run_dir.name}: ended before step {step}\n{log.read_text()[-3000:]}")
        victims = {job.pid} if what == "driver" else {rng.choice(ranks(nodes))}
        if what == "node":
            victims = node_of(min(victims), nodes)
        if what == "elastic":
            victims = set().union(*(faults.below(root, nodes.head) for root in faults.node_roots(nodes.head)[1:]))
        kill(victims)
        time.sleep(0.5)
        done.append(len(records(run_dir, "train")))

    if case in {"rank", "node", "elastic"}:
        job = faults.start(arguments, nodes, log, job="jobs.train")
        wait_and_kill(job, at[0], case)
    else:
        workers = [2, 2] if case == "driver" else [2, 1, 2]
        for step, number in zip(at, workers, strict=False):
            job = faults.start([*arguments, f"scaling.num_workers={number}"], nodes, log, job="jobs.train")
            wait_and_kill(job, step, "driver")
            job.wait()
            if len(done) == len(workers) - 1:
                break
        job = faults.start([*arguments, f"scaling.num_workers={workers[-1]}"], nodes, log, job="jobs.train")
    if faults.finish(job) is None:
        sys.exit(f"{run_dir.name} did not end well\n{log.read_text()[-3000:]}")
    return done


def compare(run_dir: Path, calm: Path, log: Path, done: list[int]) -> dict[str, Any]:
    """How far a disturbed run is from the undisturbed one."""
    expected, found = records(calm, "train"), records(run_dir, "train")
    # A node that came back has a log monitor of its own, and one folder of logs with the others: lines may come twice.
    lines = dict.fromkeys(re.findall(rf".*resuming from \S*{run_dir.name}/checkpoints/step-\d+", log.read_text()))
    resumed = [int(line.rpartition("-")[2]) for line in lines]
    same = [(row["step"], row["tokens"], row["supervised_weight"]) for row in expected]
    return {
        "run": run_dir.name,
        "killed_after_step": done,
        "resumed_from": resumed,
        "repeated": [last - first for last, first in zip(done, resumed, strict=False)],
        "every_row_once": [(row["step"], row["tokens"], row["supervised_weight"]) for row in found] == same,
        "largest_difference": max(
            abs(left["loss"] - right["loss"]) / right["loss"] for left, right in zip(found, expected, strict=False)
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--interval", type=int, default=10)
    options = parser.parse_args()
    folder, found = Path(tempfile.mkdtemp(prefix="ftlib-resume-")), []
    small_prepared(folder / "data")
    write_tiny_model(folder / "model", resolve_source("embedded:smollm2-135m"))
    at = [options.interval + options.interval // 2, 2 * options.interval + options.interval // 2]
    with faults.cluster(folder / "cluster", count=3, cpus=1) as nodes:
        for kind in options.kinds:
            calm = write_config(folder, kind, "calm", options.steps, options.interval)
            log = folder / f"{kind}-calm.log"
            if faults.finish(faults.start(["--config", str(calm)], nodes, log, job="jobs.train")) is None:
                sys.exit(log.read_text()[-3000:])
            for case in options.cases:
                config, run_dir = write_config(folder, kind, case, options.steps, options.interval), folder / "runs"
                log, run_dir = folder / f"{kind}-{case}.log", run_dir / f"{kind}-{case}"
                done = disturb(config, run_dir, case, nodes, log, at)
                found.append(compare(run_dir, folder / "runs" / f"{kind}-calm", log, done))
                print(json.dumps(found[-1]), flush=True)
                nodes.restore()
    holds = all(
        row["every_row_once"]
        and row["largest_difference"] <= TOLERANCE
        and len(row["resumed_from"]) == len(row["killed_after_step"])
        and max(row["repeated"]) <= options.interval
        for row in found
    )
    print(json.dumps({"bench": "train_resume", "steps": options.steps, "cases": found, "holds": holds}))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
