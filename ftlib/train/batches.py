"""From packs to tensors, and the losses of their tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ftlib.data.pack import Pack
from ftlib.train.head import LossHead, Targets, plain_loss

PackHint = Callable[[list[list[int]], torch.device], dict[str, Any]]
"""What an attention must be told of the sequences in packs: of their lengths, row by row, keywords of the model."""


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
    sequences: torch.Tensor
    """int64[B, K]: number of the sequence that a target belongs to, counted through the rows; 0 for padding."""
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
    numbers, past = np.zeros_like(ids), 0
    for row, pack in enumerate(packs):
        numbers[row, : len(pack.input_ids)] = past + np.cumsum(pack.position_ids == 0) - 1
        past += pack.num_sequences
    arrays: dict[str, npt.NDArray[Any]] = {
        "input_ids": ids, "position_ids": positions, "kept": kept, "targets": targets, "weights": target_weights,
        "sequences": numbers[:, 1:][:, kept],
    }  # fmt: skip
    return MicroBatch(
        **{name: to_device(array, device) for name, array in arrays.items()},
        sequence_lengths=[np.diff([*np.flatnonzero(row == 0), longest]).tolist() for row in positions],
    )


def to_device(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """A tensor of an array. On a GPU it goes through page-locked memory: the copy joins the queue of work there instead
    of waiting for its end, so that the next micro-batch is made ready while one is computed.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@dataclass(frozen=True)
class Forward:
    """How this run's model is asked for losses.

    Attention is block-diagonal: with no attention mask, transformers finds the sequences of a pack where position ids
    restart; other attentions (`ftlib.train.attention`) are told by `pack_hint`.
    """

    module: Any
    head: LossHead | None = None
    """None: the model returns logits, and the loss is taken of them."""
    pack_hint: PackHint | None = None

    def loss(self, batch: MicroBatch, smoothing: float = 0.0) -> torch.Tensor:
        """Sum over learnt tokens of weight × negative log-likelihood, float32 scalar."""
        return self._losses(batch, Targets(batch.targets, batch.weights, smoothing))

    def row_losses(self, batch: MicroBatch) -> torch.Tensor:
        """The same for each row of the batch, float32[B]."""
        return (self._losses(batch, Targets(batch.targets, None)) * batch.weights).sum(1)

    def log_likelihoods(self, batch: MicroBatch, num_sequences: int) -> torch.Tensor:
        """Log-likelihood of each sequence's learnt tokens given those before, float32[num_sequences]."""
        losses = self._losses(batch, Targets(batch.targets, None)) * (batch.weights > 0)
        sums = torch.zeros(num_sequences, dtype=torch.float32, device=losses.device)
        return sums.index_add(0, batch.sequences.flatten(), -losses.flatten())

    def _losses(self, batch: MicroBatch, targets: Targets) -> torch.Tensor:
        options = self.pack_hint(batch.sequence_lengths, batch.input_ids.device) if self.pack_hint else {}
        inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "logits_to_keep": batch.kept}
        if self.head is None:
            return plain_loss(self.module(**inputs, use_cache=False, **options).logits, targets)
        with self.head.expecting(targets):
            losses: torch.Tensor = self.module(**inputs, use_cache=False, **options).logits
        return losses
