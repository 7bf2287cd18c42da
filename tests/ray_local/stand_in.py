"""A stand-in for training, for tests of the search and not of the model.

It follows a curve that falls to `(log10(rate) + 3)²`, so the best rate is known: 1e-3.
"""

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from ftlib.config.loader import validate
from ftlib.config.sweep import SweepConfig
from ftlib.core.errors import UserError
from ftlib.core.fingerprints import fingerprint
from ftlib.registry.manifest import build_manifest, write_manifest

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
    write_manifest(str(folder / "data"), build_manifest("prepared", "dataset-key", {}))
    (folder / "data" / "_SUCCESS").touch()
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
