"""Sequences packed into training samples, and the memory-mapped folder that they are read from (numpy alone).

A packed split is a folder:

    tokens-NNNNN.npy   int32[n]     token ids, sequence after sequence
    weights-NNNNN.npy  float32[n]   loss weight of each token as a target; 0: not learnt, as is a first token
    sequences.npy      int64[s, 3]  file number, first token, length of each sequence
    packs.npy          int64[p + 1] bounds of each pack in `order`
    order.npy          int64[s']    sequence numbers, pack after pack; one may occur in several packs
    ids-NNNNN.json     the record of each sequence of a file
    samples.npy        float32[p, 2] of preferences only: each sample's weight, and 1 where its answer is desirable
    split.json         counts, and the longest pack
    units.npy          uint64[s, 2] on request: hashes of each sequence's record and data subject (0: none)

A sample of preferences is a "pack" of two sequences: for DPO the chosen and the rejected answer, for KTO an answer and
one of another record.

Packing is best fit, longest first (Best-Fit-Decreasing; wastes about 1 % on chat data), in O(n log n) with one stack of
open packs for each amount of free space. It depends on lengths and their order alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

INFO = "split.json"
UNITS = "units.npy"
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

    @property
    def num_sequences(self) -> int:
        """Sequences in it."""
        return int(np.count_nonzero(self.position_ids == 0))

    def only(self, number: int) -> "Pack":
        """The pack of one of its sequences."""
        bounds = [*np.flatnonzero(self.position_ids == 0).tolist(), len(self.position_ids)]
        part = slice(bounds[number], bounds[number + 1])
        return Pack(self.input_ids[part], self.position_ids[part], self.weights[part])


class PackedSplit:
    """Read access to a packed split; arrays stay on disk until a pack is asked for."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.info = json.loads((self.folder / INFO).read_text())
        self._sequences = np.load(self.folder / "sequences.npy")
        self._bounds = np.load(self.folder / "packs.npy")
        self._order = np.load(self.folder / "order.npy", mmap_mode="r")
        samples = self.folder / "samples.npy"
        self._samples: npt.NDArray[np.float32] | None = np.load(samples) if samples.exists() else None
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

    def ids(self, index: int) -> list[str]:
        """Ids of the records in a pack."""
        numbers = self._order[self._bounds[index] : self._bounds[index + 1]]
        found = []
        for file, first, _ in self._sequences[numbers]:
            place = int(np.searchsorted(self._starts(int(file)), first))
            found.append(self._ids(int(file))[place])
        return list(dict.fromkeys(found))

    @property
    def holds_preferences(self) -> bool:
        """Whether its samples compare answers."""
        return self._samples is not None

    @property
    def desirable(self) -> npt.NDArray[np.bool_]:
        """Of preferences: whether each sample's answer is desirable, bool[p]."""
        if self._samples is None:
            raise ValueError(f"{self.folder} holds no preferences")
        return np.asarray(self._samples[:, 1] > 0)

    @cached_property
    def pack_weights(self) -> npt.NDArray[np.float64]:
        """Sum of the loss weights of each pack (of a preference its own), float64[p]: every rank can tell a batch's
        weight without asking the others.
        """
        if self._samples is not None:
            return self._samples[:, 0].astype(np.float64)
        sums = np.zeros(len(self._sequences))
        for file in np.unique(self._sequences[:, 0]):
            members = np.flatnonzero(self._sequences[:, 0] == file)
            totals = np.concatenate([[0.0], np.cumsum(self._file(int(file))[1], dtype=np.float64)])
            starts, lengths = self._sequences[members, 1], self._sequences[members, 2]
            sums[members] = totals[starts + lengths] - totals[starts]
        totals = np.concatenate([[0.0], np.cumsum(sums[self._order])])
        return np.asarray(totals[self._bounds[1:]] - totals[self._bounds[:-1]])

    @cached_property
    def pack_tokens(self) -> Ints:
        """Number of tokens of each pack."""
        totals = np.concatenate([[0], np.cumsum(self._sequences[self._order, 2])])
        return np.asarray(totals[self._bounds[1:]] - totals[self._bounds[:-1]])

    @property
    def has_unit_weights(self) -> bool:
        """Whether every learnt token counts the same."""
        files = np.unique(self._sequences[:, 0]).tolist()
        return all(bool(np.isin(self._file(number)[1], (0.0, 1.0)).all()) for number in files)

    def _starts(self, file: int) -> Ints:
        return np.asarray(self._sequences[self._sequences[:, 0] == file, 1])

    @lru_cache(maxsize=2)  # noqa: B019 (a split lives as long as its run)
    def _ids(self, file: int) -> list[str]:
        found: list[str] = json.loads((self.folder / f"ids-{file:05d}.json").read_text())
        return found

    def _file(self, number: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        if number not in self._files:
            self._files[number] = (
                np.load(self.folder / f"tokens-{number:05d}.npy", mmap_mode="r"),
                np.load(self.folder / f"weights-{number:05d}.npy", mmap_mode="r"),
            )
        return self._files[number]


def write_file(
    folder: Path, number: int, tokens: Sequence[list[int]], weights: Sequence[list[float]], ids: Sequence[str]
) -> Ints:
    """Write one file of sequences and the ids of their records; returns their rows of `sequences.npy`, int64[n, 3]."""
    flat = np.fromiter((token for row in tokens for token in row), dtype=np.int32)
    loss = np.fromiter((weight for row in weights for weight in row), dtype=np.float32)
    lengths = np.fromiter((len(row) for row in tokens), dtype=np.int64, count=len(tokens))
    starts = np.cumsum(lengths) - lengths
    loss[starts[lengths > 0]] = 0.0
    np.save(folder / f"tokens-{number:05d}.npy", flat)
    np.save(folder / f"weights-{number:05d}.npy", loss)
    (folder / f"ids-{number:05d}.json").write_text(json.dumps(list(ids)))
    return np.stack([np.full_like(lengths, number), starts, lengths], axis=1)


def write_index(
    folder: Path,
    sequences: Ints,
    capacity: int,
    *,
    packing: bool,
    counts: dict[str, int],
    copies: Ints | None = None,
    samples: npt.NDArray[np.float32] | None = None,
) -> dict[str, int]:
    """Pack the sequences of a folder's files and write its index; returns what `split.json` holds.

    Args:
        folder: where the files are.
        sequences: int64[s, 3], rows of `sequences.npy`.
        capacity: most tokens of a pack.
        packing: whether a pack may hold several sequences.
        counts: goes into `split.json` too.
        copies: int64[s]: how often each sequence is seen in an epoch; default once. No pack holds one twice.
        samples: of preferences, see above; sequences 2i and 2i + 1 are then sample i.
    """
    lengths = sequences[:, 2]
    if samples is not None:
        np.save(folder / "samples.npy", samples)
        packs = [[2 * number, 2 * number + 1] for number in range(len(samples))]
    else:
        packs = _rounds(lengths, capacity, copies if copies is not None else np.ones_like(lengths), packing=packing)
    order = np.fromiter((number for pack in packs for number in pack), dtype=np.int64)
    bounds = np.cumsum([0, *(len(pack) for pack in packs)])
    info = counts | {
        "num_sequences": len(order),
        "num_packs": len(packs),
        "num_tokens": int(lengths[order].sum()),
        "longest_pack": max((int(lengths[pack].sum()) for pack in packs), default=0),
    }
    np.save(folder / "sequences.npy", sequences)
    np.save(folder / "order.npy", order)
    np.save(folder / "packs.npy", bounds)
    (folder / INFO).write_text(json.dumps(info, indent=2) + "\n")
    return info


def _rounds(lengths: Ints, capacity: int, copies: Ints, *, packing: bool) -> list[list[int]]:
    """Packs of all sequences, then of those that are seen twice, and so on."""
    packs: list[list[int]] = []
    for turn in range(int(copies.max(initial=0))):
        members = np.flatnonzero(copies > turn)
        fitted = best_fit(lengths[members], capacity) if packing else [[place] for place in range(len(members))]
        packs += [members[pack].tolist() for pack in fitted]
    return packs
