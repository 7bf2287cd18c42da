"""Sweeps on a real cluster, with a stand-in for training: what is tested here is the search, not the model.

The stand-in follows a curve that falls to `(log10(rate) + 3)²`, so the best rate is known: 1e-3.
"""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ftlib.config.loader import validate
from ftlib.config.sweep import SweepConfig
from ftlib.core.errors import FtlibError, UserError
from ftlib.core.fingerprints import fingerprint
from ftlib.registry.manifest import build_manifest, write_manifest
from ftlib.sweep.run import run_sweep

MAX_STEPS = 40


@dataclass(frozen=True)
class FakeResult:
    run_id: str
    path: str
    val_loss: float
    stopped_early: bool


def fake_training(config, on_eval=None):
    """Writes what training writes, in the order it does; counts its calls in a file beside the runs."""
    folder = Path(config.output.path)
    folder.mkdir(parents=True, exist_ok=True)
    rate = config.optim.learning_rate
    with open(folder / "calls.txt", "a") as file:
        file.write(f"{config.method.rank} {rate}\n")
    if config.method.rank == 13:
        raise RuntimeError("out of memory")
    if config.method.rank == 14:
        raise UserError("the dataset is empty")
    time.sleep(float(os.environ.get("FAKE_TRAINING_S", "0")))
    run_id = "run-" + fingerprint([rate, config.method.rank])
    run = folder / run_id
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    final, stopped = (math.log10(rate) + 3) ** 2, False
    for step in range(config.train.eval_every_steps or MAX_STEPS, MAX_STEPS + 1, config.train.eval_every_steps or 1):
        value = final + math.exp(-step / 10)
        if on_eval is not None and on_eval(step, {"val_loss": value}):
            stopped = True
            break
    else:
        write_manifest(str(run), build_manifest("run", run_id, {}))
    return FakeResult(run_id, str(run), final, stopped)


def config_for(folder: Path, **values) -> SweepConfig:
    (folder / "data").mkdir(exist_ok=True)
    write_manifest(str(folder / "data"), build_manifest("dataset", "dataset-key", {}))
    train = {
        "data": {"path": str(folder / "data")},
        "model": {"source": "m"},
        "output": {"path": str(folder / "runs")},
        "train": {"max_steps": MAX_STEPS, "eval_every_steps": 10},
    }
    space = {"optim.learning_rate": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True}}
    defaults = {"train": train, "space": space, "output": {"path": str(folder / "sweep")}, "seed": 3}
    return validate(SweepConfig, defaults | values)


def calls(folder: Path) -> list[str]:
    return (folder / "runs" / "calls.txt").read_text().splitlines()


def trials(folder: Path) -> list[dict]:
    return pq.read_table(folder / "sweep" / "trials.parquet").to_pylist()


