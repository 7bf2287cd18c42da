"""What the training benchmarks share: packed data, and the peers' trainers on exactly our batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ftlib.data.pack import PackedSplit, write_file, write_index
from ftlib.models.adapt import add_adapter
from ftlib.models.load import load_model
from ftlib.train.loop import LoopSettings
from ftlib.train.schedule import SampleStream

IGNORED = -100
"""The label of a token that nothing is learnt from, as the peers have it."""


def write_split(
    folder: Path, rows: list[dict[str, Any]], tokenizer: Any, max_seq_len: int, *, packing: bool = True
) -> PackedSplit:
    """Tokenise canonical records into a packed split, without Ray."""
    from ftlib.data.tokenize import tokenize_rows

    folder.mkdir(parents=True)
    found = tokenize_rows(rows, tokenizer, max_seq_len)
    sequences = write_file(folder, 0, found.tokens, found.weights)
    write_index(folder, sequences, max_seq_len, packing=packing, counts={"num_rows": len(rows)})
    return PackedSplit(folder)


def as_example(split: PackedSplit, sample: int) -> dict[str, list[int]]:
    """A pack as the peers take it: ids, labels (`IGNORED` where nothing is learnt), position ids, sequence lengths."""
    pack = split[sample]
    labels = [int(token) if weight else IGNORED for token, weight in zip(pack.input_ids, pack.weights, strict=True)]
    starts = [place for place, position in enumerate(pack.position_ids) if position == 0]
    ends = [*starts[1:], len(pack.input_ids)]
    return {
        "input_ids": pack.input_ids.tolist(),
        "labels": labels,
        "position_ids": pack.position_ids.tolist(),
        "seq_lengths": [end - start for start, end in zip(starts, ends, strict=True)],
    }


def in_order_of_use(split: PackedSplit, settings: LoopSettings) -> list[dict[str, list[int]]]:
    """The packs of a whole run of our loop, in the order in which it uses them."""
    stream = SampleStream(len(split), settings.batch_size, settings.seed)
    steps = range(settings.schedule.total_steps)
    return [as_example(split, sample) for step in steps for sample in stream.batch(step)]


def first_model(settings: LoopSettings) -> Any:
    """The model that our loop starts from, its adapter's first weights included."""
    model = load_model(settings.model_folder)
    model.config.use_cache = False
    if settings.kind == "full":
        return model
    torch.manual_seed(settings.seed)
    return add_adapter(model, settings.adapter)


def collate_packs(examples: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """One pack as tensors; without an attention mask, transformers tells sequences apart by their position ids."""
    (example,) = examples
    return {name: torch.tensor([example[name]]) for name in ("input_ids", "labels", "position_ids")}


def training_arguments(kind: type, settings: LoopSettings, folder: Path, **options: Any) -> Any:
    """Arguments of a Trainer (or of one of TRL's) equal to our settings, that writes and logs nothing."""
    optimizer = settings.optimizer
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": settings.schedule.total_steps,
        "per_device_train_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.batch_size // settings.micro_batch_size,
        "gradient_checkpointing": settings.activation_checkpointing,
        "learning_rate": settings.schedule.peak,
        "weight_decay": optimizer.weight_decay,
        "adam_beta1": optimizer.beta1,
        "adam_beta2": optimizer.beta2,
        "adam_epsilon": optimizer.eps,
        "max_grad_norm": optimizer.max_grad_norm,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "seed": settings.seed,
        **options,
    }
    return kind(**values)


def with_our_schedule(trainer: type, settings: LoopSettings) -> type:
    """A trainer class whose learning rate is that of our schedule at each step; its optimiser stays its own."""

    class Scheduled(trainer):  # type: ignore[misc, valid-type]
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            schedule = settings.schedule
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: schedule.rate(step) / schedule.peak
            )
            return self.lr_scheduler

    return Scheduled
