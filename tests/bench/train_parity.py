"""Our loop beside Hugging Face's Trainer, one process beside ZeRO, packed beside unpacked, preferences beside TRL.

    python -m tests.bench.train_parity [--steps 50] [--only trainer,zero,packed,preferences]

A tiny random Llama in float32 on a CPU. Losses are compared step by step, as the largest difference relative to the
peer's value:
- `trainer`: transformers' Trainer on the same packs in the same order with its own optimiser, clipping and
  normalisation by the batch's tokens; all that it is given is our learning rates. LoRA and full.
- `zero`: ZeRO-1, 2 and 3 on two ranks (gloo) against one process. LoRA and full.
- `packed`: logits of packs against those of each sequence alone, and of the loop's own attention by sequence;
  the largest absolute difference relative to the largest logit.
- `preferences`: DPO and KTO against TRL's trainers.

The last line is JSON; the exit code is 1 when a difference is above 1e-5.
"""

import argparse
import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ftlib.data.pack import PackedSplit
from ftlib.models.adapt import AdapterSpec
from ftlib.train.loop import LoopSettings, train
from ftlib.train.metrics import read_metrics
from ftlib.train.schedule import Schedule
from ftlib.train.strategy import OptimizerSettings, SingleProcess
from tests.bench.training_peers import (
    collate_packs,
    first_model,
    in_order_of_use,
    training_arguments,
    with_our_schedule,
    write_split,
)
from tests.tiny_model import write_tiny_model
from tests.training_cases import conversations

LIMIT = 1e-5
NUM_ROWS = 160
KINDS = ("lora", "full")
STAGES = (1, 2, 3)


def make_settings(root: Path, kind: str, name: str, steps: int) -> LoopSettings:
    """A run of `steps` steps of four packs in two micro-batches."""
    return LoopSettings(
        run_dir=root / f"{name}-{kind}",
        model_folder=root / "model",
        base_source="tiny",
        train_data=root / "train",
        val_data=None,
        resume_key="parity",
        schedule=Schedule(5e-3 if kind == "lora" else 1e-3, steps),
        kind=kind,
        adapter=AdapterSpec(rank=4),
        # Of 49,152 embedding rows most get gradients of rounding size, which Adam with its usual epsilon of 1e-8
        # magnifies to whole steps of a random sign.
        optimizer=OptimizerSettings(weight_decay=0.01, eps=1e-8 if kind == "lora" else 1e-4, max_grad_norm=0.5),
        batch_size=4,
        seed=11,
    )


def largest_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Relative to the second."""
    return max(abs(mine - other) / abs(other) for mine, other in zip(ours, theirs, strict=True))


def our_losses(settings: LoopSettings) -> list[float]:
    """The loss of every step of our loop in this process; a finished run is read."""
    if not settings.run_dir.exists():
        settings.run_dir.mkdir()
        train(settings, SingleProcess(torch.device("cpu")))
    return losses_of(settings.run_dir)


def losses_of(run_dir: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(run_dir) if record["kind"] == "train"]


def trainer_losses(settings: LoopSettings) -> list[float]:
    """The loss of every step as the Trainer itself sums it up."""
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    losses: list[float] = []

    class Recording(with_our_schedule(Trainer, settings)):  # type: ignore[misc]
        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss = super().training_step(*args, **kwargs)
            if self.state.global_step == len(losses):
                losses.append(0.0)
            losses[-1] += loss.item()
            return loss

    examples = in_order_of_use(PackedSplit(settings.train_data), settings)
    Recording(
        model=first_model(settings),
        args=training_arguments(TrainingArguments, settings, settings.run_dir / "trainer"),
        train_dataset=Dataset.from_list(examples),
        data_collator=collate_packs,
    ).train()
    return losses


def compare_trainer(root: Path, steps: int) -> dict[str, float]:
    found = {}
    for kind in KINDS:
        settings = make_settings(root, kind, "alone", steps)
        found[kind] = largest_difference(our_losses(settings), trainer_losses(settings))
    return found


def compare_zero(root: Path, steps: int) -> dict[str, float]:
    cases = [
        (f"zero{stage}", stage, make_settings(root, kind, f"zero{stage}", steps)) for kind in KINDS for stage in STAGES
    ]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(zero_rank, (2, port, [(stage, settings) for _, stage, settings in cases]), nprocs=2)
    found = {}
    for name, _, settings in cases:
        alone = make_settings(root, settings.kind, "alone", steps)
        found[f"{name}_{settings.kind}"] = largest_difference(losses_of(settings.run_dir), our_losses(alone))
    return found


def zero_rank(rank: int, world_size: int, port: int, cases: list[tuple[int, LoopSettings]]) -> None:
    """One rank of every case, in one process."""
    os.environ |= {"DS_ACCELERATOR": "cpu", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    import torch.distributed as dist

    from ftlib.train.deepspeed import DeepSpeedZero, ZeroSettings

    dist.init_process_group("gloo")
    for stage, settings in cases:
        settings.run_dir.mkdir(exist_ok=True)
        train(settings, DeepSpeedZero(torch.device("cpu"), ZeroSettings(stage), settings.micro_batch_size))
    dist.destroy_process_group()


def compare_packed(root: Path, steps: int) -> dict[str, float]:
    """Every pack of several sequences."""
    from ftlib.models.load import load_model
    from ftlib.train.attention import use_packed_attention

    split = PackedSplit(root / "train")
    stock, by_sequence = load_model(root / "model"), load_model(root / "model")
    assert use_packed_attention(by_sequence, torch.device("cpu"))
    found = {"stock": 0.0, "by_sequence": 0.0}
    with torch.no_grad():
        for sample in range(len(split)):
            pack = split[sample]
            ids, positions = (torch.tensor(values).long()[None] for values in (pack.input_ids, pack.position_ids))
            starts = [*(positions[0] == 0).nonzero()[:, 0].tolist(), ids.shape[1]]
            lengths = [end - start for start, end in zip(starts, starts[1:], strict=False)]
            alone = torch.cat(
                [stock(input_ids=part, use_cache=False).logits for part in ids.split(lengths, dim=1)], dim=1
            )
            inputs = {"input_ids": ids, "position_ids": positions, "use_cache": False}
            for name, logits in (
                ("stock", stock(**inputs).logits),
                ("by_sequence", by_sequence(**inputs, sequence_lengths=[lengths]).logits),
            ):
                found[name] = max(found[name], float((logits - alone).abs().max() / alone.abs().max()))
    return found


PARTS: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "trainer": compare_trainer,
    "zero": compare_zero,
    "packed": compare_packed,
}


def main() -> int:
    from ftlib.models.load import load_tokenizer
    from ftlib.models.source import resolve_source

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    arguments = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_tiny_model(root / "model", resolve_source("embedded:smollm2-135m"))
        rows = [row | {"weight": None} for row in conversations(NUM_ROWS)]
        split = write_split(root / "train", rows, load_tokenizer(root / "model"), 128)
        for name in arguments.only.split(","):
            found[name] = PARTS[name](root, arguments.steps)
            print(name, *(f"{case} {value:.1e}" for case, value in found[name].items()), sep="  ", flush=True)
        num_packs = len(split)
    holds = all(value <= LIMIT for values in found.values() for value in values.values())
    print(
        json.dumps(
            {
                "bench": "train_parity",
                "steps": arguments.steps,
                "packs": num_packs,
                "limit": LIMIT,
                **found,
                "holds": holds,
            }
        )
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
