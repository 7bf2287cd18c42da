"""Adapters through PEFT: add one to a base, load one, find one in a result folder, check that it fits."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlib.core.errors import UserError
from ftlib.core.storage import exists, join, local_path, read_json
from ftlib.models.source import read_config

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class AdapterSpec:
    """A low-rank adapter."""

    rank: int = 16
    alpha: float | None = None
    """The update is scaled by alpha / rank; None: alpha is twice the rank."""
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    use_rslora: bool = False


def add_adapter(model: Any, spec: AdapterSpec) -> Any:
    """Wrap a base model with a new adapter; its weights are float32 and the only ones that train.

    Raises UserError when the rank is above a layer's size or no module has one of the names.
    """
    from peft import LoraConfig, get_peft_model

    alpha = spec.alpha if spec.alpha is not None else 2.0 * spec.rank
    targets = spec.target_modules if isinstance(spec.target_modules, str) else list(spec.target_modules)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=int(alpha) if math.isclose(alpha, round(alpha)) else alpha,
        lora_dropout=spec.dropout,
        target_modules=targets,
        use_rslora=spec.use_rslora,
        task_type="CAUSAL_LM",
    )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"method.target_modules {targets}: {' '.join(str(error).split())[:200]}") from error
    for name, module in adapted.named_modules():
        if hasattr(module, "lora_A"):
            limit = min(module.in_features, module.out_features)
            if spec.rank > limit:
                raise UserError(
                    f"method.rank {spec.rank} is above the size of {name} "
                    f"({module.in_features} × {module.out_features}); at most {limit}"
                )
    return adapted


def largest_rank(folder: Path) -> int:
    """The largest rank that makes sense on a base: the smallest side of its linear layers, from its config.json."""
    config = read_config(folder)
    config = config.get("text_config", config)
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    sizes = [hidden, config.get("intermediate_size")]
    if hidden and heads:
        head = config.get("head_dim") or hidden // heads
        sizes += [head * (config.get("num_key_value_heads") or heads), head * heads]
    return min((size for size in sizes if size), default=2**31)


def load_adapter(model: Any, folder: str | Path, *, trainable: bool = False) -> Any:
    """Wrap a base model with a saved adapter; raises UserError when it does not fit."""
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{folder}: this adapter does not fit the base model ({' '.join(str(error).split())[:200]})"
        ) from error


def find_adapter(path: str) -> Path:
    """The adapter folder behind an adapter's, a run's or a sweep's folder (its winner)."""
    if exists(join(path, ADAPTER_CONFIG)):
        return local_path(path)
    if exists(join(path, "best.json")):
        return find_adapter(read_json(join(path, "best.json"))["run_path"])
    if exists(join(path, "adapter", ADAPTER_CONFIG)):
        return local_path(join(path, "adapter"))
    if exists(join(path, "model", "config.json")):
        raise UserError(f"{path}: this run trained all weights; give {join(path, 'model')} as the model's source")
    raise UserError(
        f"{path}: neither an adapter nor a finished run or sweep (no {ADAPTER_CONFIG}, adapter/ or best.json)"
    )


def check_adapter(adapter: Path, base: Path) -> None:
    """Raise UserError unless the adapter's weights fit the base model's shapes; reads headers only."""
    if not (adapter / ADAPTER_WEIGHTS).exists():
        raise UserError(f"{adapter}: no {ADAPTER_WEIGHTS}")
    found, expected = tensor_shapes(adapter), tensor_shapes(base)
    for name, shape in found.items():
        module = _base_module(name)
        weight = expected.get(f"{module}.weight")
        side = 1 if ".lora_A." in name else 0 if ".lora_B." in name else None
        if side is None:
            continue
        if weight is None:
            raise UserError(f"{adapter}: an adapter of another base: {base} has no module {module}")
        index = 1 if side == 1 else 0
        if len(weight) == 2 and shape[index] != weight[index]:
            raise UserError(
                f"{adapter}: an adapter of another base: {module} is {weight[0]} × {weight[1]} in {base}, "
                f"the adapter expects {shape[index]} instead of {weight[index]}"
            )


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """Shape of every tensor in the safetensors files of a folder."""
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            shapes |= {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes


def _base_module(name: str) -> str:
    """`base_model.model.model.layers.0.x.lora_A.weight` → `model.layers.0.x`."""
    return name.split(".lora_", 1)[0].removeprefix("base_model.model.")
