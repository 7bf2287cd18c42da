"""Adapters through PEFT: add one to a base, load one or several, find one in a result folder, check that it fits."""

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ftlib.core.errors import UserError
from ftlib.core.fingerprints import folder_sha256
from ftlib.core.storage import exists, filesystem, is_uri, join, local_path, reaching, read_json, state_home
from ftlib.models.source import read_config
from ftlib.models.vocabulary import beside_token_rows, grow_embeddings, num_rows_of, token_modules

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
DEFAULT = "default"
"""PEFT's name for an adapter that is alone."""


@dataclass(frozen=True)
class AdapterSpec:
    """A low-rank adapter."""

    rank: int = 16
    alpha: float | None = None
    """The update is scaled by alpha / rank; None: alpha is twice the rank, of each layer."""
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    use_rslora: bool = False
    use_dora: bool = False
    """Train the norm of each weight column apart from its direction (Liu et al. 2024)."""
    init: str = "default"
    """First weights: `default`, `gaussian`, `orthogonal`, `pissa`, `pissa_niter_N`, `olora` or `eva`."""
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    """Rank of the modules whose name ends in a regular expression."""
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    target_parameters: tuple[str, ...] = ()
    """Parameters that are no module's `weight`, such as fused experts: `mlp.experts.gate_up_proj`."""
    token_ids: tuple[int, ...] = ()
    """Rows of the embeddings (and of an untied output layer) that train whole."""


def add_adapter(model: Any, spec: AdapterSpec) -> Any:
    """Wrap a base model with a new adapter; its weights are float32 and the only ones that train.

    Raises UserError when the rank is above a layer's size, or a name or pattern fits no module.
    """
    from peft import get_peft_model

    try:
        with warnings.catch_warnings():
            # About conversions that are `ftlib.models.initial`'s here, and memory that EVA may save.
            warnings.filterwarnings("ignore", message="Using Rank-Stabilized LoRA with|lora with eva initialization")
            adapted = get_peft_model(model, _lora_config(model, spec))
    except ValueError as error:
        targets = list(spec.target_parameters) or spec.target_modules
        raise UserError(f"method.target_modules {targets}: {' '.join(str(error).split())[:200]}") from error
    adapted_names = []
    for name, module in adapted.named_modules():
        if hasattr(module, "lora_A"):
            adapted_names.append(name)
            limit, rank = min(module.in_features, module.out_features), module.r[DEFAULT]
            if rank > limit:
                raise UserError(
                    f"method.rank {rank} is above the size of {name} "
                    f"({module.in_features} × {module.out_features}); at most {limit}"
                )
    _check_matched(adapted, spec, adapted_names)
    return adapted


def _lora_config(model: Any, spec: AdapterSpec) -> Any:
    from peft import EvaConfig, LoraConfig

    targets = spec.target_modules if isinstance(spec.target_modules, str) else list(spec.target_modules)
    alpha = spec.alpha if spec.alpha is not None else 2.0 * spec.rank
    alphas = dict(spec.alpha_pattern)
    if spec.alpha is None:
        alphas |= {key: 2.0 * rank for key, rank in spec.rank_pattern.items() if key not in alphas}
    extra: dict[str, Any] = {}
    if spec.target_parameters:
        extra["target_parameters"] = list(spec.target_parameters)
    if spec.token_ids:
        extra["trainable_token_indices"] = {name: list(spec.token_ids) for name in token_modules(model)}
    if spec.init == "eva":
        extra["eva_config"] = EvaConfig(rho=1.0)  # one rank for all layers: servers are told the largest
    return LoraConfig(
        r=spec.rank,
        lora_alpha=_whole(alpha),
        lora_dropout=spec.dropout,
        target_modules=targets,
        use_rslora=spec.use_rslora,
        use_dora=spec.use_dora,
        init_lora_weights=True if spec.init == "default" else spec.init,
        rank_pattern=dict(spec.rank_pattern),
        alpha_pattern={key: _whole(value) for key, value in alphas.items()},
        task_type="CAUSAL_LM",
        **extra,
    )


def _whole(value: float) -> float:
    """An integer where the value is one: what other programs expect of an alpha."""
    return round(value) if math.isclose(value, round(value)) else value


