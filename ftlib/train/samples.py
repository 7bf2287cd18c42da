"""The packs of a run, cut into micro-batches: its own data and what is replayed against forgetting."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ftlib.data.pack import Pack, PackedSplit
from ftlib.train.batches import MicroBatch, collate, to_device
from ftlib.train.objectives import Preferences

Floats = npt.NDArray[np.float64]


class Samples:
    """Packed splits, numbered through, as micro-batches on a device."""

    def __init__(self, folders: Sequence[Path], micro_batch_size: int, pad_id: int, device: torch.device) -> None:
        self._splits = [PackedSplit(folder) for folder in folders]
        self._bounds = np.cumsum([0, *(len(split) for split in self._splits)])
        self._micro_batch_size, self._pad_id, self._device = micro_batch_size, pad_id, device
        self.weights: Floats = np.concatenate([split.pack_weights for split in self._splits])
        """float64[n]: what each sample weighs in a batch's mean loss."""
        self.tokens = np.concatenate([split.pack_tokens for split in self._splits])
        """int64[n]."""
        self.reference: Floats | None = None
        """float64[n, 2], of preferences; see `ftlib.train.objectives`."""

    def __len__(self) -> int:
        return int(self._bounds[-1])

    @property
    def sizes(self) -> list[int]:
        """Samples of each split."""
        return [len(split) for split in self._splits]

    @property
    def own(self) -> PackedSplit:
        """The run's own data, without what is replayed."""
        return self._splits[0]

    def ids(self, sample: int) -> list[str]:
        """Records of a sample."""
        split, index = self._find(sample)
        return split.ids(index)

    def micro_batches(self, samples: list[int]) -> list[list[int]]:
        """Cut a batch into micro-batches, like lengths together where they would be padded."""
        size = self._micro_batch_size
        if size > 1:
            samples = sorted(samples, key=lambda sample: -int(self.tokens[sample]))
        return [samples[first : first + size] for first in range(0, len(samples), size)]

    def collate(self, samples: list[int], part: int | None = None) -> MicroBatch:
        """The tensors of a micro-batch; `part`: of one sequence of every sample alone."""
        packs = [self.pack(sample) for sample in samples]
        if part is not None:
            packs = [pack.only(part) for pack in packs]
        return collate(packs, self._pad_id, self._device)

    def preferences(self, samples: list[int]) -> Preferences | None:
        """What is known of samples of preferences; None where there is no reference."""
        if self.reference is None:
            return None
        desirable = np.asarray([split.desirable[index] for split, index in map(self._find, samples)])
        return Preferences(
            reference=to_device(self.reference[samples].astype(np.float32), self._device),
            weights=to_device(self.weights[samples].astype(np.float32), self._device),
            desirable=to_device(desirable, self._device),
        )

    def pack(self, sample: int) -> Pack:
        """One sample's tokens."""
        split, index = self._find(sample)
        return split[index]

    def _find(self, sample: int) -> tuple[PackedSplit, int]:
        number = int(np.searchsorted(self._bounds, sample, side="right")) - 1
        return self._splits[number], sample - int(self._bounds[number])


def share(count: int, rank: int, world_size: int) -> Iterator[tuple[int, bool]]:
    """Numbers that a rank works on in turn, number k going to rank k modulo the world size.

    All ranks get equally many, since forward and backward passes may be collectives: those that are over are given the
    last number again with False.
    """
    for turn in range(math.ceil(count / world_size)):
        number = turn * world_size + rank
        yield min(number, count - 1), number < count
