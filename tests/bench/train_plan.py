"""Estimated against measured peak memory of training: `python -m tests.bench.train_plan [SETTING …]`.

Each setting trains the embedded model for two steps of one sequence, all of whose tokens are supervised, in a process
of its own. On CPUs the peak is that of resident memory; where there is a CUDA device, that of its allocator, without
what the plan sets aside for CUDA's context. A checkpoint's buffer comes after the steps and is not in the figure.
Prints a table, and exits 1 where an estimate is off by more than 15 %.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS = {
    "lora-256": {},
    "lora-1024": {"train.max_seq_len": 1024},
    "lora-1024-checkpointing": {"train.max_seq_len": 1024, "train.activation_checkpointing": True},
    "lora-1024-all-logits": {"train.max_seq_len": 1024, "train.chunked_loss": False},
    "lora-256-bfloat16": {"train.precision": "bfloat16"},
    "lora-1024-bfloat16": {"train.max_seq_len": 1024, "train.precision": "bfloat16"},
    "full-256": {"method.kind": "full"},
    "full-1024-checkpointing": {
        "method.kind": "full", "train.max_seq_len": 1024, "train.activation_checkpointing": True,
    },
}  # fmt: skip
SOURCE = "embedded:smollm2-135m"
TOLERANCE = 0.15


def configuration(name: str):
    import torch

    from ftlib.config.train import TrainConfig
    from ftlib.train.fit import with_overrides

    base = TrainConfig.model_validate(
        {
            "data": {"path": "none"},
            "model": {"source": SOURCE},
            "output": {"path": "none"},
            "parallel": {"strategy": "ddp"},
        }
    )
    common = {"train.max_seq_len": 256, "train.precision": "float32", "train.global_batch_size": 1}
    return with_overrides(base, common | {"scaling.use_gpu": torch.cuda.is_available()} | SETTINGS[name])


def estimate(name: str) -> int:
    from ftlib.models.source import read_config, resolve_source
    from ftlib.train.plan import GPU_OVERHEAD_BYTES, ModelShape, plan_memory

    config = configuration(name)
    total = plan_memory(config, ModelShape.from_config(read_config(resolve_source(SOURCE)))).total_bytes
    return total - GPU_OVERHEAD_BYTES if config.scaling.use_gpu else total


def measure(name: str, folder: Path) -> None:
    """In a process of its own: train and print the peak."""
    import numpy as np
    import torch

    from ftlib.data.pack import write_file, write_index
    from ftlib.models.source import resolve_source
    from ftlib.train.loop import LoopSettings, train
    from ftlib.train.metrics import read_metrics
    from ftlib.train.schedule import Schedule
    from ftlib.train.strategy import SingleProcess

    config = configuration(name)
    length, rng = config.train.max_seq_len, np.random.default_rng(0)
    tokens = [rng.integers(100, 40_000, length).tolist() for _ in range(2)]
    data, run_dir = folder / "data", folder / "run"
    data.mkdir()
    run_dir.mkdir()
    rows = write_file(data, 0, tokens, [[1.0] * length] * 2, ["a", "b"])
    write_index(data, rows, length, packing=True, counts={})
    device = torch.device("cuda" if config.scaling.use_gpu else "cpu")
    settings = LoopSettings(
        run_dir=run_dir,
        model_folder=resolve_source(SOURCE),
        base_source=SOURCE,
        train_data=data,
        val_data=None,
        resume_key="bench",
        schedule=Schedule(1e-5, total_steps=2),
        kind=config.method.kind,
        batch_size=1,
        precision=getattr(torch, config.train.precision),
        activation_checkpointing=config.train.activation_checkpointing,
        chunked_loss=config.train.chunked_loss,
    )
    train(settings, SingleProcess(device))
    print(json.dumps([record["memory_gb"] for record in read_metrics(run_dir) if record["kind"] == "train"][-1]))


def main(names: list[str]) -> int:
    print(f"{'setting':28} {'estimated':>10} {'measured':>10} {'ratio':>6}")
    worst = 0.0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "tests.bench.train_plan", "--measure", name, folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        measured, estimated = json.loads(done.stdout.splitlines()[-1]) * 1e9, estimate(name)
        worst = max(worst, abs(estimated / measured - 1))
        print(f"{name:28} {estimated / 1e9:7.2f} GB {measured / 1e9:7.2f} GB {estimated / measured:6.2f}", flush=True)
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main(sys.argv[1:] or list(SETTINGS)))
