"""Attention within each sequence of a pack, for CPUs.

The stock path builds an S × S mask from position ids and computes all of it: 16 % of a step at 512 tokens, of which
packs of 85-token sequences need a sixth. Here every sequence gets a causal attention of its own. On a GPU the many
small kernels would cost more than the mask, so models there keep theirs.
"""

from typing import Any

import torch
from torch.nn import functional

NAME = "ftlib_packed"


def use_packed_attention(model: Any, device: torch.device) -> bool:
    """Switch a model to attention by sequence; returns whether it was possible.

    Models with sliding windows, soft-capped scores or attention dropout keep their own.
    """
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    special = getattr(config, "sliding_window", None) or getattr(config, "attn_logit_softcapping", None)
    dropout = getattr(config, "attention_dropout", 0.0)
    if device.type != "cpu" or kinds != {"full_attention"} or special or dropout:
        return False
    if config._attn_implementation != "sdpa" or getattr(config, "is_encoder_decoder", False):
        return False
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(NAME, attend_by_sequence)
    model.set_attn_implementation(NAME)
    return True


def attend_by_sequence(  # noqa: PLR0917 (transformers calls it by position)
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sequence_lengths: list[list[int]] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each sequence.

    Args:
        module: the attention layer.
        query: B × heads × S × D.
        key: B × key heads × S × D; `value` likewise.
        value: see `key`.
        attention_mask: unused, there is no padding inside a sequence.
        scaling: factor of the scores; default 1/√D.
        sequence_lengths: for each row of the batch the lengths of its sequences, S in sum.

    Returns:
        B × S × heads × D, and no weights.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    rows = []
    # Split, not indexed: the backward pass of an index fills a tensor of the whole batch, for every row of it.
    by_row = zip(*(torch.split(tensor, 1) for tensor in (query, key, value)), strict=True)
    for row, lengths in zip(by_row, sequence_lengths or [[query.shape[2]]] * query.shape[0], strict=True):
        queries, keys, values = (torch.split(tensor, lengths, dim=2) for tensor in row)
        outputs = [
            functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
            for q, k, v in zip(queries, keys, values, strict=True)
        ]
        rows.append(torch.cat(outputs, dim=2))
    return torch.cat(rows).transpose(1, 2).contiguous(), None
