"""The training loop of one worker: every rank runs `train` with equal settings; nothing here knows of Ray.

Batches are those of `SampleStream`, whatever the number of ranks: micro-batch k of a step goes to rank k modulo the
world size, its dropout is seeded by (seed, step, k), and each token's loss is divided by the weight of the whole
global batch. So one rank and many compute the same sums, up to the order of addition. A run that finds checkpoints in
its folder goes on from the newest whole one. Only positions whose target is learnt pass through the output layer, which
for a small model with a large vocabulary is a third of the work, and they never exist as one array of logits.

Needs torch, transformers and peft; takes plain dataclasses.
"""

import math
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.models.adapt import AdapterSpec
from ftlib.models.load import load_tokenizer
from ftlib.train.batches import Forward
from ftlib.train.budget import PrivacySettings
from ftlib.train.build import build_model
from ftlib.train.checkpoint import Checkpoint, CheckpointWriter, list_checkpoints, mark_best, newest_checkpoint
from ftlib.train.head import find_loss_head
from ftlib.train.host_memory import give_back_freed_blocks
from ftlib.train.metrics import MetricsWriter, step_line
from ftlib.train.objectives import METRICS, ObjectiveSettings, batch_loss, divergence_sum, reference_likelihoods
from ftlib.train.result import export_result
from ftlib.train.samples import Floats, Samples, share
from ftlib.train.schedule import Cursor, SampleStream, Schedule, Stream, micro_seed
from ftlib.train.strategy import OptimizerSettings, Strategy
from ftlib.train.track import TrackSettings

logger = get_logger(__name__)

OnEval = Callable[[int, dict[str, float]], bool]
_SHOWN_IDS = 5


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
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    replay_data: Path | None = None
    """A packed split of general data, mixed in against forgetting."""
    replay_share: float = 0.0
    """Share of every batch that comes from it."""
    kind: str = "lora"
    """`lora`, `qlora` or `full`."""
    adapter: AdapterSpec = field(default_factory=AdapterSpec)
    adapter_folder: Path | None = None
    """An adapter to go on from, instead of a new one of `adapter`."""
    tokenizer_folder: Path | None = None
    """The tokenizer that made the tokens, where it is not the model's own."""
    new_tokens: tuple[str, ...] = ()
    """What `tokenizer_folder` has more than the model's own tokenizer."""
    quantize_bits: int = 4
    """Of the frozen base under `qlora`: 4 or 8."""
    neftune_alpha: float | None = None
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    batch_size: int = 16
    """Packs per optimiser step over all ranks."""
    micro_batch_size: int = 1
    precision: torch.dtype = torch.float32
    activation_checkpointing: bool = False
    eval_every_steps: int | None = None
    checkpoint_every_steps: int | None = None
    keep_checkpoints: int = 2
    early_stopping_patience: int | None = None
    """Stop after this many validations in a row without a lower loss."""
    early_stopping_min_delta: float = 0.0
    """How much lower a validation loss must be to count."""
    chunked_loss: bool = True
    """Take the loss inside the output layer (`ftlib.train.head`) instead of from all logits."""
    attention: str = "auto"
    """See `ftlib.train.attention.set_attention`."""
    compile: bool = False
    """Compile the model's layers."""
    track: TrackSettings = field(default_factory=TrackSettings)
    seed: int = 0
    privacy: PrivacySettings | None = None
    """Differentially private training; then `batch_size` is the expected number of privacy units of a step."""


@dataclass
class Outcome:
    """How a run ended."""

    status: str
    """`finished`, `stopped` (by `on_eval`), `early_stopped` or `diverged`."""
    step: int
    val_loss: float | None = None
    """Of the best checkpoint."""
    best: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    rows: list[str] = field(default_factory=list)
    """Of a diverged run: ids of records in the step's batch whose loss was no number, or of all of it."""


def train(
    settings: LoopSettings,
    strategy: Strategy,
    on_eval: OnEval | None = None,
    must_save: Callable[[], bool] | None = None,
) -> Outcome:
    """Train to the end, or to where `on_eval` (called on rank 0 after each validation) returns True.

    `must_save` is asked on every rank after each step; where one says True (its node is about to go), all save at once.
    Raises UserError for a model that cannot be loaded or adapted, or a folder that holds another run's checkpoints.
    """
    if settings.privacy is not None:
        from ftlib.train.private import PrivateRun

        return PrivateRun(settings, strategy, on_eval, must_save).run()
    return Run(settings, strategy, on_eval, must_save).run()


