"""How a model is spread over workers, behind one protocol: one process, DistributedDataParallel, or DeepSpeed ZeRO.

The loop hands each strategy this rank's share of the batch's mean loss; what the strategy applies is the gradient of
the sum over all ranks. It gathers and restores full float32 tensors, so checkpoints know nothing of the number of
workers.
"""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ftlib.train.checkpoint import Checkpoint

MOMENTS = ("exp_avg", "exp_avg_sq")
LOSS_SCALE = ("scale", "_growth_tracker")
"""State of PyTorch's gradient scaler that changes in a run."""


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW."""

    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    lora_plus_ratio: float = 1.0
    """LoRA+ (Hayou et al. 2024): B's learning rate is so many times that of everything else."""


class Strategy(Protocol):
    """What the loop needs of a parallel strategy. Every rank calls every method in the same order."""

    rank: int
    world_size: int
    device: torch.device
    sharded_forward: bool
    """Whether a forward pass is a collective, so that all ranks must run equally many."""
    module: Any
    """The callable model after `prepare`."""

    @property
    def can_rescale(self) -> bool:
        """Whether a step whose gradient overflowed changed nothing and may be tried again with a smaller loss scale."""

    def load_dtype(self, precision: torch.dtype, *, frozen_base: bool) -> torch.dtype:
        """The dtype in which the base is loaded."""

    def loading(self, precision: torch.dtype) -> AbstractContextManager[None]:
        """Context in which the base is loaded (ZeRO-3 shards it there)."""

    def prepare(self, model: Any, optimizer: OptimizerSettings, precision: torch.dtype, accumulation: int) -> None:
        """Spread the model and make its optimiser."""

    def forwarding(self, *, last: bool) -> AbstractContextManager[Any]:
        """Context of every forward pass; `last`: of the step's last micro-batch on this rank."""

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Accumulate gradients of this rank's share of the loss; `last` in the step reduces them over the ranks."""

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear gradients; returns the global gradient norm before clipping."""

    def sum(self, values: list[float]) -> list[float]:
        """Sums over the ranks, in float64."""

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on all ranks."""

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Keys and full tensors of a checkpoint; gathers over the ranks while it is iterated."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up trained parameters and optimiser state."""


