"""A sweep over real training runs of a tiny model: two trials at a time on two CPUs, one stopped early."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ftlib.config.loader import validate
from ftlib.config.sweep import SweepConfig
from ftlib.core.fingerprints import folder_sha256
from ftlib.data.schema import RECORD
from ftlib.registry.candidate import read_run
from ftlib.registry.manifest import build_manifest, hash_files, write_manifest
from ftlib.sweep.run import run_sweep

WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet"]


def write_prepared(folder: Path, sizes: dict[str, int]) -> Path:
    """A prepared dataset whose answers are always the same word, so that any sensible rate learns."""
    rng = random.Random(5)
    for split, size in sizes.items():
        rows = []
        for i in range(size):
            question = {"role": "user", "content": " ".join(rng.sample(WORDS, 6))}
            answer = {"role": "assistant", "content": "yes"}
            rows.append({"id": f"{split}-{i}", "source": "s", "messages": [question, answer], "weight": 1.0})
        (folder / split).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, RECORD), folder / split / "part-0.parquet")
    counts = {"splits": sizes}
    write_manifest(str(folder), build_manifest("prepared", "k", {}, counts=counts, files=hash_files(folder)))
    (folder / "_SUCCESS").touch()
    return folder


def test_sweep_trains_stops_and_keeps_the_best(ray_local, tiny_model, tmp_path):
    train = {
        "data": {"path": str(write_prepared(tmp_path / "data", {"train": 48, "val": 8, "test": 4}))},
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
