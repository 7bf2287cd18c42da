"""The training loop of one worker: every rank runs `train` with equal settings; nothing here knows of Ray.

Batches are those of `SampleStream`, whatever the number of ranks: micro-batch k of a step goes to rank k modulo the
world size, its dropout is seeded by (seed, step, k), and each token's loss is divided by the weight of the whole
global batch. So one rank and many compute the same sums, up to the order of addition. A run that finds checkpoints in
its folder goes on from the newest whole one. Only positions whose target is learnt pass through the output layer, which
for a small model with a large vocabulary is a third of the work.

Needs torch, transformers and peft; takes plain dataclasses.
"""

import math
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.data.pack import PackedSplit
from ftlib.models.adapt import AdapterSpec, add_adapter
from ftlib.models.load import load_model, load_tokenizer
from ftlib.train.attention import use_packed_attention
from ftlib.train.batches import MicroBatch, collate, micro_batch_loss
from ftlib.train.budget import PrivacySettings
from ftlib.train.checkpoint import Checkpoint, list_checkpoints, mark_best, prune_checkpoints, save_checkpoint
from ftlib.train.metrics import MetricsWriter, step_line
from ftlib.train.result import export_result
from ftlib.train.schedule import Cursor, SampleStream, Schedule, Stream, micro_seed
from ftlib.train.strategy import OptimizerSettings, Strategy

logger = get_logger(__name__)

OnEval = Callable[[int, dict[str, float]], bool]


@dataclass(frozen=True)
class LoopSettings:
    """All that a worker needs to know."""

    run_dir: Path
    model_folder: Path
    base_source: str
    """Name of the base as the user gave it, noted in the adapter."""
    train_data: Path
    """A packed split."""
    val_data: Path | None
    resume_key: str
    """Identifies the work: checkpoints of other work are refused."""
    schedule: Schedule
    kind: str = "lora"
    """`lora`, `qlora` or `full`."""
    adapter: AdapterSpec = field(default_factory=AdapterSpec)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    batch_size: int = 16
    """Packs per optimiser step over all ranks."""
    micro_batch_size: int = 1
    precision: torch.dtype = torch.float32
    activation_checkpointing: bool = False
    eval_every_steps: int | None = None
    checkpoint_every_steps: int | None = None
    keep_checkpoints: int = 2
    seed: int = 0
    privacy: PrivacySettings | None = None
    """Differentially private training; then `batch_size` is the expected number of privacy units of a step."""


@dataclass
class Outcome:
    """How a run ended."""

    status: str
    """`finished`, `stopped` (by `on_eval`) or `diverged`."""
    step: int
    val_loss: float | None = None
    """Of the best checkpoint."""
    best: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)


def train(settings: LoopSettings, strategy: Strategy, on_eval: OnEval | None = None) -> Outcome:
    """Train to the end, or to where `on_eval` (called on rank 0 after each validation) returns True.

    Raises UserError for a model that cannot be loaded or adapted, or a folder that holds another run's checkpoints.
    """
    if settings.privacy is not None:
        from ftlib.train.private import PrivateRun

        return PrivateRun(settings, strategy, on_eval).run()
    return Run(settings, strategy, on_eval).run()


