"""Write a trained model so that peft and transformers alone load it: weights, tokenizer, chat template."""

from pathlib import Path
from typing import Any

import torch


def save_adapter(model: Any, weights: dict[str, torch.Tensor], tokenizer: Any, folder: Path, base: str) -> None:
    """Save an adapter in PEFT's own format.

    Args:
        model: the PEFT model that names the adapter's configuration.
        weights: full adapter tensors by PEFT parameter name (`….lora_A.default.weight`), gathered from all ranks.
        tokenizer: saved beside it, chat template included.
        folder: an existing folder.
        base: the base model's source, noted in `adapter_config.json`.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    state = get_peft_model_state_dict(model, state_dict={name: tensor.contiguous() for name, tensor in weights.items()})
    if not state or any(tensor.numel() == 0 for tensor in state.values()):
        raise RuntimeError("the adapter to save is empty: its tensors were not gathered")
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"]
    previous = config.base_model_name_or_path, config.inference_mode
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(folder)
    config.base_model_name_or_path, config.inference_mode = previous
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
