"""Differentially private training: DP-SGD (Abadi et al. 2016) for LoRA, in one process or data parallel.

A step draws every privacy unit with probability q (`PoissonStream`), takes the gradient of each drawn unit's loss,
clips it to norm C, sums the clipped gradients over units and ranks, adds Gaussian noise of deviation σ·C once, divides
by the expected batch size and hands the result to AdamW. An empty batch is a step too: of noise alone. What AdamW, the
schedule and the checkpoints make of it is post-processing.

- A unit's loss is the sum over its sequences of the mean negative log-likelihood of the learnt tokens, so no unit's
  gradient depends on another's. Its sequences are summed before clipping, over several forward passes where needed.
- Gradients per sequence come from Opacus' hooks and are held whole: a LoRA's take r/d of a full layer's memory. Ghost
  clipping would save it at the price of a second backward pass and S² work a layer, and cannot sum over a unit.
- Clipped sums are kept and reduced in float64 and rounded to float32 once, noise included.
- Units are grouped into forward passes before they are dealt out to the ranks; batches, dropout and noise depend on
  the step alone. So the number of workers changes nothing but the order of addition, and a run may resume with another.

The guarantee covers the trained weights, in every checkpoint and in the result. It does not cover the losses of
training and validation, nor batch sizes, in log lines, `metrics.jsonl` and the checkpoints' `state.json`: they are
measured without noise. Validation loss selects nothing: the result is the last checkpoint.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ftlib.core.errors import UserError
from ftlib.train.budget import PrivacySettings, check_installed
from ftlib.train.loop import LoopSettings, OnEval, Outcome, Run, memory_gb
from ftlib.train.schedule import Stream, micro_seed
from ftlib.train.secret import SecretNumbers, forget_key, run_key
from ftlib.train.strategy import (
    OptimizerSettings,
    SingleProcess,
    Strategy,
    broadcast_object,
    set_rate,
    sum_over_ranks,
    trained_parameters,
)
from ftlib.train.units import PoissonStream, PrivacyUnits, clip_groups

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


class PrivateDataParallel(SingleProcess):
    """Clips gradients per unit, sums them over the ranks of the process group, if there is one, and adds noise once."""

    def __init__(self, device: torch.device, privacy: PrivacySettings) -> None:
        import torch.distributed as dist

        super().__init__(device)
        self.privacy = privacy
        if dist.is_initialized():
            self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def prepare(self, model: Any, optimizer: OptimizerSettings, precision: torch.dtype, accumulation: int) -> None:
        """Attach Opacus' hooks; raises UserError for a model whose gradients per sequence they cannot take."""
        check_installed()
        from opacus.grad_sample import GradSampleHooks

        # Of a first layer, whose input is frozen; its weights' gradients do not need it.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        _check_model(model)
        super().prepare(model, optimizer, precision, accumulation)
        self._trained = [parameter for _, parameter in trained_parameters(model)]
        GradSampleHooks(model, loss_reduction="sum")
        if self.world_size > 1:
            for parameter in self._trained:
                torch.distributed.broadcast(parameter.data, src=0)
        sizes = [parameter.numel() for parameter in self._trained]
        self._sum = torch.zeros(sum(sizes), dtype=torch.float64, device=self.device)
        self._parts: list[torch.Tensor] = list(torch.split(self._sum, sizes))  # views
        self._open: list[torch.Tensor] = []

    def accumulate(self, losses: torch.Tensor, slots: list[int], *, last: bool) -> int:
        """Take the gradients of one forward pass; `last` of a group clips its units and adds them to the step's sum.

        Args:
            losses: float[B], one of each row.
            slots: for each row the number of its unit in the group, from 0; several rows may share one.
            last: whether this is the group's last pass.

        Returns:
            The number of units that were clipped.
        """
        losses.sum().backward()  # type: ignore[no-untyped-call]
        index = torch.tensor(slots, device=self.device)
        new = [self._per_unit(parameter, index, max(slots) + 1) for parameter in self._trained]
        self._open = [old + more for old, more in zip(self._open, new, strict=True)] if self._open else new
        if not last:
            return 0
        squares = torch.stack([gradients.square().sum(1, dtype=torch.float64) for gradients in self._open])
        norms = squares.sum(0).sqrt()
        factors = (self.privacy.max_grad_norm / norms.clamp(min=1e-12)).clamp(max=1.0)
        for gradients, part in zip(self._open, self._parts, strict=True):
            part.add_(factors.to(gradients.dtype) @ gradients)
        self._open = []
        return int((factors < 1.0).sum())

    def update(self, learning_rate: float, numbers: SecretNumbers, step: int) -> float:
        """Reduce, add noise, update, clear; returns the norm of the noisy mean gradient."""
        privacy = self.privacy
        if self.rank == 0:
            noise = torch.from_numpy(numbers.normal(f"noise {step}", len(self._sum))).to(self.device)
            self._sum += privacy.noise_multiplier * privacy.max_grad_norm * noise
        if self.world_size > 1:
            torch.distributed.all_reduce(self._sum)
        self._sum /= privacy.sample_rate * privacy.num_units
        norm = float(self._sum.norm())
        for parameter, part in zip(self._trained, self._parts, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)
        set_rate(self._optimizer, learning_rate)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._sum.zero_()
        return norm

    def sum(self, values: list[float]) -> list[float]:
        """All-reduce, where there are several ranks."""
        return sum_over_ranks(values, self.device) if self.world_size > 1 else values

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value."""
        return broadcast_object(value, self.device) if self.world_size > 1 else value

    def _per_unit(self, parameter: Any, index: torch.Tensor, num_units: int) -> torch.Tensor:
        """float32[U, n]: a parameter's gradients of this pass, summed over the rows of each unit."""
        samples, parameter.grad_sample = parameter.grad_sample, None
        unused, parameter.grad = parameter.grad is None, None
        if samples is None and unused:  # a module that this model's text does not pass
            return torch.zeros(num_units, parameter.numel(), device=self.device)
        if not isinstance(samples, torch.Tensor) or len(samples) != len(index):
            raise UserError(
                f"privacy: the gradients of this model cannot be told apart by sequence (a module of shape "
                f"{tuple(parameter.shape)} sees the batch in another shape); it cannot be trained privately"
            )
        rows = samples.flatten(1).float()
        if num_units == len(index):
            return rows
        return torch.zeros(num_units, rows.shape[1], device=self.device).index_add_(0, index, rows)


