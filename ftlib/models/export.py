"""Write a trained model so that peft and transformers alone load it: weights, tokenizer, chat template."""

import copy
from pathlib import Path
from typing import Any

import torch

from ftlib.models.adapt import ADAPTER_WEIGHTS, DEFAULT
from ftlib.models.initial import as_plain_lora


def save_adapter(
    model: Any,
    weights: dict[str, torch.Tensor],
    tokenizer: Any,
    folder: Path,
    base: str,
    *,
    initial: Path | None = None,
) -> None:
    """Save an adapter in PEFT's own format, for the unchanged base.

    Args:
        model: the PEFT model that names the adapter's configuration.
        weights: full adapter tensors by PEFT parameter name (`….lora_A.default.weight`), gathered from all ranks.
        tokenizer: saved beside it, chat template included.
        folder: an existing folder.
        base: the base model's source, noted in `adapter_config.json`.
        initial: stored first weights (`ftlib.models.initial`), if there are any.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    # Rows of new tokens are the adapter's own; PEFT would put all embeddings beside them when they have grown.
    state = get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False)
    if not state or any(tensor.numel() == 0 for tensor in state.values()):
        raise RuntimeError("the adapter to save is empty: its tensors were not gathered")
    config = copy.copy(model.peft_config[DEFAULT])
    if initial is not None:
        config, state = as_plain_lora(config, state, initial)
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(state, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config.base_model_name_or_path, config.inference_mode, config.init_lora_weights = base, True, True
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_model(model: Any, weights: dict[str, torch.Tensor], tokenizer: Any, folder: Path, dtype: torch.dtype) -> None:
    """Save all weights as safetensors of `dtype` with config and tokenizer.

    `weights` are full tensors by parameter name; parameters that are tied to one of them need not be there.
    """
    from huggingface_hub import save_torch_state_dict

    state = {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}
    save_torch_state_dict(state, folder, max_shard_size="5GB")
    model.config.dtype = dtype
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
