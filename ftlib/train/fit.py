"""Refusing a run that the device has no memory for, with ways to fit that the plan has checked."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from pydantic import ValidationError

from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.train.plan import GIB, MemoryPlan, ModelShape, plan_memory

logger = get_logger(__name__)

Overrides = dict[str, Any]

PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimiser",
    "activations": "activations",
    "logits": "loss",
    "overhead": "libraries",
}
"""Fields of a plan (without `_bytes`) and what a person calls them."""
_NUM_WAYS = 3


def check_fit(config: TrainConfig, shape: ModelShape) -> None:
    """Raise UserError when the plan is above the device's memory and `train.check_memory` is on.

    The message names the parts and three ways to fit, each worked out anew. Where the device is not known (a GPU of no
    named kind, with none at hand here) nothing is checked.
    """
    if not config.train.check_memory:
        return
    plan = plan_memory(config, shape)
    if plan.fits is not False:
        return
    device = plan.device_bytes or 0
    ways = "; ".join(
        f"{settings(way)} → {found.total_bytes / GIB:.1f} GiB" for way, found in ways_to_fit(config, shape)
    )
    raise UserError(
        f"no memory: each worker needs about {plan.total_bytes / GIB:.1f} GiB ({parts(plan)}) and has "
        f"{device / GIB:.1f} GiB. "
        + (f"Ways to fit: {ways}" if ways else "No setting tried makes it fit: take a smaller model or larger devices")
        + ". train.check_memory=false trains all the same"
    )


def parts(plan: MemoryPlan) -> str:
    """`weights 15.0, activations 2.2, …`: GiB by use, the largest first."""
    sizes = {name: getattr(plan, f"{field}_bytes") / GIB for field, name in PARTS.items()}
    return ", ".join(f"{name} {size:.1f}" for name, size in sorted(sizes.items(), key=lambda item: -item[1]))


def settings(way: Overrides) -> str:
    """Overrides as they are given on the command line."""
    return " ".join(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in way.items())


def ways_to_fit(config: TrainConfig, shape: ModelShape) -> list[tuple[Overrides, MemoryPlan]]:
    """Up to three settings with which the plan fits, the least costly first; single changes before combined ones."""
    thrift: Overrides = {}
    if config.train.micro_batch_size > 1:
        thrift["train.micro_batch_size"] = 1
    if not config.train.activation_checkpointing:
        thrift["train.activation_checkpointing"] = True
    found: list[tuple[Overrides, MemoryPlan]] = []
    for base, family in product(({}, thrift) if thrift else ({},), _changes(config)):
        for change in family:
            way = _changed(config, base | change)
            plan = _planned(config, way, shape)
            if plan is not None and plan.fits and way not in [known for known, _ in found]:
                found.append((way, plan))
                break  # the mildest of its family
        if len(found) == _NUM_WAYS:
            break
    return found


def with_overrides(config: TrainConfig, overrides: Overrides) -> TrainConfig:
    """The configuration with other values at key paths; raises pydantic's ValidationError where it would not do."""
    values = config.resolved()
    for key, value in overrides.items():
        *sections, name = key.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[name] = value
    return TrainConfig.model_validate(values)


def _changed(config: TrainConfig, way: Overrides) -> Overrides:
    """The overrides without those that say what is so already."""
    values = config.resolved()
    return {key: value for key, value in way.items() if values[key.split(".")[0]][key.split(".")[1]] != value}


def _planned(config: TrainConfig, way: Overrides, shape: ModelShape) -> MemoryPlan | None:
    try:
        return plan_memory(with_overrides(config, way), shape)
    except (ValidationError, UserError):
        return None


def _changes(config: TrainConfig) -> Iterator[list[Overrides]]:
    """Families of changes, each from mild to strong."""
    loop, method, scaling = config.train, config.method.kind, config.scaling
    if not loop.chunked_loss:
        yield [{"train.chunked_loss": True}]
    if not loop.activation_checkpointing:
        yield [{"train.activation_checkpointing": True}]
    if loop.micro_batch_size > 1:
        yield [{"train.micro_batch_size": size} for size in _halves(loop.micro_batch_size, 1)]
    if method == "full" and scaling.use_gpu:
        zero = {"parallel.strategy": "deepspeed", "parallel.zero_stage": 3}
        yield [zero | {"scaling.num_workers": scaling.num_workers * times} for times in (1, 2, 4, 8, 16)]
        offload = {"parallel.strategy": "deepspeed", "parallel.offload_optimizer": True}
        yield [offload | {"parallel.zero_stage": 2}, zero | offload, zero | offload | {"parallel.offload_params": True}]
    if method == "full":
        yield [{"method.kind": "lora"}]
    if method != "qlora" and scaling.use_gpu:
        unsharded = {"parallel.zero_stage": 2} if config.parallel.zero_stage == 3 else {}
        yield [{"method.kind": "qlora"} | unsharded]
    if not scaling.use_gpu and scaling.num_workers > 1:
        yield [{"scaling.num_workers": count} for count in _halves(scaling.num_workers, 1)]
    yield [{"train.max_seq_len": length} for length in _halves(loop.max_seq_len, 64)]


def _halves(value: int, least: int) -> Iterator[int]:
    while (value := value // 2) >= least:
        yield value