def _check_matched(adapted: Any, spec: AdapterSpec, names: Sequence[str]) -> None:
    for key, patterns in (("rank_pattern", spec.rank_pattern), ("alpha_pattern", spec.alpha_pattern)):
        for pattern in patterns:
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
                raise UserError(f"method.{key} {pattern!r} fits the name of no adapted module, such as {names[0]}")
    found = adapted.base_model.targeted_parameter_names
    for wanted in spec.target_parameters:
        if not any(name == wanted or name.endswith(f".{wanted}") for name in found):
            raise UserError(f"method.target_parameters: the model has no parameter whose name ends in {wanted!r}")


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


def load_adapter(
    model: Any, folder: str | Path, *, name: str = DEFAULT, trainable: bool = False, dropout: float | None = None
) -> Any:
    """Wrap a base model with a saved adapter, or add one to those that it has; raises UserError when it does not fit.

    A model may hold any number of adapters under different names; the first is active until `set_adapter`. A base whose
    embeddings are too short for the adapter's new tokens is grown in place.

    Args:
        model: a base model or a `PeftModel`.
        folder: the adapter's folder.
        name: PEFT's name for it: no dots.
        trainable: whether its weights get gradients.
        dropout: of a first adapter, instead of the one that it was trained with.
    """
    from peft import PeftConfig, PeftModel

    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = not trainable
        if dropout is not None:
            config.lora_dropout = dropout
        grow_embeddings(model, num_rows_of(Path(folder)))
        if not isinstance(model, PeftModel):
            return PeftModel.from_pretrained(model, str(folder), name, is_trainable=trainable, config=config)
        with beside_token_rows(model, Path(folder)):
            model.load_adapter(str(folder), name, is_trainable=trainable)
        return model
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"{folder}: this adapter does not fit the base model ({' '.join(str(error).split())[:200]})"
        ) from error


def find_adapter(path: str) -> Path:
    """The adapter folder behind an adapter's, a run's or a sweep's folder (its winner)."""
    return local_path(locate_adapter(path))


def fetch_adapter(path: str, sha256: str | None = None) -> Path:
    """`find_adapter` for any address: a remote folder is copied to the cache, by content.

    Raises UserError when what is there is not that content.
    """
    located = locate_adapter(path)
    if not is_uri(located):
        return local_path(located).absolute()
    cache = state_home() / "adapters"
    if sha256 is not None and (kept := cache / sha256).is_dir():
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cache) as folder, reaching(located):
        fs, inner = filesystem(located)
        fs.get(inner.rstrip("/") + "/", f"{folder}/new/", recursive=True)
        found = folder_sha256(Path(folder) / "new")
        if sha256 not in (None, found):
            raise UserError(f"{path}: the files there are not those expected (sha256 {found[:12]}…)")
        with suppress(OSError):  # another process was faster
            (Path(folder) / "new").rename(cache / found)
    return cache / found


def locate_adapter(path: str) -> str:
    """The address of the adapter folder behind an adapter's, a run's or a sweep's folder (its winner)."""
    if exists(join(path, ADAPTER_CONFIG)):
        return path
    if exists(join(path, "best.json")):
        return locate_adapter(read_json(join(path, "best.json"))["run_path"])
    if exists(join(path, "adapter", ADAPTER_CONFIG)):
        return join(path, "adapter")
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
    fused = read_json(str(adapter / ADAPTER_CONFIG)).get("target_parameters") or []
    for name, shape in found.items():
        module = _base_module(name)
        weight = expected.get(f"{module}.weight")
        side = 1 if ".lora_A." in name else 0 if ".lora_B." in name else None
        if side is None or (weight is None and fused):  # experts may be named otherwise on disk: left to PEFT
            continue
        if weight is None:
            raise UserError(f"{adapter}: an adapter of another base: {base} has no module {module}")
        if len(weight) == 2 and shape[side] != weight[side]:
            raise UserError(
                f"{adapter}: an adapter of another base: {module} is {weight[0]} × {weight[1]} in {base}, "
                f"the adapter expects {shape[side]} instead of {weight[side]}"
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
