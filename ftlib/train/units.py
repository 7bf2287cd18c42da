"""Privacy units of a packed split, and the Poisson-sampled batches of private training (numpy alone)."""

import numpy as np

from ftlib.core.errors import UserError
from ftlib.data.pack import UNITS, PackedSplit
from ftlib.train.schedule import Cursor
from ftlib.train.secret import SecretNumbers


class PrivacyUnits:
    """Which sequences belong to which unit: all pieces of a record, or all records of a data subject.

    Units are numbered in the order of their hashes. Two units whose 64-bit hashes collide become one, which protects
    both together.

    Raises:
        UserError: the split mixes units in one sequence, has rows of other weights than 1, or rows without a subject.
    """

    def __init__(self, split: PackedSplit, unit: str, max_records: int | None = None) -> None:
        path = split.folder / UNITS
        if not path.exists():
            raise UserError(f"{split.folder}: tokenised without privacy units; delete the folder and train again")
        records, subjects = np.load(path).T
        if len(split) != len(records):
            raise UserError("privacy needs data.packing false: a packed sequence mixes units")
        if not split.has_unit_weights:
            raise UserError(
                "privacy needs rows of weight 1: weights by label, source or cluster depend on the other records, so "
                "one record would change what others count. Prepare the data without weights"
            )
        keys = subjects if unit == "subject" else records
        if unit == "subject" and (missing := len(np.unique(records[subjects == 0]))):
            raise UserError(
                f"privacy.unit subject: {missing} of {len(np.unique(records))} training rows have no subject "
                "(input.subject_column of jobs.prepare), so whom they belong to is not known"
            )
        order = np.lexsort((np.arange(len(keys)), records, keys))
        if max_records is not None:
            order = order[_rank_within(keys[order], records[order]) < max_records]
        starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order][:1]))
        self._order, self._bounds = order, np.append(starts, len(order))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def sequences(self, unit: int) -> list[int]:
        """Numbers of a unit's sequences."""
        return [int(number) for number in self._order[self._bounds[unit] : self._bounds[unit + 1]]]


def _rank_within(keys: np.ndarray, records: np.ndarray) -> np.ndarray:
    """For sorted (key, record) pairs the number of the record among those of its key, from 0."""
    new_key = np.diff(keys, prepend=~keys[:1]) != 0
    new_record = new_key | (np.diff(records, prepend=~records[:1]) != 0)
    number = np.cumsum(new_record)
    return np.asarray(number - np.maximum.accumulate(np.where(new_key, number, 0)))


class PoissonStream:
    """Batches in which every unit stands with the same probability, independently of all others and of other steps.

    This is the sampling that the accountant counts. A batch's size varies (binomially) and may be 0. Each step is drawn
    anew from the secret numbers, so the place in the stream is the number of the step.
    """

    def __init__(self, num_units: int, rate: float, numbers: SecretNumbers, seed: int) -> None:
        self.num_units, self.rate, self.seed = num_units, rate, seed
        self._numbers = numbers

    def batch(self, step: int) -> list[int]:
        """Unit numbers of optimiser step `step`, ascending."""
        if self.rate >= 1.0:
            return list(range(self.num_units))
        bits = self._numbers.bits(f"batch {step}", self.num_units)
        return [int(unit) for unit in np.flatnonzero(bits < np.uint64(self.rate * 2.0**64))]

    def cursor(self, step: int) -> Cursor:
        """Where the stream stands before `step`."""
        return Cursor(epoch=0, seed=self.seed, offset=step)

    def epochs(self, step: int) -> float:
        """Expected passes over the data before `step`."""
        return step * self.rate

    def step_at(self, cursor: Cursor) -> int:
        """The step at a cursor; raises ValueError for one of another stream."""
        if cursor.epoch or cursor.seed != self.seed:
            raise ValueError(f"{cursor} is none of this stream")
        return cursor.offset


def clip_groups(sizes: list[int], limit: int) -> list[list[int]]:
    """Positions of consecutive units whose sequences go through the model together.

    Args:
        sizes: number of sequences of each unit.
        limit: largest number of sequences of a group; a unit with more is a group of its own, because its gradients
            must be summed before they are clipped.
    """
    groups: list[list[int]] = []
    room = 0
    for position, size in enumerate(sizes):
        if size > room:
            groups.append([])
            room = limit
        groups[-1].append(position)
        room -= size
    return groups
