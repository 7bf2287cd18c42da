"""DeepSpeed ZeRO 1–3 as a strategy: optimiser states, gradients, then parameters sharded over the ranks.

The DeepSpeed configuration is derived whole from ours; users write none. Checkpoints do not use DeepSpeed's own format,
which is tied to the number of ranks: full tensors are gathered with `safe_get_full_*`.
"""

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ftlib.train.checkpoint import Checkpoint
from ftlib.train.strategy import (
    MOMENTS,
    OptimizerSettings,
    broadcast_object,
    make_adamw,
    set_rate,
    sum_over_ranks,
    trained_parameters,
)

SHM_OP = "deepspeed_shm_comm"


@dataclass(frozen=True)
class ZeroSettings:
    """Which ZeRO."""

    stage: int = 2
    offload_optimizer: bool = False
    offload_params: bool = False
    hpz_partition_size: int = 1
    """ZeRO++ hpZ: GPUs over which a second copy of the weights is spread; 1: none."""


def deepspeed_config(
    zero: ZeroSettings, precision: torch.dtype, max_grad_norm: float, micro_batch_size: int, accumulation: int
) -> dict[str, Any]:
    """The DeepSpeed configuration of a run.

    Bucket sizes are bounded so that a small adapter does not allocate gigabytes. A torch optimiser is passed in by the
    caller (`zero_force_ds_cpu_optimizer` off), so nothing has to be compiled.
    """
    optimization: dict[str, Any] = {
        "stage": zero.stage,
        "overlap_comm": False,
        "contiguous_gradients": True,
        "reduce_bucket_size": 50_000_000,
        "allgather_bucket_size": 50_000_000,
    }
    if zero.offload_optimizer:
        optimization["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if zero.stage == 3:
        optimization |= {
            "stage3_prefetch_bucket_size": 50_000_000,
            "stage3_param_persistence_threshold": 100_000,
            "stage3_max_live_parameters": 1_000_000_000,
        }
        if zero.hpz_partition_size > 1:
            optimization["zero_hpz_partition_size"] = zero.hpz_partition_size
        if zero.offload_params:
            optimization["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": max_grad_norm,
        "zero_optimization": optimization,
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }
    if precision is torch.bfloat16:
        config["bf16"] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


class DeepSpeedZero:
    """ZeRO 1, 2 or 3 over the process group that is already there."""

    can_rescale = False

    def __init__(self, device: torch.device, zero: ZeroSettings, micro_batch_size: int) -> None:
        import torch.distributed as dist

        if device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
        self._deepspeed = _import_deepspeed()
        self._deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False)
        self.device, self.rank, self.world_size = device, dist.get_rank(), dist.get_world_size()
        self.sharded_forward = zero.stage == 3
        self.module: Any = None
        self._zero, self._micro_batch_size = zero, micro_batch_size

    def load_dtype(self, precision: torch.dtype, *, frozen_base: bool) -> torch.dtype:
        """ZeRO keeps its own float32 master of what trains."""
        return precision

    @contextmanager
    def loading(self, precision: torch.dtype) -> Iterator[None]:
        """Under ZeRO-3, transformers shards the weights while it reads them: no rank ever holds the whole model."""
        if self._zero.stage != 3:
            yield
            return
        from transformers.integrations import HfDeepSpeedConfig

        # Not the global batch: transformers only needs the ZeRO section, and it looks for this object while it lives.
        config = deepspeed_config(self._zero, precision, 1.0, self._micro_batch_size, 1)
        alive = HfDeepSpeedConfig(config)
        try:
            yield
        finally:
            del alive

    def prepare(self, model: Any, optimizer: OptimizerSettings, precision: torch.dtype, accumulation: int) -> None:
        """Hand model and optimiser to DeepSpeed."""
        self._model = model
        config = deepspeed_config(self._zero, precision, optimizer.max_grad_norm, self._micro_batch_size, accumulation)
        self.module, self._optimizer, _, _ = self._deepspeed.initialize(
            model=model, optimizer=make_adamw(model, optimizer), config=config, dist_init_required=False
        )

    def forwarding(self, *, last: bool) -> AbstractContextManager[Any]:
        """The module's weights already have the computing precision."""
        return contextlib.nullcontext()

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """DeepSpeed averages over the ranks, so the loss is scaled up for a sum; it counts micro-batches itself."""
        self.module.set_gradient_accumulation_boundary(last)
        self.module.backward(loss * self.world_size, scale_wrt_gas=False)
        if not last:
            self.module.step()

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear."""
        set_rate(self._optimizer, learning_rate)
        self.module.step()
        norm = self.module.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def sum(self, values: list[float]) -> list[float]:
        """All-reduce."""
        return sum_over_ranks(values, self.device)

    def broadcast(self, value: Any) -> Any:
        """Broadcast an object."""
        return broadcast_object(value, self.device)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Gather parameter by parameter from the float32 master copies."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        self._link_moments()
        for name, parameter in trained_parameters(self._model):
            yield f"param/{name}", _required(safe_get_full_fp32_param(parameter), name)
            for moment in MOMENTS:
                yield f"{moment}/{name}", _required(safe_get_full_optimizer_state(parameter, moment), name)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Set the working weights, their float32 masters and the moments of this rank's shards."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        parameters = dict(trained_parameters(self._model))
        for name, tensor in checkpoint.tensors("param"):
            parameter, value = parameters[name], tensor.to(self.device)
            if self._zero.stage == 3:
                with self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                    if self.rank == 0:
                        parameter.data.copy_(value)
            else:
                parameter.data.copy_(value)
            safe_set_full_fp32_param(parameter, value)
        self._make_moments(checkpoint.step)
        for moment in MOMENTS:
            for name, tensor in checkpoint.tensors(moment):
                safe_set_full_optimizer_state(parameters[name], tensor.to(self.device), moment)

    def _make_moments(self, step: int) -> None:
        """Give AdamW the states that it makes at its first step, so that they can be filled."""
        zero = self._optimizer
        stage3 = self._zero.stage == 3
        for shard in zero.fp32_partitioned_groups_flat if stage3 else zero.single_partition_of_fp32_groups:
            zero.optimizer.state[shard] = {
                "step": torch.tensor(float(step)),
                **{moment: torch.zeros_like(shard) for moment in MOMENTS},
            }
        self._link_moments()

    def _link_moments(self) -> None:
        """Link moments to parameters anew: DeepSpeed (0.19.8) does so after the first parameter group's first step and
        never again, which leaves the other groups without.
        """
        if self._zero.stage != 3:
            self._optimizer._hp_optimizer_states_linked = False
            self._optimizer._lazy_init_hp_params_optimizer_state()


def _import_deepspeed() -> Any:
    """DeepSpeed without its shared-memory op.

    `init_distributed` compiles it with ninja on first use, and a process killed in mid-build leaves a lock on which all
    later ones wait forever. Reducing 20 MB of adapter gradients over gloo takes 30 ms of a step of seconds.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__[SHM_OP] = False
    return deepspeed


def _required(tensor: torch.Tensor | None, name: str) -> torch.Tensor:
    if tensor is None:
        raise RuntimeError(f"DeepSpeed holds no full tensor of {name}")
    return tensor
