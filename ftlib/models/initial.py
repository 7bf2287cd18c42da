"""First weights of an adapter that are computed from the base or the data, and stored so that a run can be rebuilt.

PiSSA (Meng et al. 2024) and OLoRA (Büyükakyüz 2024) put the largest components of each weight into the adapter and take
them off the base: W = W' + s·B₀A₀ with W' frozen. EVA (Paischer et al. 2024) takes A from the principal components of
the activations of some batches, and leaves the base as it is. Either is computed once; every rank and every resumed
process loads the result and takes it off the base as it was read, so all hold the same W' to the last bit.

What is exported fits the unchanged base: s·(BA − B₀A₀) is an adapter of twice the rank (`as_plain_lora`), the
conversion that PEFT's documentation describes.
"""

import copy
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ftlib.core.storage import atomic_dir
from ftlib.models.adapt import ADAPTER_WEIGHTS, DEFAULT

_KEY = "run.json"


def is_computed(init: str) -> bool:
    """Whether first weights have to be computed and stored."""
    return init == "eva" or changes_base(init)


def changes_base(init: object) -> bool:
    """Whether first weights are taken off the base (PiSSA, OLoRA)."""
    return isinstance(init, str) and re.match(r"pissa|olora", init) is not None


def find_initial(folder: Path, key: str) -> bool:
    """Whether a folder holds the first weights of the work with this key."""
    try:
        return bool(json.loads((folder / _KEY).read_text())["key"] == key)
    except (OSError, ValueError, KeyError):
        return False


def save_initial(model: Any, folder: Path, key: str) -> None:
    """Store a new adapter in PEFT's format with the name of its initialisation."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    with atomic_dir(str(folder)) as target:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, target / ADAPTER_WEIGHTS)
        model.peft_config[DEFAULT].save_pretrained(target)
        (target / _KEY).write_text(json.dumps({"key": key}) + "\n")


def load_initial(model: Any, folder: Path) -> Any:
    """Wrap a base model with stored first weights, trainable, and take them off the base where the method says so."""
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(str(folder))
    init = config.init_lora_weights
    config.init_lora_weights, config.eva_config = True, None  # or PEFT would compute them anew
    adapted = PeftModel.from_pretrained(model, str(folder), DEFAULT, is_trainable=True, config=config)
    if changes_base(init):
        with torch.no_grad():
            for module in adapted.modules():
                if hasattr(module, "lora_A") and DEFAULT in module.lora_A:
                    weight = module.get_base_layer().weight
                    weight.copy_(weight.float() - module.get_delta_weight(DEFAULT).float())
    return adapted


def as_plain_lora(config: Any, state: dict[str, torch.Tensor], folder: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """A trained adapter as one for the unchanged base; as it is, unless its first weights were taken off the base.

    Args:
        config: its `LoraConfig`, left alone.
        state: its tensors by PEFT's names on disk.
        folder: the stored first weights.

    Returns:
        Configuration and tensors: A over A₀ (2r × in), B beside −B₀ (out × 2r), ranks doubled, alpha so that the
        scale stays (alpha / rank doubles it, alpha / √rank takes √2).
    """
    from peft import PeftConfig
    from safetensors.torch import load_file

    if not changes_base(PeftConfig.from_pretrained(str(folder)).init_lora_weights):
        return config, state
    first = load_file(folder / ADAPTER_WEIGHTS)
    joined = {}
    for name, tensor in state.items():
        joined[name] = tensor
        if ".lora_A." in name:
            joined[name] = torch.cat([tensor, first[name].to(tensor)], dim=0)
        elif ".lora_B." in name:
            joined[name] = torch.cat([tensor, -first[name].to(tensor)], dim=1)
    plain = copy.copy(config)
    factor = 2**0.5 if plain.use_rslora else 2
    plain.r, plain.lora_alpha = 2 * plain.r, factor * plain.lora_alpha
    plain.rank_pattern = {pattern: 2 * rank for pattern, rank in plain.rank_pattern.items()}
    plain.alpha_pattern = {pattern: factor * alpha for pattern, alpha in plain.alpha_pattern.items()}
    return plain, joined


def compute_eva(
    model: Any, batches: Sequence[dict[str, torch.Tensor]], forward: Callable[[Any, dict[str, torch.Tensor]], Any]
) -> None:
    """Fill the A of an adapter made with `init="eva"` from the activations of batches.

    Args:
        model: the adapted model.
        batches: each with at least as many tokens as the largest rank; gone round until the components are stable.
        forward: runs the model on one of them.
    """
    from peft import initialize_lora_eva_weights

    initialize_lora_eva_weights(
        model, list(batches), forward_fn=forward, gather_distributed_inputs=False, show_progress_bar=False
    )
