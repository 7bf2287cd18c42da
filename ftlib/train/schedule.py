"""What happens at which step: the learning rate and the samples of each batch, as pure functions of the step."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then decay to a floor."""

    peak: float
    total_steps: int
    kind: str = "cosine"
    """`cosine`, `linear` or `constant`."""
    warmup_fraction: float = 0.05
    floor_fraction: float = 0.1

    def rate(self, step: int) -> float:
        """Learning rate of optimiser step `step`, counted from 0; the peak is reached when warm-up ends."""
        warmup = math.ceil(self.warmup_fraction * self.total_steps)
        if step < warmup:
            return self.peak * (step + 1) / warmup
        if self.kind == "constant":
            return self.peak
        progress = min(1.0, (step - warmup) / max(1, self.total_steps - warmup))
        share = 0.5 * (1 + math.cos(math.pi * progress)) if self.kind == "cosine" else 1 - progress
        return self.peak * (self.floor_fraction + (1 - self.floor_fraction) * share)


@dataclass(frozen=True)
class Cursor:
    """A position in the endless stream of shuffled epochs: it names the next sample, whatever the number of workers."""

    epoch: int
    seed: int
    offset: int
    """Samples of this epoch that are used up."""
    replayed: int = 0
    """Samples of the replayed data that are used up."""


class Stream(Protocol):
    """Which samples each step trains on."""

    def batch(self, step: int) -> list[int]:
        """Sample numbers of optimiser step `step`."""

    def cursor(self, step: int) -> Cursor:
        """Where the stream stands before `step`."""

    def step_at(self, cursor: Cursor) -> int:
        """The step that starts at a cursor; raises ValueError for one of another stream."""

    def epochs(self, step: int) -> float:
        """Passes over the data before `step`."""


class SampleStream:
    """Epoch after epoch of `num_samples` packs, each in an order of its own, cut into batches of constant size.

    A batch may span two epochs, so every batch is full. With replay, every batch holds its share of a second, equally
    shuffled stream, whose `num_replayed` packs are numbered from `num_samples` on.
    """

    def __init__(
        self, num_samples: int, batch_size: int, seed: int, num_replayed: int = 0, replay_share: float = 0.0
    ) -> None:
        if num_samples < 1 or (replay_share and num_replayed < 1):
            raise ValueError("a stream needs at least one sample")
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.num_replayed, self.replay_share = num_replayed, replay_share

    def batch(self, step: int) -> list[int]:
        """Sample numbers of optimiser step `step`, in order."""
        first = step * self.batch_size
        return [self._sample(position) for position in range(first, first + self.batch_size)]

    def cursor(self, step: int) -> Cursor:
        """Where the stream stands before `step`."""
        replayed = self._replayed(step * self.batch_size)
        epoch, offset = divmod(step * self.batch_size - replayed, self.num_samples)
        return Cursor(epoch, self.seed, offset, replayed)

    def step_at(self, cursor: Cursor) -> int:
        """The step whose batch starts at a cursor; raises ValueError when it does not lie between two batches."""
        position = cursor.epoch * self.num_samples + cursor.offset + cursor.replayed
        if cursor.seed != self.seed or position % self.batch_size or self._replayed(position) != cursor.replayed:
            raise ValueError(f"{cursor} does not lie between two batches of {self.batch_size} with seed {self.seed}")
        return position // self.batch_size

    def epochs(self, step: int) -> float:
        """Passes over the data, replay aside, before `step`."""
        first = step * self.batch_size
        return (first - self._replayed(first)) / self.num_samples

    def _replayed(self, position: int) -> int:
        """Replayed samples before a position: they are spread evenly."""
        return math.floor(position * self.replay_share + 1e-9)

    def _sample(self, position: int) -> int:
        replayed = self._replayed(position)
        if self._replayed(position + 1) > replayed:
            epoch, offset = divmod(replayed, self.num_replayed)
            return self.num_samples + int(_epoch_order(self.num_replayed, self.seed + 1, epoch)[offset])
        epoch, offset = divmod(position - replayed, self.num_samples)
        return int(_epoch_order(self.num_samples, self.seed, epoch)[offset])


@lru_cache(maxsize=4)
def _epoch_order(num_samples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(num_samples)


def num_steps(
    num_samples: int, batch_size: int, num_epochs: float, max_steps: int | None, replay_share: float = 0.0
) -> int:
    """Optimiser steps of a run: `max_steps`, else enough for `num_epochs` passes over the data, replay aside."""
    if max_steps is not None:
        return max_steps
    return max(1, math.ceil(num_epochs * num_samples / (1 - replay_share) / batch_size))


def micro_seed(seed: int, step: int, micro_batch: int) -> int:
    """Seed of dropout for one micro-batch: the same whichever rank computes it."""
    return int(np.random.SeedSequence([seed, step, micro_batch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
