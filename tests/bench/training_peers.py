"""What the training benchmarks share: packed data, and the peers' trainers on exactly our batches."""

from collections.abc import Callable, Sequence
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftlib.data.pack import Pack, PackedSplit
from ftlib.models.adapt import add_adapter
from ftlib.models.load import load_model
from ftlib.train.loop import LoopSettings
from ftlib.train.schedule import SampleStream
from tests.training_cases import packed_split

Example = dict[str, Any]
IGNORED = -100
"""The label of a token that nothing is learnt from, as the peers have it."""


def be_quiet() -> None:
    """No progress bars, warnings and log lines of the peers in this process."""
    import warnings

    import datasets
    from transformers.utils import logging

    warnings.simplefilter("ignore")
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    for name in ("accelerate", "trl"):
        getLogger(name).setLevel(ERROR)


def write_split(
    folder: Path, rows: list[dict[str, Any]], tokenizer: Any, max_seq_len: int, **options: Any
) -> PackedSplit:
    """Tokenise canonical records into a packed split, without Ray; `options` of TokenizeSettings."""
    return PackedSplit(packed_split(folder, tokenizer, len(rows), max_seq_len, rows=lambda *_: rows, **options))


def as_example(split: PackedSplit, sample: int) -> Example:
    """A pack as the peers take it: ids, labels (`IGNORED` where nothing is learnt), position ids, sequence lengths."""
    return labelled(split[sample])


def labelled(pack: Pack) -> Example:
    """The same of any pack."""
    labels = [int(token) if weight else IGNORED for token, weight in zip(pack.input_ids, pack.weights, strict=True)]
    starts = [place for place, position in enumerate(pack.position_ids) if position == 0]
    ends = [*starts[1:], len(pack.input_ids)]
    return {
        "input_ids": pack.input_ids.tolist(),
        "labels": labels,
        "position_ids": pack.position_ids.tolist(),
        "seq_lengths": [end - start for start, end in zip(starts, ends, strict=True)],
    }


def as_preference(split: PackedSplit, sample: int) -> Example:
    """A sample of preferences as TRL's collators take it, for DPO and for KTO alike."""
    first, second = (_halves(split[sample].only(number)) for number in (0, 1))
    return {
        "prompt_ids": first[0],
        "chosen_ids": first[1],
        "rejected_ids": second[1],
        "completion_ids": first[1],
        "KL_completion_ids": second[1],
        "label": bool(split.desirable[sample]),
    }


def _halves(pack: Pack) -> tuple[list[int], list[int]]:
    """A prompt and its answer up to the last learnt token (what the template adds behind it changes nothing)."""
    learnt = np.flatnonzero(pack.weights)
    ids = pack.input_ids.tolist()
    return ids[: learnt[0]], ids[learnt[0] : learnt[-1] + 1]


def in_order_of_use(
    split: PackedSplit, settings: LoopSettings, convert: Callable[[PackedSplit, int], Example] = as_example
) -> list[Example]:
    """The samples of a whole run of our loop, in the order in which it uses them."""
    stream = SampleStream(len(split), settings.batch_size, settings.seed)
    steps = range(settings.schedule.total_steps)
    return [convert(split, sample) for step in steps for sample in stream.batch(step)]


def first_model(settings: LoopSettings) -> Any:
    """The model that our loop starts from, its adapter's first weights included."""
    model = load_model(settings.model_folder)
    model.config.use_cache = False
    if settings.kind == "full":
        return model
    torch.manual_seed(settings.seed)
    return add_adapter(model, settings.adapter)


def collate_packs(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
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


def recording(trainer: type, settings: LoopSettings, losses: list[float]) -> type:
    """The same with the loss of every step put into a list."""

    class Recording(with_our_schedule(trainer, settings)):  # type: ignore[misc]
        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss = super().training_step(*args, **kwargs)
            if self.state.global_step == len(losses):
                losses.append(0.0)
            losses[-1] += loss.item()
            return loss

    return Recording


def with_our_schedule(trainer: type, settings: LoopSettings) -> type:
    """A trainer class whose learning rate is that of our schedule at each step, and that prints nothing."""

    from transformers import PrinterCallback

    class Scheduled(trainer):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.remove_callback(PrinterCallback)

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            schedule = settings.schedule
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda step: schedule.rate(step) / schedule.peak
            )
            return self.lr_scheduler

    return Scheduled
