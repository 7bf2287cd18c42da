"""Which adapters and bases vLLM may be given, and an adapter of zeros that stands for the base where it must.

vLLM's kernels for CPUs (0.32) give a row without an adapter the one in the last slot, for its index is -1: once every
slot is taken, the base answers as an adapter. So on a CPU the base is asked for as an adapter that does nothing.
"""

import json
from pathlib import Path
from typing import Any

from ftlib.core.errors import UserError
from ftlib.core.storage import read_json
from ftlib.models.adapt import ADAPTER_CONFIG, ADAPTER_WEIGHTS, tensor_shapes
from ftlib.models.initial import changes_base
from ftlib.models.vocabulary import num_rows_of

_RANK = 8
_ADAPTABLE = ("q_proj", "qkv_proj", "o_proj", "down_proj", "query_key_value", "c_attn")


def write_zero_adapter(base: Path, folder: Path) -> Path:
    """Write an adapter that changes nothing, on one layer of a base; returns its folder. Raises UserError."""
    import torch
    from safetensors.torch import save_file

    fitting = (
        (module, shape)
        for name, shape in tensor_shapes(base).items()
        if (module := name.removesuffix(".weight")).endswith(_ADAPTABLE) and len(shape) == 2
    )
    module, (outputs, inputs) = next(fitting, ("", (0, 0)))
    if not module:
        raise UserError(f"{base}: no layer that vLLM adapts ({', '.join(_ADAPTABLE)})")
    folder.mkdir()
    weights = {"lora_A": torch.zeros(_RANK, inputs), "lora_B": torch.zeros(outputs, _RANK)}
    named = {f"base_model.model.{module}.{side}.weight": weight for side, weight in weights.items()}
    save_file(named, str(folder / ADAPTER_WEIGHTS))
    target = module.rpartition(".")[2]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": _RANK,
        "lora_alpha": _RANK,
        "target_modules": [target],
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config))
    return folder


def refuse_code(folder: Path) -> None:
    """Raise UserError if any configuration file of a folder names code (`auto_map`), however deep.

    vLLM has run such code with `trust_remote_code` off, more than once.
    """

    def names_code(value: Any) -> bool:
        if isinstance(value, dict):
            return bool(value.get("auto_map")) or any(names_code(item) for item in value.values())
        return isinstance(value, list) and any(names_code(item) for item in value)

    for path in sorted(folder.glob("*config*.json")):
        if names_code(read_json(str(path))):
            raise UserError(f"{path}: names code of its own (auto_map), which is never run")


def refuse_adapter(folder: Path, max_lora_rank: int) -> None:
    """Raise UserError for an adapter that vLLM cannot serve as it was trained."""
    if not (folder / ADAPTER_CONFIG).exists():
        raise UserError(f"{folder}: no {ADAPTER_CONFIG}")
    config = read_json(str(folder / ADAPTER_CONFIG))
    rank = max([config.get("r") or 0, *(config.get("rank_pattern") or {}).values()])
    reasons = {
        f"its kind is {config.get('peft_type')}, not LORA": config.get("peft_type", "LORA") != "LORA",
        "DoRA (use_dora)": config.get("use_dora"),
        "trained rows for new tokens (trainable_token_indices)": num_rows_of(folder) > 0,
        "modules that were trained whole (modules_to_save)": config.get("modules_to_save"),
        "trained biases": config.get("bias", "none") != "none" or config.get("lora_bias"),
        f"init_lora_weights {config.get('init_lora_weights')}, whose base has other weights": changes_base(
            config.get("init_lora_weights")
        ),
        f"rank {rank}, above max_lora_rank {max_lora_rank}": rank > max_lora_rank,
    }
    if found := [reason for reason, is_so in reasons.items() if is_so]:
        raise UserError(f"{folder}: vLLM cannot serve this adapter: {'; '.join(found)}")