@pytest.fixture(scope="module", autouse=True)
def _cluster(ray_local):
    """Workers get the stand-in by value: this module is not installed on them."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_search_finds_the_good_rate_stops_poor_trials_and_is_not_redone(tmp_path):
    search = {
        "num_trials": 8,
        "max_concurrent_trials": 2,
        "pruner": {"min_steps": 10},
        "seed_trials": [{"optim.learning_rate": 2e-3}],
    }
    config = config_for(tmp_path, search=search)
    result = run_sweep(config, fake_training)

    rows = trials(tmp_path)
    states = [row["state"] for row in rows]
    assert len(rows) == 8 and set(states) == {"COMPLETE", "PRUNED"}
    complete = [row for row in rows if row["state"] == "COMPLETE"]
    winner = min(complete, key=lambda row: row["value"])
    assert abs(math.log10(json.loads(winner["params"])["optim.learning_rate"]) + 3) <= 0.31  # no worse than the seed
    best = json.loads((tmp_path / "sweep" / "best.json").read_text())
    assert (best["run_id"], best["value"]) == (winner["run_id"], winner["value"]) == (result["run_id"], result["value"])
    for row in rows:
        # A stopped trial ended at a rung and its checkpoints are gone; the others saw every step and keep theirs.
        steps = [item["step"] for item in row["steps"]]
        if row["state"] == "PRUNED":
            assert steps[-1] in (10, 20)
            assert not (Path(row["run_path"]) / "checkpoints").exists()
        else:
            assert steps == [10, 20, 30, 40]
            assert (Path(row["run_path"]) / "checkpoints").exists()
    manifest = json.loads(Path(result["manifest"]).read_text())
    assert manifest["counts"]["trials"] == 8 and manifest["best"] == best
    assert "<svg" in (tmp_path / "sweep" / "report.html").read_text()

    assert run_sweep(config, fake_training) == result
    assert len(calls(tmp_path)) == 8
    # More trials go on from those found.
    more = config_for(tmp_path, search=search | {"num_trials": 10})
    assert run_sweep(more, fake_training)["value"] <= result["value"]
    assert len(calls(tmp_path)) == 10


def test_a_small_space_is_tried_once_each(tmp_path):
    space = {"method.rank": {"type": "categorical", "choices": [2, 4, 8]}}
    config = config_for(tmp_path, space=space, search={"num_trials": 9, "pruner": {"kind": "none"}})
    run_sweep(config, fake_training)
    assert sorted(line.split()[0] for line in calls(tmp_path)) == ["2", "4", "8"]
    assert sorted(row["state"] for row in trials(tmp_path) if row["state"] != "DUPLICATE") == ["COMPLETE"] * 3


def test_a_failed_trial_is_recorded_and_the_search_goes_on(tmp_path):
    space = {"method.rank": {"type": "categorical", "choices": [4, 13]}}
    search = {"num_trials": 2, "seed_trials": [{"method.rank": 13}, {"method.rank": 4}]}
    result = run_sweep(config_for(tmp_path, space=space, search=search), fake_training)
    assert result["params"] == {"method.rank": 4}
    failed, complete = trials(tmp_path)
    assert (failed["state"], failed["error"]) == ("FAIL", "RuntimeError: out of memory")
    assert complete["state"] == "COMPLETE"


def test_when_all_fail_the_sweep_fails_and_leaves_no_result(tmp_path):
    space = {"method.rank": {"type": "categorical", "choices": [13]}}
    config = config_for(tmp_path, space=space, search={"num_trials": 1})
    with pytest.raises(FtlibError, match="out of memory"):
        run_sweep(config, fake_training)
    assert not (tmp_path / "sweep" / "manifest.json").exists()


def test_mistakes_of_the_user_end_the_sweep_at_once(tmp_path):
    space = {"method.rank": {"type": "categorical", "choices": [14, 4]}}
    config = config_for(tmp_path, space=space, search={"seed_trials": [{"method.rank": 14}]})
    with pytest.raises(UserError) as caught:
        run_sweep(config, fake_training)
    assert str(caught.value) == "the dataset is empty"  # no remote traceback
    assert len(calls(tmp_path)) == 1

    missing = config.train.resolved() | {"data": {"path": str(tmp_path / "absent")}}
    with pytest.raises(UserError, match="absent"):
        run_sweep(config_for(tmp_path, train=missing), fake_training)


def test_a_killed_sweep_goes_on(tmp_path, ray_local):
    """SIGKILL while the second trial runs: the first is found again, the second run again, the rest follow."""
    config = config_for(tmp_path, search={"num_trials": 3, "pruner": {"kind": "none"}})
    script = textwrap.dedent("""
        import json, sys
        import ray
        from ftlib.config.loader import validate
        from ftlib.config.sweep import SweepConfig
        from ftlib.sweep.run import run_sweep
        from tests.ray_local import test_sweep
        ray.init(sys.argv[1])
        ray.cloudpickle.register_pickle_by_value(test_sweep)
        run_sweep(validate(SweepConfig, json.loads(sys.argv[2])), test_sweep.fake_training)
    """)
    arguments = [sys.executable, "-c", script, ray_local.address, json.dumps(config.resolved())]
    environment = os.environ | {"FAKE_TRAINING_S": "3", "PYTHONPATH": str(Path(__file__).parents[2])}
    driver = subprocess.Popen(arguments, env=environment, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and driver.poll() is None:
        if (tmp_path / "runs" / "calls.txt").exists() and len(calls(tmp_path)) >= 2:
            break
        time.sleep(0.1)
    assert driver.poll() is None
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = calls(tmp_path)
    assert len(before) == 2

    run_sweep(config, fake_training)
    after = calls(tmp_path)
    assert after[2] == before[1] and before[0] not in after[2:]
    states = [row["state"] for row in trials(tmp_path)]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