class PrivateRun(Run):
    """The loop with Poisson-sampled units, clipping and noise, and without any choice by validation loss."""

    strategy: PrivateDataParallel

    def __init__(
        self,
        settings: LoopSettings,
        strategy: Strategy,
        on_eval: OnEval | None = None,
        must_save: Callable[[], bool] | None = None,
    ) -> None:
        if settings.privacy is None or not isinstance(strategy, PrivateDataParallel):
            raise ValueError("private training needs its settings and PrivateDataParallel")
        if on_eval is not None:
            raise UserError(
                "privacy: a run cannot be stopped by its validation loss; the choice would tell about the records"
            )
        self.privacy = settings.privacy
        super().__init__(settings, strategy, on_eval, must_save)

    def _make_stream(self) -> Stream:
        settings, privacy = self.settings, self.privacy
        self.units = PrivacyUnits(self.data.own, privacy.unit, privacy.max_records)
        if len(self.units) != privacy.num_units:
            raise ValueError(f"{len(self.units)} units in the data, {privacy.num_units} in the accounting")
        key = run_key(settings.run_dir, privacy.seed, settings.resume_key) if self.strategy.rank == 0 else b""
        self.numbers = SecretNumbers(self.strategy.broadcast(key))
        return PoissonStream(privacy.num_units, privacy.sample_rate, self.numbers, settings.seed)

    def _extras(self, step: int) -> dict[str, float]:
        # Rank 0 alone writes records; the accountant's time would be spent on every rank.
        return {"epsilon": self.privacy.spent(step)} if self.is_main else {}

    def _selection_loss(self, step: int) -> float | None:
        return None

    def _train_step(self, step: int) -> dict[str, Any]:
        """One Poisson-sampled batch. `loss` is the mean over its learnt tokens, 0 for an empty one."""
        settings, strategy = self.settings, self.strategy
        began = time.monotonic()
        batch = [self.units.sequences(unit) for unit in self.stream.batch(step)]
        rate = settings.schedule.rate(step)
        loss_sum, num_clipped = 0.0, 0
        for number, sequences, slots, last in self._passes(batch):
            micro = self.data.collate(sequences)
            torch.manual_seed(micro_seed(settings.seed, step, number))
            with strategy.forwarding(last=last):
                losses = self.forward.row_losses(micro)
            num_clipped += strategy.accumulate(losses / micro.weights.sum(1), slots, last=last)
            loss_sum += losses.sum().item()
        grad_norm = strategy.update(rate, self.numbers, step)
        leaving = float(self.must_save is not None and self.must_save())
        loss_sum, clipped, leaving = strategy.sum([loss_sum, float(num_clipped), leaving])
        self.save_now = leaving > 0
        seconds = time.monotonic() - began
        drawn = [sequence for sequences in batch for sequence in sequences]
        num_tokens, weight = int(self.data.tokens[drawn].sum()), float(self.data.weights[drawn].sum())
        return {
            "step": step + 1,
            "loss": loss_sum / weight if drawn else 0.0,
            "lr": rate,
            "grad_norm": grad_norm,
            "units": len(batch),
            "clipped_units": int(clipped),
            **self._extras(step + 1),
            "tokens": num_tokens,
            "supervised_weight": weight,
            "tokens_per_s": num_tokens / seconds,
            "seconds": seconds,
            "epoch": self.stream.epochs(step + 1),
            "memory_gb": memory_gb(strategy.device),
        }

    def _passes(self, batch: list[list[int]]) -> Iterator[tuple[int, list[int], list[int], bool]]:
        """This rank's forward passes: number in the step, sequences, each one's unit in its group, last of the group.

        Units of like length share a pass; groups are dealt out to the ranks in turn.
        """
        limit, number = self.settings.micro_batch_size, 0
        units = sorted(batch, key=lambda sequences: int(self.data.tokens[sequences].max()))
        for turn, group in enumerate(clip_groups([len(sequences) for sequences in units], limit)):
            rows = [(sequence, slot) for slot, unit in enumerate(group) for sequence in units[unit]]
            for first in range(0, len(rows), limit):
                sequences, slots = zip(*rows[first : first + limit], strict=True)
                if turn % self.strategy.world_size == self.strategy.rank:
                    yield number, list(sequences), list(slots), first + limit >= len(rows)
                number += 1

    def _finish(self, status: str) -> Outcome:
        outcome = super()._finish(status)
        if self.is_main:
            forget_key(self.settings.run_dir)
        return outcome


def _check_model(model: Any) -> None:
    """Raise UserError unless all that trains are matrices of plain LoRA layers outside mixtures of experts.

    DoRA's and fused experts' matrices act through other paths than the layer whose gradients Opacus takes; experts see
    tokens, not sequences.
    """
    config = getattr(model.config, "text_config", model.config)
    if any(getattr(config, name, None) for name in _EXPERTS):
        raise UserError(
            "privacy: a mixture of experts routes tokens, so its gradients cannot be told apart by sequence"
        )
    modules = dict(model.named_modules())
    for name, _ in trained_parameters(model):
        owner, _, attribute = name.rpartition(".")
        plain = type(modules[owner]) is torch.nn.Linear and (".lora_A." in name or ".lora_B." in name)
        layer = modules[owner.rpartition(".lora_")[0]] if plain else None
        if attribute != "weight" or not plain or getattr(layer, "lora_magnitude_vector", None):
            raise UserError(
                f"privacy: only the matrices of plain LoRA can be trained, not {name}; use no variant of it"
            )
        if not isinstance(getattr(layer, "base_layer", None), torch.nn.Linear):
            raise UserError(f"privacy: only adapters of linear layers can be trained, not {name}")
