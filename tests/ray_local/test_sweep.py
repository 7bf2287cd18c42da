"""Sweeps on a real cluster, with a stand-in for training: what is tested here is the search, not the model."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from ftlib.core.errors import FtlibError, UserError
from ftlib.core.fingerprints import sha256_file
from ftlib.sweep.run import run_sweep
from tests.ray_local import stand_in
from tests.ray_local.stand_in import calls, config_for, fake_training, trials


@pytest.fixture(scope="module", autouse=True)
def _cluster(ray_local):
    """Workers get the stand-in by value: the tests are not installed on them."""
    import ray

    ray.cloudpickle.register_pickle_by_value(stand_in)
    yield
    ray.cloudpickle.unregister_pickle_by_value(stand_in)


def test_search_finds_the_good_rate_stops_poor_trials_and_is_not_redone(tmp_path, monkeypatch):
    # An editor at work beside the test must not change the key of the code.
    monkeypatch.setattr("ftlib.registry.manifest.code_version", lambda: "code")
    monkeypatch.setattr("ftlib.sweep.run.code_version", lambda: "code")
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
    assert manifest["files"] == {
        name: sha256_file(tmp_path / "sweep" / name) for name in ("trials.parquet", "best.json", "report.html")
    }
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
    config = config_for(tmp_path, search={"num_trials": 3, "pruner": {"kind": "none"}, "study_name": "killed"})
    script = textwrap.dedent("""
        import json, sys
        import ray
        from ftlib.config.loader import validate
        from ftlib.config.sweep import SweepConfig
        from ftlib.sweep.run import run_sweep
        from tests.ray_local import stand_in
        ray.init(sys.argv[1], runtime_env={"env_vars": {"FAKE_TRAINING_S": "3"}})  # workers do not have the driver's
        ray.cloudpickle.register_pickle_by_value(stand_in)
        run_sweep(validate(SweepConfig, json.loads(sys.argv[2])), stand_in.fake_training)
    """)
    arguments = [sys.executable, "-c", script, ray_local.address, json.dumps(config.resolved())]
    driver = subprocess.Popen(arguments, cwd=Path(__file__).parents[2])
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
