"""Sequences packed into training samples, and the memory-mapped folder that they are read from (numpy alone).

A packed split is a folder:

    tokens-NNNNN.npy   int32[n]     token ids, sequence after sequence
    weights-NNNNN.npy  float32[n]   loss weight of each token as a target; 0: not learnt, as is a first token
    sequences.npy      int64[s, 3]  file number, first token, length of each sequence
    packs.npy          int64[p + 1] bounds of each pack in `order`
    order.npy          int64[s']    sequence numbers, pack after pack
    split.json         counts, and the longest pack

Packing is best fit, longest first (Best-Fit-Decreasing; wastes about 1 % on chat data), in O(n log n) with one stack of
open packs for each amount of free space. It depends on lengths and their order alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

INFO = "split.json"
Ints = npt.NDArray[np.int64]


def best_fit(lengths: Sequence[int] | Ints, capacity: int) -> list[list[int]]:
    """Group items into packs of at most `capacity` tokens.

    Returns lists of item numbers; every item is in one pack. Packs are in the order in which they were opened, items
    longest first, equal lengths in the order given. Raises ValueError for an item longer than `capacity`.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.size and int(sizes.max()) > capacity:
        raise ValueError(f"an item of {int(sizes.max())} tokens does not fit a pack of {capacity}")
    packs: list[list[int]] = []
    open_packs: list[list[int]] = [[] for _ in range(capacity + 1)]
    nonempty = 0  # bit r is set when a pack with r free tokens is open
    for item in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[item])
        candidates = nonempty >> size
        if candidates:
            free = size + (candidates & -candidates).bit_length() - 1
            pack = open_packs[free].pop()
            if not open_packs[free]:
                nonempty ^= 1 << free
            packs[pack].append(item)
        else:
            free, pack = capacity, len(packs)
            packs.append([item])
        open_packs[free - size].append(pack)
        nonempty |= 1 << (free - size)
    return packs


@dataclass(frozen=True)
class Pack:
    """One training sample: arrays of equal length n."""

    input_ids: npt.NDArray[np.int32]
    position_ids: npt.NDArray[np.int32]
    """Restart at 0 with every sequence, which makes attention block-diagonal."""
    weights: npt.NDArray[np.float32]


class PackedSplit:
    """Read access to a packed split; arrays stay on disk until a pack is asked for."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.info = json.loads((self.folder / INFO).read_text())
        self._sequences = np.load(self.folder / "sequences.npy")
        self._bounds = np.load(self.folder / "packs.npy")
        self._order = np.load(self.folder / "order.npy", mmap_mode="r")
        self._files: dict[int, tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]] = {}

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> Pack:
        numbers = self._order[self._bounds[index] : self._bounds[index + 1]]
        tokens, positions, weights = [], [], []
        for file, start, length in self._sequences[numbers]:
            ids, loss = self._file(int(file))
            tokens.append(ids[start : start + length])
            weights.append(loss[start : start + length])
            positions.append(np.arange(length, dtype=np.int32))
        return Pack(np.concatenate(tokens), np.concatenate(positions), np.concatenate(weights))

    @cached_property
    def pack_weights(self) -> npt.NDArray[np.float64]:
        """Sum of the loss weights of each pack: every rank can tell a batch's weight without asking the others."""
        sums = np.zeros(len(self._sequences))
        for number, (file, start, length) in enumerate(self._sequences):
            sums[number] = self._file(int(file))[1][start : start + length].sum(dtype=np.float64)
        totals = np.concatenate([[0.0], np.cumsum(sums[self._order])])
        return np.asarray(totals[self._bounds[1:]] - totals[self._bounds[:-1]])

    @cached_property
    def pack_tokens(self) -> Ints:
        """Number of tokens of each pack."""
        totals = np.concatenate([[0], np.cumsum(self._sequences[self._order, 2])])
        return np.asarray(totals[self._bounds[1:]] - totals[self._bounds[:-1]])

    @cached_property
    def num_supervised(self) -> int:
        """Learnt tokens of the whole split."""
        files = {int(file) for file in self._sequences[:, 0]}
        return sum(int(np.count_nonzero(self._file(number)[1])) for number in files)

    def _file(self, number: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        if number not in self._files:
            self._files[number] = (
                np.load(self.folder / f"tokens-{number:05d}.npy", mmap_mode="r"),
                np.load(self.folder / f"weights-{number:05d}.npy", mmap_mode="r"),
            )
        return self._files[number]


def write_file(folder: Path, number: int, tokens: Sequence[list[int]], weights: Sequence[list[float]]) -> Ints:
    """Write one file of sequences; returns their rows of `sequences.npy`, int64[n, 3]."""
    flat = np.fromiter((token for ids in tokens for token in ids), dtype=np.int32)
    loss = np.fromiter((weight for row in weights for weight in row), dtype=np.float32)
    lengths = np.fromiter((len(ids) for ids in tokens), dtype=np.int64, count=len(tokens))
    starts = np.cumsum(lengths) - lengths
    loss[starts[lengths > 0]] = 0.0
    np.save(folder / f"tokens-{number:05d}.npy", flat)
    np.save(folder / f"weights-{number:05d}.npy", loss)
    return np.stack([np.full_like(lengths, number), starts, lengths], axis=1)


def write_index(
    folder: Path, sequences: Ints, capacity: int, *, packing: bool, counts: dict[str, int]
) -> dict[str, int]:
    """Pack the sequences of a folder's files and write its index; returns what `split.json` holds."""
    lengths = sequences[:, 2]
    packs = best_fit(lengths, capacity) if packing else [[number] for number in range(len(lengths))]
    order = np.fromiter((number for pack in packs for number in pack), dtype=np.int64)
    bounds = np.cumsum([0, *(len(pack) for pack in packs)])
    info = counts | {
        "num_sequences": len(lengths),
        "num_packs": len(packs),
        "num_tokens": int(lengths.sum()),
        "longest_pack": max((int(lengths[pack].sum()) for pack in packs), default=0),
    }
    np.save(folder / "sequences.npy", sequences)
    np.save(folder / "order.npy", order)
    np.save(folder / "packs.npy", bounds)
    (folder / INFO).write_text(json.dumps(info, indent=2) + "\n")
    return info
