"""Row keys: 64-bit numbers that name the rows of an input, and sorted arrays of them as sets."""

import numpy as np
import pyarrow as pa

from ftlib.data import schema as s
from ftlib.text.keyed import UInt64s

NO_ROWS: UInt64s = np.empty(0, dtype=np.uint64)


def row_keys(table: pa.Table) -> UInt64s:
    """The row keys of a table; uint64 [num_rows]."""
    keys: UInt64s = table[s.ROW].to_numpy()
    return keys


def contains(sorted_rows: UInt64s, rows: UInt64s) -> np.ndarray:
    """Which of `rows` occur in `sorted_rows`; bool [len(rows)]."""
    if not len(sorted_rows):
        return np.zeros(len(rows), dtype=bool)
    index = np.searchsorted(sorted_rows, rows)
    index[index == len(sorted_rows)] = 0
    found: np.ndarray = sorted_rows[index] == rows
    return found
