"""Attention within each sequence of a pack.

The stock path builds an S × S mask from position ids and computes all of it: on a CPU 16 % of a step at 512 tokens, of
which packs of 85-token sequences need a sixth. There every sequence gets a causal attention of its own. On a GPU the
many small kernels would cost more than the mask; `varlen` hands all sequences to one flash-attention kernel, which is
told where they begin.
"""

from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ftlib.core.errors import UserError
from ftlib.train.batches import PackHint, to_device

NAME = "ftlib_packed"
VARLEN = "ftlib_varlen"


def set_attention(
    model: Any, choice: str, device: torch.device, precision: torch.dtype, *, compiled: bool = False
) -> PackHint | None:
    """Switch a model to an attention; returns how its forward pass is told of the sequences in packs, if it must be.

    Args:
        model: a causal model of transformers.
        choice: `auto`, `sdpa`, `eager`, `varlen` or `flash_attention_2` (see `train.attention`).
        device: where it computes.
        precision: in which dtype.
        compiled: whether its layers will be compiled; attention by sequence would be compiled anew for every pack.

    Raises:
        UserError: the choice is not possible for this model, here or in this precision.
    """
    if choice == "auto":
        return by_lengths if not compiled and use_packed_attention(model, device) else None
    if choice in {"varlen", "flash_attention_2"}:
        if device.type != "cuda" or precision is torch.float32:
            raise UserError(f"train.attention {choice} needs a CUDA device and bfloat16 or float16; take auto")
        if choice == "varlen" and not _is_plain(model.config):
            raise UserError("train.attention varlen: this model's attention is more than causal; take auto")
    if choice == "varlen":
        _register(VARLEN, attend_varlen)
    try:
        model.set_attn_implementation(VARLEN if choice == "varlen" else choice)
    except (ImportError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"train.attention {choice} is not possible here ({reason}); take auto or varlen") from error
    return by_bounds if choice in {"varlen", "flash_attention_2"} else None


def by_lengths(lengths: list[list[int]], device: torch.device) -> dict[str, Any]:
    """What `attend_by_sequence` takes."""
    return {"sequence_lengths": lengths}


def by_bounds(lengths: list[list[int]], device: torch.device) -> dict[str, Any]:
    """What flash attention takes: bounds of the sequences in all rows one after the other, int32[n + 1].

    Read off position ids, they would cost a wait for the device in every layer, and a micro-batch of several rows would
    not be told apart at all.
    """
    flat = list(chain.from_iterable(lengths))
    bounds = to_device(np.cumsum([0, *flat], dtype=np.int32), device)
    return {
        "cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": max(flat), "max_length_k": max(flat),
    }  # fmt: skip


def use_packed_attention(model: Any, device: torch.device) -> bool:
    """Switch a model to attention by sequence; returns whether it was possible.

    Models with sliding windows, soft-capped scores or attention dropout keep their own.
    """
    if device.type != "cpu" or not _is_plain(model.config):
        return False
    _register(NAME, attend_by_sequence)
    model.set_attn_implementation(NAME)
    return True


def _is_plain(config: Any) -> bool:
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    special = getattr(config, "sliding_window", None) or getattr(config, "attn_logit_softcapping", None)
    if kinds != {"full_attention"} or special or getattr(config, "attention_dropout", 0.0):
        return False
    return config._attn_implementation == "sdpa" and not getattr(config, "is_encoder_decoder", False)


def _register(name: str, attention: Any) -> None:
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(name, attention)


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


def attend_varlen(  # noqa: PLR0917 (transformers calls it by position)
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each sequence, by PyTorch's own flash attention (Dao 2023) for lengths that vary.

    Args:
        module: the attention layer.
        query: B × heads × S × D; in half precision from here on.
        key: B × key heads × S × D; `value` likewise.
        value: see `key`.
        attention_mask: unused.
        scaling: factor of the scores; default 1/√D.
        cu_seq_lens_q: bounds of the sequences in all rows one after the other, int32[n + 1]; None: a row is one.
        max_length_q: length of the longest.

    Returns:
        B × S × heads × D, and no weights.
    """
    from torch.nn.attention.varlen import varlen_attn

    batch, heads, length, size = query.shape
    groups = heads // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if cu_seq_lens_q is None:
        cu_seq_lens_q = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=query.device)
        max_length_q = length
    # Norms of queries and keys with float32 weights raise them; the kernel takes half precision alone.
    query, key, value = (
        tensor.to(value.dtype).transpose(1, 2).reshape(-1, heads, size) for tensor in (query, key, value)
    )
    bounds, longest, causal = cu_seq_lens_q, max_length_q, (-1, 0)  # window: all before, nothing after
    output: Any = varlen_attn(query, key, value, bounds, bounds, longest, longest, scale=scaling, window_size=causal)
    return output.view(batch, length, heads, size), None
