"""Speed of our loop beside Hugging Face's Trainer and TRL's SFTTrainer, and of Ray Train beside the bare loop.

    python -m tests.bench.train_speed [--only step,packing,ray] [--model embedded:smollm2-135m | tiny] [--threads N]

LoRA of rank 16 on all linear layers, float32, on a CPU; nobody evaluates, saves or logs (our loop writes its metrics).
- `step`: seconds a step on identical batches, on packs of questions and answers (answers learnt), and on plain text
  (every token learnt, one sequence a row). Contenders take turns step by step; the ratio is the median over the steps.
  Their losses are compared, so that all did the same work.
- `packing`: tokens a second without padding, on MedQuAD and Bitext shuffled with seed 0, at 1,024 tokens: our packs,
  TRL with its default batch of eight padded rows, TRL's own packing (best fit; one pack a micro-batch, since it puts
  several into one row, whose attention costs the square). On a CPU it has no flash attention: transformers then keeps
  sequences apart with a mask. Ratios are medians over groups of alternating steps.
- `ray`: median seconds a step of one worker under Ray Train beside the same loop in a plain process without Ray
  running; runs alternate. `ray_vs_idle` compares with the plain loop beside a Ray cluster that has nothing to do: on a
  machine without a core to spare, Ray's daemons alone cost the loop a tenth.

The last line is JSON; the exit code is 1 when a ratio misses its limit. Without `../shared/data` it says so and ends.
"""

import argparse
import gzip
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.alternate import Contender, Step, Turn, alternate

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
SETS = (
    ("medical/medquad_3000.jsonl.gz", "input", "output"),
    ("tickets/bitext_support_6480.jsonl.gz", "instruction", "response"),
)
LIMITS = {
    "step_vs_trainer": 1.0,
    "step_vs_sft": 1.05,
    "tokens_vs_padded": 2.0,
    "tokens_vs_packed": 1.0,
    "ray_vs_bare": 1.03,
}
"""Of seconds (and of tokens a second, where it is a floor)."""
STEPS = 10_000
"""Contenders never reach the end of their runs: they are stopped after their last turn."""


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Canonical records of both sets, shuffled with seed 0."""
    rows = []
    for name, question, answer in SETS:
        with gzip.open(folder / name, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file):
                row = json.loads(line)
                messages = [{"role": "user", "content": row[question]}, {"role": "assistant", "content": row[answer]}]
                rows.append({"id": f"{name}-{number}", "messages": messages, "text": None, "weight": None})
    random.Random(0).shuffle(rows)
    return rows


def make_settings(root: Path, name: str, model: Path, batch_size: int) -> Any:
    from ftlib.models.adapt import AdapterSpec
    from ftlib.train.loop import LoopSettings
    from ftlib.train.schedule import Schedule

    return LoopSettings(
        run_dir=root / f"run-{name}",
        model_folder=model,
        base_source=str(model),
        train_data=root / name,
        val_data=None,
        resume_key="speed",
        schedule=Schedule(2e-4, STEPS),
        adapter=AdapterSpec(rank=16),
        batch_size=batch_size,
    )


def our_loop(settings: Any, turn: Turn) -> None:
    """The loop as it is; a turn ends with the update of the weights."""
    import torch

    from ftlib.data.pack import PackedSplit
    from ftlib.train.loop import train
    from ftlib.train.schedule import SampleStream
    from ftlib.train.strategy import SingleProcess

    split = PackedSplit(settings.train_data)
    stream = SampleStream(len(split), settings.batch_size, settings.seed)

    class Paced(SingleProcess):
        num_steps = 0

        def prepare(self, *args: Any, **options: Any) -> None:
            super().prepare(*args, **options)
            turn.wait()

        def step(self, learning_rate: float) -> float:
            norm = super().step(learning_rate)
            turn.done(int(split.pack_tokens[stream.batch(self.num_steps)].sum()))
            self.num_steps += 1
            return norm

    settings.run_dir.mkdir(parents=True)
    train(settings, Paced(torch.device("cpu")))


def huggingface_trainer(settings: Any, examples: list[dict[str, list[int]]], turn: Turn) -> None:
    """Trainer with a collator for packs."""
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    from tests.bench.training_peers import collate_packs, first_model, training_arguments

    run_in_turns(
        Trainer, settings, turn, model=first_model(settings), train_dataset=Dataset.from_list(examples),
        args=training_arguments(TrainingArguments, settings, settings.run_dir), data_collator=collate_packs,
    )  # fmt: skip


def trl_trainer(settings: Any, examples: list[dict[str, list[int]]], options: dict[str, Any], turn: Turn) -> None:
    """SFTTrainer on tokens and labels, which it pads or packs by itself as `options` say."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from ftlib.models.load import load_tokenizer
    from tests.bench.training_peers import first_model, training_arguments

    run_in_turns(
        SFTTrainer, settings, turn, model=first_model(settings), train_dataset=Dataset.from_list(examples),
        args=training_arguments(SFTConfig, settings, settings.run_dir, remove_unused_columns=True, **options),
        processing_class=load_tokenizer(settings.model_folder),
    )  # fmt: skip


