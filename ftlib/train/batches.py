"""From packs to tensors, and the loss of one micro-batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ftlib.data.pack import Pack


@dataclass(frozen=True)
class MicroBatch:
    """Tensors of one forward pass, B × S. Padding is a sequence of its own that nothing is learnt from."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    kept: torch.Tensor
    """int64[K]: positions of S at which some row predicts a learnt token; only these pass through the output layer."""
    targets: torch.Tensor
    """int64[B, K]: the tokens that follow them."""
    weights: torch.Tensor
    """float32[B, K]: the targets' loss weights."""
    sequence_lengths: list[list[int]]
    """For each row the lengths of its sequences, padding included; S in sum."""


def collate(packs: Sequence[Pack], pad_id: int, device: torch.device) -> MicroBatch:
    """Pad packs to the longest of them (micro-batches of one pack have no padding)."""
    longest = max(len(pack.input_ids) for pack in packs)
    ids = np.full((len(packs), longest), pad_id, dtype=np.int64)
    positions = np.tile(np.arange(longest, dtype=np.int64), (len(packs), 1))
    weights = np.zeros((len(packs), longest), dtype=np.float32)
    for row, pack in enumerate(packs):
        size = len(pack.input_ids)
        ids[row, :size], positions[row, :size], weights[row, :size] = pack.input_ids, pack.position_ids, pack.weights
        positions[row, size:] = np.arange(longest - size)
    kept = np.flatnonzero(weights[:, 1:].any(axis=0))
    targets, target_weights = ids[:, 1:][:, kept], weights[:, 1:][:, kept]
    arrays = {"input_ids": ids, "position_ids": positions, "kept": kept, "targets": targets, "weights": target_weights}
    return MicroBatch(
        **{name: torch.from_numpy(array).to(device) for name, array in arrays.items()},
        sequence_lengths=[np.diff([*np.flatnonzero(row == 0), longest]).tolist() for row in positions],
    )


def micro_batch_loss(model: Any, batch: MicroBatch, *, by_sequence: bool = False) -> torch.Tensor:
    """Sum over learnt tokens of weight × negative log-likelihood, float32 scalar.

    Attention is block-diagonal: with no attention mask, transformers finds the sequences of a pack where position ids
    restart; `by_sequence` models (`ftlib.train.attention`) are told the lengths.
    """
    logits = model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        use_cache=False,
        logits_to_keep=batch.kept,
        **({"sequence_lengths": batch.sequence_lengths} if by_sequence else {}),
    ).logits
    losses = functional.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten(), reduction="none")
    return (losses * batch.weights.flatten()).sum()