class Run:
    """One run on one rank; private training replaces the stream, the step and the choice of the best checkpoint."""

    def __init__(self, settings: LoopSettings, strategy: Strategy, on_eval: OnEval | None) -> None:
        self.settings, self.strategy, self.on_eval = settings, strategy, on_eval
        self.data = PackedSplit(settings.train_data)
        self.val = PackedSplit(settings.val_data) if settings.val_data else None
        self.stream = self._make_stream()
        num_micro = settings.batch_size // settings.micro_batch_size
        if settings.batch_size % settings.micro_batch_size or num_micro % strategy.world_size:
            raise UserError(
                f"train.global_batch_size {settings.batch_size} cannot be divided among {strategy.world_size} "
                f"workers × micro-batches of {settings.micro_batch_size}"
            )
        self.accumulation = num_micro // strategy.world_size
        self.is_main = strategy.rank == 0
        self.last_metrics: dict[str, float] = {}
        self.total_steps = settings.schedule.total_steps

    def _make_stream(self) -> Stream:
        return SampleStream(len(self.data), self.settings.batch_size, self.settings.seed)

    def run(self) -> Outcome:
        """Train to the end; returns how it ended."""
        started = time.monotonic()
        self.tokenizer = load_tokenizer(self.settings.model_folder)
        self.model = self._build_model()
        self.strategy.prepare(self.model, self.settings.optimizer, self.settings.precision, self.accumulation)
        step = self._resume()
        self.writer = MetricsWriter(self.settings.run_dir, step) if self.is_main else None
        if self.is_main:
            trained = sum(_numel(parameter) for parameter in self.model.parameters() if parameter.requires_grad)
            logger.info(
                "%d packs, %d steps of %d; %.2fM parameters train, %s; ready after %.1fs",
                len(self.data), self.total_steps, self.settings.batch_size, trained / 1e6,
                str(self.settings.precision).removeprefix("torch."), time.monotonic() - started,
            )  # fmt: skip
        status = self._steps(step)
        return self._finish(status)

    def _build_model(self) -> Any:
        settings, strategy = self.settings, self.strategy
        adapted = settings.kind != "full"
        dtype = strategy.load_dtype(settings.precision, frozen_base=adapted)
        with strategy.loading(settings.precision):
            model = load_model(settings.model_folder, dtype, _load_device(strategy), four_bit=settings.kind == "qlora")
        model.config.use_cache = False
        self.by_sequence = use_packed_attention(model, strategy.device)
        if settings.activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if adapted:
            torch.manual_seed(settings.seed)  # the same first weights on every rank
            model = add_adapter(model, settings.adapter)
        return model.train()

    def _resume(self) -> int:
        """Take up the newest whole checkpoint; returns the steps done."""
        checkpoints = list_checkpoints(self.settings.run_dir) if self.is_main else None
        newest: Checkpoint | None = self.strategy.broadcast(checkpoints[-1] if checkpoints else None)
        if newest is None:
            return 0
        if newest.state["key"] != self.settings.resume_key:
            raise UserError(
                f"{self.settings.run_dir} holds checkpoints of a run with other data, model or settings; "
                "give another output.run_id or delete the folder"
            )
        step = self.stream.step_at(Cursor(**newest.state["cursor"]))
        self.strategy.restore(newest)
        self.last_metrics = newest.state["metrics"]
        if self.is_main:
            logger.info("resuming from %s", newest.path)
        return step

    def _steps(self, step: int) -> str:
        settings = self.settings
        first, started = step, time.monotonic()
        while step < self.total_steps:
            record = self._train_step(step)
            step += 1
            if not math.isfinite(record["loss"]) or not math.isfinite(record["grad_norm"]):
                self.last_metrics = {"step": float(step), "loss": record["loss"], "grad_norm": record["grad_norm"]}
                return "diverged"
            left = (time.monotonic() - started) / (step - first) * (self.total_steps - step)
            if self.writer:
                self.writer.write({"kind": "train", **record})
                logger.info("%s", step_line(record, self.total_steps, left))
            final = step == self.total_steps
            if final or _due(step, settings.eval_every_steps):
                stop = self._evaluate(step)
                self._save(step)
                if stop:
                    return "stopped"
            elif _due(step, settings.checkpoint_every_steps):
                self._save(step)
        return "finished"

    def _train_step(self, step: int) -> dict[str, Any]:
        """Forward, backward and update of one global batch; returns the step's record."""
        settings, strategy = self.settings, self.strategy
        began = time.monotonic()
        samples = self.stream.batch(step)
        total_weight = float(self.data.pack_weights[samples].sum())
        rate = settings.schedule.rate(step)
        loss_sum = 0.0
        for turn in range(self.accumulation):
            number = turn * strategy.world_size + strategy.rank
            batch, last = self._micro_batch(self.data, samples, number), turn == self.accumulation - 1
            torch.manual_seed(micro_seed(settings.seed, step, number))
            with strategy.forwarding(last=last):
                loss = micro_batch_loss(strategy.module, batch, by_sequence=self.by_sequence)
            strategy.backward(loss / total_weight, last=last)
            loss_sum += loss.item()
        grad_norm = strategy.step(rate)
        (loss_sum,) = strategy.sum([loss_sum])
        seconds = time.monotonic() - began
        num_tokens = int(self.data.pack_tokens[samples].sum())
        return {
            "step": step + 1,
            "loss": loss_sum / total_weight,
            "lr": rate,
            "grad_norm": grad_norm,
            "tokens": num_tokens,
            "supervised_weight": total_weight,
            "tokens_per_s": num_tokens / seconds,
            "seconds": seconds,
            "epoch": (step + 1) * settings.batch_size / len(self.data),
            "memory_gb": memory_gb(strategy.device),
        }

    def _micro_batch(self, split: PackedSplit, samples: list[int], number: int) -> MicroBatch:
        size = self.settings.micro_batch_size
        packs = [split[sample] for sample in samples[number * size : (number + 1) * size]]
        return collate(packs, self.tokenizer.pad_token_id or 0, self.strategy.device)

    def _evaluate(self, step: int) -> bool:
        """Validation loss, its record, and whether `on_eval` says stop."""
        if self.val is None:
            return False
        began = time.monotonic()
        val_loss = self.validation_loss()
        self.last_metrics = {"val_loss": val_loss, "val_perplexity": math.exp(min(val_loss, 50.0))} | self._extras(step)
        stop = False
        if self.writer:
            self.writer.write({"kind": "val", "step": step, **self.last_metrics, "seconds": time.monotonic() - began})
            logger.info("step %d/%d val_loss %.4f", step, self.total_steps, val_loss)
            stop = bool(self.on_eval(step, dict(self.last_metrics))) if self.on_eval else False
        return bool(self.strategy.broadcast(stop))

    def _extras(self, step: int) -> dict[str, float]:
        """What every record says besides, after `step` steps."""
        return {}

    def _selection_loss(self, step: int) -> float | None:
        """The validation loss by which the checkpoint at `step` competes; None: it does not."""
        evaluated = step == self.total_steps or _due(step, self.settings.eval_every_steps)
        return self.last_metrics.get("val_loss") if evaluated else None

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Weighted mean over all tokens of the validation split, its packs dealt out to the ranks."""
        if self.val is None:
            raise ValueError("there is no validation split")
        strategy, samples = self.strategy, list(range(len(self.val)))
        strategy.module.eval()
        num_micro = math.ceil(len(samples) / self.settings.micro_batch_size)
        loss_sum = 0.0
        for first in range(0, num_micro, strategy.world_size):
            number = first + strategy.rank
            if number >= num_micro and not strategy.sharded_forward:
                break
            batch = self._micro_batch(self.val, samples, min(number, num_micro - 1))
            with strategy.forwarding(last=True):
                loss = micro_batch_loss(strategy.module, batch, by_sequence=self.by_sequence)
            loss_sum += loss.item() if number < num_micro else 0.0
        strategy.module.train()
        (total,) = strategy.sum([loss_sum])
        return total / float(self.val.pack_weights.sum())

    def _save(self, step: int) -> None:
        settings = self.settings
        state = {
            "step": step,
            "key": settings.resume_key,
            "cursor": asdict(self.stream.cursor(step)),
            "schedule": asdict(settings.schedule),
            "seed": settings.seed,
            "world_size": self.strategy.world_size,
            "val_loss": self._selection_loss(step),
            "metrics": self.last_metrics,
        }
        save_checkpoint(settings.run_dir, state, self.strategy.tensors(), writer=self.is_main)
        if self.is_main:
            prune_checkpoints(settings.run_dir, settings.keep_checkpoints)

    def _finish(self, status: str) -> Outcome:
        """Export the best checkpoint on rank 0; every rank gets the same outcome."""
        outcome = None
        if status == "diverged":
            return Outcome(status, int(self.last_metrics["step"]), metrics=self.last_metrics)
        if self.is_main:
            best = mark_best(self.settings.run_dir)
            base = self.settings.base_source
            dtype = torch.float32 if self.settings.precision is torch.float32 else torch.bfloat16
            export_result(self.settings.run_dir, best, self.model, self.tokenizer, base=base, dtype=dtype)
            newest = list_checkpoints(self.settings.run_dir)[-1]
            outcome = Outcome(
                status, newest.step, best.state["metrics"].get("val_loss"), best.path.name, newest.state["metrics"]
            )
        result: Outcome = self.strategy.broadcast(outcome)
        return result


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _numel(parameter: Any) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _load_device(strategy: Strategy) -> torch.device:
    return torch.device("cpu") if strategy.sharded_forward else strategy.device


def memory_gb(device: torch.device) -> float:
    """Peak memory: of the device for CUDA, else resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