def run_in_turns(kind: type, settings: Any, turn: Turn, **options: Any) -> None:
    """Train with one of the peers' trainers; a turn ends with `on_step_end`."""
    import torch
    from transformers import TrainerCallback

    from tests.bench.training_peers import be_quiet, with_our_schedule

    be_quiet()
    seen = {"tokens": 0, "loss": 0.0}

    class Counting(with_our_schedule(kind, settings)):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
            mask = inputs.get("attention_mask")
            seen["tokens"] += int(inputs["input_ids"].numel() if mask is None else mask.sum())
            loss = super().training_step(model, inputs, *args, **kwargs)
            seen["loss"] += loss.item()
            return loss

    class Pace(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            turn.done(seen["tokens"], seen["loss"])
            seen.update(tokens=0, loss=0.0)

    trainer = Counting(callbacks=[Pace()], **options)
    turn.wait()
    trainer.train()


def step_ratio(ours: Sequence[Step], theirs: Sequence[Step]) -> float:
    return statistics.median(mine.seconds / other.seconds for mine, other in zip(ours, theirs, strict=True))


def compare_steps(root: Path, model: Path, rows: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Packs with learnt answers, and rows of plain text without packing."""
    from ftlib.models.load import load_tokenizer
    from ftlib.train.metrics import read_metrics
    from tests.bench.training_peers import in_order_of_use, write_split

    tokenizer, length = load_tokenizer(model), options.step_tokens
    texts = [f"{row['messages'][0]['content']} {row['messages'][1]['content']}" for row in rows]
    plain = [
        {"id": str(at), "messages": None, "text": " ".join(texts[at : at + 40]), "weight": None}
        for at in range(0, 2000, 40)
    ]
    found: dict[str, Any] = {}
    for name, records in (("packs", rows[:2000]), ("text", plain)):
        split = write_split(root / name, records, tokenizer, length)
        settings = make_settings(root, name, model, options.batch_size)
        turns = 2 + options.rounds
        examples = in_order_of_use(split, replace(settings, schedule=replace(settings.schedule, total_steps=turns + 1)))
        padding_free = {"padding_free": True, "max_length": None}
        contenders: dict[str, Contender] = {
            "ours": partial(our_loop, settings),
            "trainer": partial(huggingface_trainer, settings, examples),
            "sft": partial(trl_trainer, settings, examples, padding_free),
        }
        steps = alternate(contenders, options.rounds, warmup=2, threads=options.threads)
        losses = [record["loss"] for record in read_metrics(settings.run_dir)][2:]
        apart = max(
            abs(step.loss - loss) / loss  # type: ignore[operator]
            for peer in ("trainer", "sft") for step, loss in zip(steps[peer], losses, strict=False)
        )  # fmt: skip
        assert apart < 1e-3, f"losses differ by {apart:.1e}: not the same work"
        found[name] = {
            "step_vs_trainer": step_ratio(steps["ours"], steps["trainer"]),
            "step_vs_sft": step_ratio(steps["ours"], steps["sft"]),
            "seconds": {peer: statistics.median(step.seconds for step in taken) for peer, taken in steps.items()},
            "tokens_a_step": sum(step.num_tokens for step in steps["ours"]) / options.rounds,
            "largest_loss_difference": apart,
        }
    return found


def compare_packing(root: Path, model: Path, rows: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second without padding."""
    from ftlib.models.load import load_tokenizer
    from tests.bench.training_peers import labelled, write_split

    tokenizer, length = load_tokenizer(model), 1024
    split = write_split(root / "long", rows[: options.rows], tokenizer, length)
    packs = [split[number] for number in range(len(split))]
    alone = [labelled(pack.only(number)) for pack in packs for number in range(pack.num_sequences)]
    examples = [{name: example[name] for name in ("input_ids", "labels")} for example in alone]
    random.Random(0).shuffle(examples)  # packs come longest sequence first, and TRL packs a thousand rows at a time
    settings = make_settings(root, "long", model, 1)
    padded = {"per_device_train_batch_size": 8, "max_length": length, "train_sampling_strategy": "random"}
    packed = {"packing": True, "max_length": length, "train_sampling_strategy": "random"}
    contenders: dict[str, Contender] = {
        "ours": partial(our_loop, settings),
        "padded": partial(trl_trainer, settings, examples, padded),
        "packed": partial(trl_trainer, settings, examples, packed),
    }
    steps = alternate(contenders, options.packing_rounds, warmup=1, threads=options.threads)
    tokens = sum(len(example["input_ids"]) for example in examples)
    rates = {name: [_rate(group) for group in _groups(taken)] for name, taken in steps.items()}
    return {
        **{
            f"tokens_vs_{peer}": statistics.median(
                mine / other for mine, other in zip(rates["ours"], rates[peer], strict=True)
            )
            for peer in ("padded", "packed")
        },
        "tokens_per_s": {name: _rate(taken) for name, taken in steps.items()},
        "supervised_share": float(split.pack_weights.sum()) / tokens,
        "pack_fill": tokens / (len(split) * length),
    }


def _groups(steps: Sequence[Step], size: int = 4) -> list[Sequence[Step]]:
    """Neighbouring steps: single batches differ too much in their tokens."""
    return [steps[start : start + size] for start in range(0, len(steps), size)]


def _rate(steps: Sequence[Step]) -> float:
    return sum(step.num_tokens for step in steps) / sum(step.seconds for step in steps)


def compare_ray(root: Path, model: Path, rows: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Runs in turn, each in processes of its own."""
    from tests.prepared_data import write_prepared

    write_prepared(root / "prepared", train=rows[:1000])
    config = {
        "data": {"path": str(root / "prepared")},
        "model": {"source": str(model)},
        "train": {
            "max_steps": options.ray_steps, "global_batch_size": options.batch_size,
            "max_seq_len": options.step_tokens, "precision": "float32",
        },
        "parallel": {"strategy": "ddp"},
        "scaling": {"cpus_per_worker": options.threads},
    }  # fmt: skip
    runs = {"ray": _ray_run, "bare": _bare_run, "idle": _idle_run}
    medians: dict[str, list[float]] = {name: [] for name in runs}
    for pair in range(options.ray_pairs):
        # The first run under Ray tokenises, also for the others.
        for name in runs if pair % 2 == 0 else reversed(runs):
            values = config | {"output": {"path": str(root / "runs"), "run_id": f"{name}-{pair}"}}
            _in_process(runs[name], values)
            seconds = _step_seconds(root / "runs" / f"{name}-{pair}")
            medians[name].append(statistics.median(seconds[2:]))
        print(*(f"{name} {taken[-1]:.3f}s" for name, taken in medians.items()), sep="  ", flush=True)
    return {
        **{
            f"ray_vs_{other}": statistics.median(
                ray / without for ray, without in zip(medians["ray"], medians[other], strict=True)
            )
            for other in ("bare", "idle")
        },
        "seconds": {name: statistics.median(taken) for name, taken in medians.items()},
    }


def _in_process(target: Callable[[dict[str, Any]], None], values: dict[str, Any]) -> None:
    process = multiprocessing.get_context("spawn").Process(target=target, args=(values,))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{target.__name__} ended with exit code {process.exitcode}")


def _ray_run(values: dict[str, Any]) -> None:
    from ftlib.runtime.cluster import connect
    from ftlib.train.driver import run_training

    config = _on_own_cluster(values)
    with connect(config.cluster):
        run_training(config)


def _on_own_cluster(values: dict[str, Any]) -> Any:
    from ftlib.config.train import TrainConfig

    return TrainConfig.model_validate(
        values | {"cluster": {"address": "local", "num_cpus": int(values["scaling"]["cpus_per_worker"]) + 1}}
    )


def _idle_run(values: dict[str, Any]) -> None:
    """The bare run beside a Ray cluster of this process's own that does nothing."""
    from ftlib.runtime.cluster import connect

    with connect(_on_own_cluster(values).cluster):
        _bare_run(values)


def _bare_run(values: dict[str, Any]) -> None:
    """What the worker does, without Ray and a process group; the tokens are those of the first run under Ray."""
    from ftlib.config.train import TrainConfig
    from ftlib.train.layout import TOKENS
    from ftlib.train.worker import train_worker

    config = TrainConfig.model_validate(values)
    runs = Path(config.output.path)
    (tokens,) = (path for path in (runs / TOKENS).iterdir() if path.is_dir())
    run_dir = runs / str(config.output.run_id)
    run_dir.mkdir()
    work = {
        "config": config.resolved(), "run_dir": str(run_dir), "folders": {"train": str(tokens), "val": None},
        "total_steps": config.train.max_steps, "resume_key": "bare",
    }  # fmt: skip
    outcome = train_worker({"work": work, "on_eval": None})
    if outcome["status"] != "finished":
        raise RuntimeError(str(outcome))


def _step_seconds(run_dir: Path) -> list[float]:
    from ftlib.train.metrics import read_metrics

    return [record["seconds"] for record in read_metrics(run_dir) if record["kind"] == "train"]


PARTS = {"step": compare_steps, "packing": compare_packing, "ray": compare_ray}


def misses(found: dict[str, Any], path: str = "") -> list[str]:
    """What does not hold its limit."""
    result = []
    for name, value in found.items():
        if isinstance(value, dict):
            result += misses(value, f"{path}{name}.")
        elif name in LIMITS:
            holds = value >= LIMITS[name] if name.startswith("tokens_") else value <= LIMITS[name]
            print(f"{path}{name:20} {value:6.3f}  limit {LIMITS[name]:.2f}  {'holds' if holds else 'MISSED'}")
            result += [] if holds else [f"{path}{name}"]
    return result


def main() -> int:
    from ftlib.models.source import resolve_source
    from tests.tiny_model import write_tiny_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--model", default="embedded:smollm2-135m", help="a source, or `tiny`")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with medical/ and tickets/")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--batch-size", type=int, default=2, help="packs a step of `step` and `ray`")
    parser.add_argument("--step-tokens", type=int, default=512, help="length of a pack of `step` and `ray`")
    parser.add_argument("--rounds", type=int, default=9, help="of `step`")
    parser.add_argument("--packing-rounds", type=int, default=12, help="of `packing`, in groups of four")
    parser.add_argument("--rows", type=int, default=None, help="of `packing`: only the first of the shuffled rows")
    parser.add_argument("--ray-pairs", type=int, default=3)
    parser.add_argument("--ray-steps", type=int, default=12)
    options = parser.parse_args()
    if not all((options.data / name).exists() for name, *_ in SETS):
        print(json.dumps({"bench": "train_speed", "skipped": f"no {SETS[0][0]} or {SETS[1][0]} in {options.data}"}))
        return 0
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = resolve_source("embedded:smollm2-135m" if options.model == "tiny" else options.model)
        model = write_tiny_model(root / "model", source) if options.model == "tiny" else source
        rows = read_rows(options.data)
        for name in options.only.split(","):
            found[name] = PARTS[name](root, model, rows, options)
            print(name, json.dumps(found[name]), flush=True)
    missed = misses(found)
    print(
        json.dumps(
            {"bench": "train_speed", "model": options.model, "threads": options.threads, **found, "missed": missed}
        )
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
