"""NEFTune (Jain et al. 2023): uniform noise on the embeddings of training inputs.

Each embedding of a sequence of L tokens gets noise from U(-1, 1) · alpha / √(L·d). L is the sequence's own length, not
that of the pack it sits in. The noise is drawn where the loop has seeded the micro-batch, so it is the same for any
number of workers.
"""

from typing import Any

import torch


def add_embedding_noise(model: Any, alpha: float) -> None:
    """Hook noise into a model; it acts in training mode only, and on inputs that come with position ids."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    lengths: list[torch.Tensor] = []

    def remember(module: Any, arguments: Any, named: dict[str, Any]) -> None:
        lengths.clear()
        if (positions := named.get("position_ids")) is not None:
            lengths.append(token_lengths(positions))

    def disturb(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training or not lengths:
            return output
        size = alpha / (lengths[0] * output.shape[-1]).sqrt()
        noise = torch.rand(output.shape, device=output.device) * 2 - 1
        return output + (noise * size[..., None]).to(output.dtype)

    decoder = getattr(base, base.base_model_prefix)
    decoder.register_forward_pre_hook(remember, with_kwargs=True)
    base.get_input_embeddings().register_forward_hook(disturb)


def token_lengths(position_ids: torch.Tensor) -> torch.Tensor:
    """For each token of packs (B × S) the length of its sequence, float32: one starts where positions restart."""
    starts = position_ids == 0
    number = starts.flatten().cumsum(0) - 1  # rows start at position 0, so sequences never span two
    return torch.bincount(number)[number].view_as(position_ids).float()