class SingleProcess:
    """One process, one device; also the base of DDP."""

    rank = 0
    world_size = 1
    sharded_forward = False
    _scaler: torch.amp.GradScaler | None = None
    """Under float16, whose small gradients vanish: the loss is scaled up, and gradients down again before clipping."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.module: Any = None
        self._model: Any = None
        self._precision = torch.float32

    def load_dtype(self, precision: torch.dtype, *, frozen_base: bool) -> torch.dtype:
        """A frozen base is held in the computing precision: autocast would cast float32 weights anew at every use."""
        return precision if frozen_base else torch.float32

    def loading(self, precision: torch.dtype) -> AbstractContextManager[None]:
        """Nothing to do."""
        return contextlib.nullcontext()

    def prepare(self, model: Any, optimizer: OptimizerSettings, precision: torch.dtype, accumulation: int) -> None:
        """Make the optimiser."""
        self.module = self._model = model
        self._settings, self._precision = optimizer, precision
        # One kernel for all of AdamW on a GPU; elsewhere PyTorch's own choice.
        self._optimizer = make_adamw(model, optimizer, fused=self.device.type == "cuda" or None)
        if precision is not torch.float32:
            leave_casts_to_autocast(model)
        if precision is torch.float16:
            self._scaler = torch.amp.GradScaler(self.device.type)

    @property
    def can_rescale(self) -> bool:
        """Under float16, until a scale below 1 has shown that the gradient itself is infinite."""
        return self._scaler is not None and self._scaler.get_scale() >= 1.0

    def forwarding(self, *, last: bool) -> AbstractContextManager[Any]:
        """Automatic mixed precision below float32."""
        enabled = self._precision is not torch.float32
        return torch.autocast(self.device.type, dtype=self._precision) if enabled else contextlib.nullcontext()

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Accumulate gradients."""
        scaled = loss if self._scaler is None else self._scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear; under float16 an infinite gradient updates nothing and halves the scale."""
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.clip_grad_norm_(
            [parameter for _, parameter in trained_parameters(self._model)], self._settings.max_grad_norm
        )
        set_rate(self._optimizer, learning_rate)
        if self._scaler is None:
            self._optimizer.step()
        else:
            self._scaler.step(self._optimizer)
            self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def sum(self, values: list[float]) -> list[float]:
        """The values themselves."""
        return values

    def broadcast(self, value: Any) -> Any:
        """The value itself."""
        return value

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Parameters, then moments."""
        for name, parameter in trained_parameters(self._model):
            yield f"param/{name}", parameter.data
            for moment in MOMENTS:
                if state := self._optimizer.state.get(parameter):
                    yield f"{moment}/{name}", state[moment]
        if self._scaler is not None:
            known = self._scaler.state_dict()
            for name in LOSS_SCALE:
                yield f"loss_scale/{name}", torch.tensor(float(known[name]))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Copy parameters and moments in place."""
        parameters = dict(trained_parameters(self._model))
        for name, tensor in checkpoint.tensors("param"):
            parameters[name].data.copy_(tensor)
        for moment in MOMENTS:
            for name, tensor in checkpoint.tensors(moment):
                state = self._optimizer.state[parameters[name]]
                fused = self._optimizer.defaults["fused"]  # its kernel reads the step number on the device
                state["step"] = torch.tensor(float(checkpoint.step), device=self.device if fused else None)
                state[moment] = tensor.to(parameters[name].device, parameters[name].dtype)
        if self._scaler is not None:
            known = {name: tensor.item() for name, tensor in checkpoint.tensors("loss_scale")}
            scale, tracker = (known[name] for name in LOSS_SCALE)
            self._scaler.load_state_dict(self._scaler.state_dict() | {"scale": scale, "_growth_tracker": int(tracker)})


class DataParallel(SingleProcess):
    """PyTorch's DistributedDataParallel over the process group that is already there; also serves as ZeRO-0."""

    def __init__(self, device: torch.device) -> None:
        import torch.distributed as dist

        super().__init__(device)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def prepare(self, model: Any, optimizer: OptimizerSettings, precision: torch.dtype, accumulation: int) -> None:
        """Wrap the model."""
        from torch.nn.parallel import DistributedDataParallel

        super().prepare(model, optimizer, precision, accumulation)
        ids = [self.device.index] if self.device.type == "cuda" else None
        self.module = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)

    def forwarding(self, *, last: bool) -> AbstractContextManager[Any]:
        """DDP decides in the forward pass whether the backward pass will reduce."""
        self.module.require_backward_grad_sync = last
        return super().forwarding(last=last)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Accumulate; DDP averages over the ranks at the last micro-batch, so the loss is scaled up for a sum."""
        super().backward(loss * self.world_size, last=last)

    def sum(self, values: list[float]) -> list[float]:
        """All-reduce."""
        return sum_over_ranks(values, self.device)

    def broadcast(self, value: Any) -> Any:
        """Broadcast an object."""
        return broadcast_object(value, self.device)


def make_adamw(model: Any, settings: OptimizerSettings, *, fused: bool | None = None) -> torch.optim.AdamW:
    """AdamW over the trained parameters; only matrices decay (norms, biases do not). `fused`: as PyTorch has it."""
    members: dict[tuple[bool, float], list[Any]] = {}
    for name, parameter in trained_parameters(model):
        decays = len(getattr(parameter, "ds_shape", parameter.shape)) >= 2
        scale = settings.lora_plus_ratio if ".lora_B." in name else 1.0
        members.setdefault((decays, scale), []).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": settings.weight_decay if decays else 0.0, "lr_scale": scale}
        for (decays, scale), parameters in sorted(members.items(), key=lambda item: not item[0][0])
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(settings.beta1, settings.beta2), eps=settings.eps, fused=fused)


def leave_casts_to_autocast(model: Any) -> None:
    """Keep PEFT from raising the input of every adapter to the float32 of its weights.

    Autocast would lower it again: the same numbers, two passes over the activations and a second copy of them kept for
    the backward pass. Variants (DoRA) that compute with the raised input keep it.
    """
    from peft.tuners.lora import Linear

    for module in model.modules():
        if isinstance(module, Linear) and not module.lora_variant:
            module.cast_input_dtype_enabled = False


def set_rate(optimizer: Any, learning_rate: float) -> None:
    """Set the learning rate of every parameter group, times the group's `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_scale", 1.0)


def trained_parameters(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    """Name and parameter of all that trains, in the model's order."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """Sums over the ranks of the process group, in float64."""
    import torch.distributed as dist

    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return [float(value) for value in tensor]


def broadcast_object(value: Any, device: torch.device) -> Any:
    """Rank 0's picklable value, on all ranks."""
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0, device=device)
    return box[0]
