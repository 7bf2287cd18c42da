"""A sweep over real training runs of a tiny model: two trials at a time on two CPUs, one stopped early."""

import json
import random
from pathlib import Path

import pyarrow.parquet as pq

from ftlib.config.loader import validate
from ftlib.config.sweep import SweepConfig
from ftlib.core.fingerprints import folder_sha256
from ftlib.registry.candidate import read_run
from ftlib.sweep.run import run_sweep
from tests.prepared_data import write_prepared

SIZES = {"train": 48, "val": 8, "test": 4}
WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet"]


def always_yes(split: str, size: int) -> list[dict]:
    """Conversations whose answers are the same word, so that any sensible rate learns."""
    rng = random.Random(f"5 {split}")
    return [
        {
            "id": f"{split}-{i}",
            "messages": [
                {"role": "user", "content": " ".join(rng.sample(WORDS, 6))},
                {"role": "assistant", "content": "yes"},
            ],
        }
        for i in range(size)
    ]


def test_sweep_trains_stops_and_keeps_the_best(ray_local, tiny_model, tmp_path, capfd):
    data = write_prepared(tmp_path / "data", **{name: always_yes(name, size) for name, size in SIZES.items()})
    train = {
        "data": {"path": str(data)},
        "model": {"source": str(tiny_model)},
        "output": {"path": str(tmp_path / "runs")},
        "method": {"rank": 4},
        "train": {"max_steps": 6, "global_batch_size": 2, "max_seq_len": 64, "precision": "float32"},
        "parallel": {"strategy": "ddp"},
        "optim": {"scheduler": "constant"},
    }
    rates = [3e-2, 1e-2, 1e-6]
    search = {
        "num_trials": 3,
        "max_concurrent_trials": 2,
        "pruner": {"min_steps": 2},
        "seed_trials": [{"optim.learning_rate": rate} for rate in rates],
    }
    space = {"optim.learning_rate": {"type": "float", "low": 1e-6, "high": 1e-1, "log": True}}
    output = {"path": str(tmp_path / "sweep")}
    config = validate(SweepConfig, {"train": train, "space": space, "search": search, "output": output})
    result = run_sweep(config)
    # A trial trains inside a worker: it too knows that no dashboard is there for Ray's cleaner to ask every second.
    assert "Failed to query" not in "".join(capfd.readouterr())

    rows = pq.read_table(tmp_path / "sweep" / "trials.parquet").to_pylist()
    assert [json.loads(row["params"])["optim.learning_rate"] for row in rows] == rates
    # The rate that moves nothing is worse than another trial at the first rung, whatever the order of events.
    assert (rows[2]["state"], [item["step"] for item in rows[2]["steps"]]) == ("PRUNED", [2])
    stopped = [json.loads(line) for line in (Path(rows[2]["run_path"]) / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in stopped) == 2

    winner = min((row for row in rows if row["state"] == "COMPLETE"), key=lambda row: row["value"])
    assert result["run_path"] == winner["run_path"]
    assert [item["step"] for item in winner["steps"]] == [2, 4, 6]
    assert winner["value"] == min(item["value"] for item in winner["steps"]) < rows[2]["value"]
    run = read_run(str(tmp_path / "sweep"))
    assert run.run_id == result["run_id"]
    assert folder_sha256(Path(run.path) / run.result) == run.sha256
