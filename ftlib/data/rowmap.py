"""Values by row key, cut into ranges of keys that lie in the object store: the driver holds references alone.

A block of rows comes from one part of one file, so its keys lie in few ranges: a task fetches those and no others, and
its memory does not grow with the number of rows of the whole. Maps with the same bounds are joined range by range.
Where the bounds lie changes no result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ftlib.data import schema as s
from ftlib.data.row_keys import NO_ROWS, contains, row_keys
from ftlib.runtime.exchange import exchange
from ftlib.text.keyed import UInt64s, mix64

ROWS_PER_SAMPLE = 2048
_OTHER_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Fingerprint:
    """What a set of row keys is told by, whatever its order: sets that differ have others, but for one in 2¹²⁸."""

    num_rows: int = 0
    first: int = 0
    second: int = 0

    @classmethod
    def of(cls, rows: UInt64s) -> "Fingerprint":
        """The fingerprint of an array of row keys."""
        sums = (int(mix64(keys).sum(dtype=np.uint64)) for keys in (rows, rows ^ _OTHER_MIX))
        return cls(len(rows), *sums)

    def __add__(self, other: "Fingerprint") -> "Fingerprint":
        sums = ((self.first + other.first) % 2**64, (self.second + other.second) % 2**64)
        return Fingerprint(self.num_rows + other.num_rows, *sums)


def choose_bounds(sample: UInt64s, num_parts: int) -> UInt64s:
    """First keys of all parts but the first, so that each part has about as many of the sampled keys."""
    if num_parts < 2 or not len(sample):
        return NO_ROWS
    sample = np.sort(sample)
    return np.unique(sample[np.arange(1, num_parts) * len(sample) // num_parts])


def range_indices(keys: UInt64s, bounds: UInt64s) -> list[np.ndarray]:
    """Indices of the keys in each of the `len(bounds) + 1` ranges, ascending."""
    target = np.searchsorted(bounds, keys, side="right")
    order = np.argsort(target, kind="stable")
    return np.split(order, np.searchsorted(target[order], np.arange(1, len(bounds) + 1)))


@dataclass(frozen=True)
class RowMap:
    """A table with a row key in each row, sorted by it and cut into ranges; without values it is a set."""

    bounds: UInt64s
    """First key of each part but the first, ascending."""
    parts: tuple[Any, ...]
    """References of the parts' tables, or the tables themselves. No parts: an empty map."""

    @classmethod
    def cut(
        cls,
        blocks: Sequence[Any],
        bounds: UInt64s,
        select: Callable[[list[Any]], pa.Table],
        finish: Callable[[int, pa.Table], pa.Table] | None = None,
    ) -> "RowMap":
        """Collect rows from blocks.

        Args:
            blocks: references.
            bounds: of the map.
            select: blocks of a task → a table with row keys.
            finish: (number of the part, all its rows sorted) → the part; for a map it must leave one row for each key.
        """
        if not blocks:
            return NO_MAP

        def partition(inputs: list[Any]) -> list[pa.Table]:
            table = select(inputs)
            return [table.take(index) for index in range_indices(row_keys(table), bounds)]

        def reduce(index: int, pieces: list[pa.Table]) -> pa.Table:
            table = pa.concat_tables(pieces).combine_chunks()
            table = table.take(np.argsort(row_keys(table), kind="stable"))
            return finish(index, table) if finish else table

        return cls(bounds, tuple(exchange(blocks, partition, reduce, len(bounds) + 1)))

    @classmethod
    def local(cls, rows: UInt64s, **values: np.ndarray) -> "RowMap":
        """A map of arrays in memory, in one part."""
        order = np.argsort(rows)
        return cls(NO_ROWS, (pa.table({s.ROW: rows[order], **{name: v[order] for name, v in values.items()}}),))

    def contains(self, rows: UInt64s) -> np.ndarray:
        """Which of `rows` are in the map; bool [len(rows)]."""
        found = np.zeros(len(rows), dtype=bool)
        for chosen, table in self._near(rows):
            found[chosen] = contains(row_keys(table), rows[chosen])
        return found

    def values(self, rows: UInt64s, name: str, default: Any) -> np.ndarray:
        """The values of a column for `rows`, `default` for those that are not in the map."""
        found: np.ndarray | None = None
        for chosen, table in self._near(rows):
            keys, values = row_keys(table), table[name].to_numpy()
            if found is None:
                found = np.full(len(rows), default, dtype=values.dtype)
            inside = chosen[contains(keys, rows[chosen])]
            found[inside] = values[np.searchsorted(keys, rows[inside])]
        return np.full(len(rows), default) if found is None else found

    def between(self, first: int, last: int) -> UInt64s:
        """Sorted row keys from `first` to `last`."""
        if not self.parts:
            return NO_ROWS
        ends = np.array([first, last], dtype=np.uint64)
        begin, end = np.searchsorted(self.bounds, ends, side="right").tolist()
        found = []
        for table in self.fetch(range(begin, end + 1)):
            keys = row_keys(table)
            start, stop = np.searchsorted(keys, ends[:1])[0], np.searchsorted(keys, ends[1:], side="right")[0]
            found.append(keys[start:stop])
        return np.concatenate(found)

    def fetch(self, numbers: Sequence[int]) -> list[pa.Table]:
        """Some parts, in this process."""
        import ray

        parts = [self.parts[number] for number in numbers]
        remote = iter(ray.get([part for part in parts if not isinstance(part, pa.Table)]))
        return [part if isinstance(part, pa.Table) else next(remote) for part in parts]

    def _near(self, rows: UInt64s) -> list[tuple[np.ndarray, pa.Table]]:
        """For each part into whose range some of `rows` fall: indices of these, and the part."""
        if not self.parts or not len(rows):
            return []
        target = np.searchsorted(self.bounds, rows, side="right")
        numbers = np.unique(target).tolist()
        tables = zip(numbers, self.fetch(numbers), strict=True)
        return [(np.flatnonzero(target == number), table) for number, table in tables if table.num_rows]

    def each(self, function: Callable[..., Any], *others: "RowMap") -> list[Any]:
        """References of `function(part, *parts of others or None)` for each range."""
        import ray

        if not self.parts:
            return []
        task = ray.remote(function)
        columns = [other.parts or [None] * len(self.parts) for other in others]
        return [task.remote(*parts) for parts in zip(self.parts, *columns, strict=True)]

    def joined(self, function: Callable[..., pa.Table], *others: "RowMap") -> "RowMap":
        """The map whose parts `each` gives."""
        return RowMap(self.bounds, tuple(self.each(function, *others)))

    def without(self, other: "RowMap") -> "RowMap":
        """Rows that are not in the other map."""
        return self.joined(outside, other) if other.parts else self

    def within(self, other: "RowMap") -> "RowMap":
        """Rows that are in the other map too."""
        return self.joined(inside, other) if other.parts else NO_MAP

    def union(self, other: "RowMap") -> "RowMap":
        """The set of the rows of both: row keys alone."""
        if not (self.parts and other.parts):
            return self if self.parts else other
        return self.joined(_together, other)

    def num_rows(self) -> int:
        """Rows of all parts."""
        import ray

        return sum(ray.get(self.each(_count)))


NO_MAP = RowMap(NO_ROWS, ())


def keys_of(part: pa.Table | None) -> UInt64s:
    """The row keys of a part; none where a map has no parts."""
    return NO_ROWS if part is None else row_keys(part)


def inside(part: pa.Table, other: pa.Table | None) -> pa.Table:
    """Rows of a part whose keys the other map's part has."""
    return part.filter(pa.array(contains(keys_of(other), row_keys(part))))


def outside(part: pa.Table, other: pa.Table | None) -> pa.Table:
    """Rows of a part whose keys the other map's part has not."""
    return part.filter(pa.array(~contains(keys_of(other), row_keys(part))))


def _together(part: pa.Table, other: pa.Table) -> pa.Table:
    return pa.table({s.ROW: np.union1d(row_keys(part), row_keys(other))})


def _count(part: pa.Table) -> int:
    return int(part.num_rows)