class Run:
    """One run on one rank; private training replaces the stream, the step and the choice of the best checkpoint."""

    def __init__(
        self,
        settings: LoopSettings,
        strategy: Strategy,
        on_eval: OnEval | None = None,
        must_save: Callable[[], bool] | None = None,
    ) -> None:
        self.settings, self.strategy, self.on_eval, self.must_save = settings, strategy, on_eval, must_save
        if settings.batch_size % settings.micro_batch_size:
            raise UserError(
                f"train.global_batch_size {settings.batch_size} cannot be divided into micro-batches of "
                f"{settings.micro_batch_size}"
            )
        self.num_micro = settings.batch_size // settings.micro_batch_size
        self.is_main = strategy.rank == 0
        self.last_metrics: dict[str, float] = {}
        self.best_loss, self.stale_evals = math.inf, 0
        self.save_now = False
        self.odd_samples: list[int] = []
        self.total_steps = settings.schedule.total_steps

    def run(self) -> Outcome:
        """Train to the end; returns how it ended."""
        started = time.monotonic()
        settings, strategy = self.settings, self.strategy
        if settings.activation_checkpointing and strategy.device.type == "cpu":
            give_back_freed_blocks()
        self.tokenizer = load_tokenizer(settings.tokenizer_folder or settings.model_folder)
        self._open_data()
        self.model, pack_hint = build_model(settings, strategy, self.data)
        accumulation = math.ceil(self.num_micro / strategy.world_size)
        strategy.prepare(self.model, settings.optimizer, settings.precision, accumulation)
        head = find_loss_head(self.model) if settings.chunked_loss else None
        self.forward = Forward(strategy.module, head, pack_hint)
        self._know_reference()
        step = self._resume()
        self.checkpoints = CheckpointWriter(settings.run_dir, settings.keep_checkpoints, writer=self.is_main)
        self.writer = MetricsWriter(settings.run_dir, step, settings.track) if self.is_main else None
        self.num_trained = sum(_numel(parameter) for parameter in self.model.parameters() if parameter.requires_grad)
        if self.is_main:
            logger.info(
                "%d packs, %d steps of %d; %.2fM parameters train, %s; ready after %.1fs",
                len(self.data), self.total_steps, settings.batch_size, self.num_trained / 1e6,
                str(settings.precision).removeprefix("torch."), time.monotonic() - started,
            )  # fmt: skip
        status = "failed"
        try:
            status = self._steps(step)
        finally:
            if self.writer:
                self.writer.close(status)
        self.checkpoints.wait()
        return self._finish(status)

    def _open_data(self) -> None:
        settings, device = self.settings, self.strategy.device
        pad_id = self.tokenizer.pad_token_id or 0
        folders = [settings.train_data, *([settings.replay_data] if settings.replay_data else [])]
        self.data = Samples(folders, settings.micro_batch_size, pad_id, device)
        val = [settings.val_data] if settings.val_data else []
        self.val = Samples(val, settings.micro_batch_size, pad_id, device) if val else None
        self.stream = self._make_stream()

    def _make_stream(self) -> Stream:
        own, *replayed = self.data.sizes
        replay_share = self.settings.replay_share if replayed else 0.0
        return SampleStream(own, self.settings.batch_size, self.settings.seed, sum(replayed), replay_share)

    def _know_reference(self) -> None:
        """Have the log-likelihoods that preferences are compared with: those of the model that the run starts from."""
        if not self.settings.objective.compares:
            return
        for name, samples in (("train", self.data), ("val", self.val)):
            if samples is not None:
                path = self.settings.run_dir / f"reference-{name}.npz"
                samples.reference = reference_likelihoods(
                    path, self.settings.resume_key, partial(self._likelihoods, samples), self.strategy.broadcast,
                    writer=self.is_main,
                )  # fmt: skip

    @torch.no_grad()
    def _likelihoods(self, samples: Samples) -> Floats:
        """Log-likelihoods of both sequences of every sample under the model as it is, float64[n, 2], on every rank."""
        strategy = self.strategy
        values = np.zeros((len(samples), 2))
        strategy.module.eval()
        batches = samples.micro_batches(list(range(len(samples))))
        for number, real in share(len(batches), strategy.rank, strategy.world_size):
            members = batches[number]
            with strategy.forwarding(last=True):
                found = self.forward.log_likelihoods(samples.collate(members), 2 * len(members))
            if real:
                values[members] = found.view(-1, 2).double().cpu().numpy()
        strategy.module.train()
        return np.asarray(strategy.sum(values.flatten().tolist())).reshape(values.shape)

    def _resume(self) -> int:
        """Take up the newest whole checkpoint; returns the steps done."""
        newest: Checkpoint | None = self.strategy.broadcast(
            newest_checkpoint(self.settings.run_dir) if self.is_main else None
        )
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
        self.best_loss, self.stale_evals = newest.state["best_loss"], newest.state["stale_evals"]
        if self.is_main:
            logger.info("resuming from %s", newest.path)
        return step

    def _steps(self, step: int) -> str:
        settings, strategy = self.settings, self.strategy
        first, started = step, time.monotonic()
        while step < self.total_steps:
            record = self._train_step(step)
            while math.isfinite(record["loss"]) and not math.isfinite(record["grad_norm"]) and strategy.can_rescale:
                record = self._train_step(step)  # nothing was updated: the same rows again, with a smaller loss scale
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
                status = self._evaluate(step)
                self._save(step)
                if status:
                    return status
            elif self.save_now or _due(step, settings.checkpoint_every_steps):
                self._save(step)
        return "finished"

    def _train_step(self, step: int) -> dict[str, Any]:
        """Forward, backward and update of one global batch; returns the step's record."""
        settings, strategy, data = self.settings, self.strategy, self.data
        began = time.monotonic()
        samples = self.stream.batch(step)
        batches = data.micro_batches(samples)
        total_weight = float(data.weights[samples].sum())
        rate = settings.schedule.rate(step)
        divergence = self._divergence(data, batches)
        # Sums stay on the device till the end of the step: reading one would wait for all work that is queued there.
        loss_sums, metric_sums = (torch.zeros(size, device=strategy.device) for size in (len(batches), len(METRICS)))
        turns = list(share(len(batches), strategy.rank, strategy.world_size))
        for turn, (number, real) in enumerate(turns):
            last = turn == len(turns) - 1
            torch.manual_seed(micro_seed(settings.seed, step, number))
            with strategy.forwarding(last=last):
                loss, metrics = self._loss(data, batches[number], divergence)
            strategy.backward(loss / total_weight if real else loss * 0.0, last=last)
            if real:
                loss_sums[number] = loss.detach()
                metric_sums += metrics
        grad_norm = strategy.step(rate)
        save_now = float(self.must_save is not None and self.must_save())
        sums = strategy.sum([save_now, *torch.cat([metric_sums, loss_sums]).tolist()])
        self.save_now, metric_means = sums[0] > 0, [value / total_weight for value in sums[1 : 1 + len(METRICS)]]
        losses = sums[1 + len(METRICS) :]
        self.odd_samples = [
            sample for batch, loss in zip(batches, losses, strict=True) if not math.isfinite(loss) for sample in batch
        ] or samples
        seconds = time.monotonic() - began
        num_tokens = int(data.tokens[samples].sum())
        return {
            "step": step + 1,
            "loss": sum(losses) / total_weight,
            "lr": rate,
            "grad_norm": grad_norm,
            **(dict(zip(METRICS, metric_means, strict=True)) if settings.objective.compares else {}),
            "tokens": num_tokens,
            "supervised_weight": total_weight,
            "tokens_per_s": num_tokens / seconds,
            "seconds": seconds,
            "epoch": self.stream.epochs(step + 1),
            "memory_gb": memory_gb(strategy.device),
        }

    def _loss(self, data: Samples, samples: list[int], divergence: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the losses of a micro-batch with the sums of its metrics."""
        objective = self.settings.objective
        batch = data.collate(samples, part=0 if objective.kind == "kto" else None)
        return batch_loss(self.forward, batch, data.preferences(samples), objective, divergence)

    @torch.no_grad()
    def _divergence(self, data: Samples, batches: list[list[int]]) -> float:
        """KTO's estimate of how far the model has moved from its reference, over a whole batch; 0 for the others."""
        if self.settings.objective.kind != "kto":
            return 0.0
        strategy = self.strategy
        total = torch.zeros((), dtype=torch.float64, device=strategy.device)
        training = self.model.training  # DeepSpeed's engine keeps none of its own
        strategy.module.eval()  # the estimate must not depend on who computes it, as dropout would
        for number, real in share(len(batches), strategy.rank, strategy.world_size):
            known = data.preferences(batches[number])
            if known is None:
                raise RuntimeError("preferences without a reference")
            with strategy.forwarding(last=True):
                value = divergence_sum(self.forward, data.collate(batches[number], part=1), known)
            if real:
                total += value
        strategy.module.train(training)
        return max(0.0, strategy.sum([float(total)])[0] / sum(map(len, batches)))

    def _evaluate(self, step: int) -> str | None:
        """Validation loss and its record; returns `stopped` or `early_stopped` where the run should end."""
        if self.val is None:
            return None
        began = time.monotonic()
        self.last_metrics = self.validate() | self._extras(step)
        loss = self.last_metrics["val_loss"]
        better = loss < self.best_loss - self.settings.early_stopping_min_delta
        self.best_loss, self.stale_evals = (loss, 0) if better else (self.best_loss, self.stale_evals + 1)
        stop = False
        if self.writer:
            self.writer.write({"kind": "val", "step": step, **self.last_metrics, "seconds": time.monotonic() - began})
            logger.info("step %d/%d val_loss %.4f", step, self.total_steps, loss)
            stop = bool(self.on_eval(step, dict(self.last_metrics))) if self.on_eval else False
        if self.strategy.broadcast(stop):
            return "stopped"
        patience = self.settings.early_stopping_patience
        return "early_stopped" if patience is not None and self.stale_evals >= patience else None

    def _extras(self, step: int) -> dict[str, float]:
        """What every record says besides, after `step` steps."""
        return {}

    def _selection_loss(self, step: int) -> float | None:
        """The validation loss by which the checkpoint at `step` competes; None: it does not."""
        evaluated = step == self.total_steps or _due(step, self.settings.eval_every_steps)
        return self.last_metrics.get("val_loss") if evaluated else None

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Weighted mean loss over the validation split, its packs dealt out to the ranks."""
        val, strategy = self.val, self.strategy
        if val is None:
            raise ValueError("there is no validation split")
        strategy.module.eval()
        batches = val.micro_batches(list(range(len(val))))
        divergence = self._divergence(val, batches)
        sums = torch.zeros(1 + len(METRICS), dtype=torch.float64, device=strategy.device)
        for number, real in share(len(batches), strategy.rank, strategy.world_size):
            with strategy.forwarding(last=True):
                loss, metrics = self._loss(val, batches[number], divergence)
            if real:
                sums += torch.cat([loss[None], metrics])
        strategy.module.train()
        total = float(val.weights.sum())
        loss_mean, *means = (value / total for value in strategy.sum(sums.tolist()))
        if self.settings.objective.compares:
            return {"val_loss": loss_mean, **{f"val_{name}": value for name, value in zip(METRICS, means, strict=True)}}
        return {"val_loss": loss_mean, "val_perplexity": math.exp(min(loss_mean, 50.0))}

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
            "best_loss": self.best_loss,
            "stale_evals": self.stale_evals,
        }
        self.checkpoints.save(state, self.strategy.tensors(), 12 * self.num_trained)

    def _finish(self, status: str) -> Outcome:
        """Export the best checkpoint on rank 0; every rank gets the same outcome."""
        outcome = None
        if status == "diverged":
            shown = self.odd_samples[:_SHOWN_IDS]
            rows = list(dict.fromkeys(row for sample in shown for row in self.data.ids(sample)))
            return Outcome(status, int(self.last_metrics["step"]), metrics=self.last_metrics, rows=rows[:_SHOWN_IDS])
        if self.is_main:
            best = mark_best(self.settings.run_dir)
            base = self.settings.base_source
            dtype = self.settings.precision
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


def memory_gb(device: torch.device) -> float:
    """Peak memory: of the device for CUDA, else resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
