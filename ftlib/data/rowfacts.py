"""What the driver knows of rows by their metadata and benchmarks: numbers of the signature tables, where configured.

Each is 8 bytes a row (overlaps: the contaminated rows alone).
"""

import datetime
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ftlib.config.prepare import FilterConfig, PrepareConfig
from ftlib.data.blocks import NO_ROWS, signature_column
from ftlib.data.dedup import contains
from ftlib.data.overlap import CLEAN
from ftlib.data.sign import FILTER_TIME, GROUP, NO_TIME, OVERLAP, SPLIT_TIME
from ftlib.text.keyed import UInt64s

_DAY_S = 86_400
Column = tuple[UInt64s, np.ndarray]
"""Row keys, sorted, and a value of each."""


@dataclass(frozen=True)
class RowFacts:
    """Columns of the first pass; None where the configuration names no field."""

    groups: Column | None = None
    times: Column | None = None
    stale: UInt64s = field(default_factory=lambda: NO_ROWS)
    """Rows older than `filter.max_age_days`, sorted."""
    dirty: Column | None = None
    """Rows that overlap with a benchmark, and their codes."""

    @classmethod
    def of(cls, signatures: list[Any], config: PrepareConfig, benchmarks: bool) -> "RowFacts":
        """Collect what the configuration asks for. `signatures`: references of `sign.SIGNATURE` tables."""
        split, dirty, stale = config.split, None, NO_ROWS
        if benchmarks:
            rows, codes = signature_column(signatures, OVERLAP)
            dirty = rows[codes != CLEAN], codes[codes != CLEAN]
        if config.filter.enabled and config.filter.max_age_days is not None:
            stale = stale_rows(signature_column(signatures, FILTER_TIME), config.filter)
        return cls(
            groups=signature_column(signatures, GROUP) if split.group_column else None,
            times=signature_column(signatures, SPLIT_TIME) if split.by_time else None,
            stale=stale,
            dirty=dirty,
        )

    def split_columns(self, rows: UInt64s) -> tuple[UInt64s | None, np.ndarray | None]:
        """Groups and times of these rows, which the split goes by."""
        return _values(self.groups, rows), _values(self.times, rows)

    def overlaps(self, rows: UInt64s) -> Column:
        """Those of `rows` (sorted) that overlap with a benchmark."""
        if self.dirty is None:
            return NO_ROWS, np.empty(0, dtype=np.uint8)
        chosen = contains(rows, self.dirty[0])
        return self.dirty[0][chosen], self.dirty[1][chosen]


def stale_rows(column: Column, config: FilterConfig) -> UInt64s:
    """Rows with a date more than `max_age_days` before `reference_date`; those without a date are none of them."""
    if config.max_age_days is None or config.reference_date is None:
        return NO_ROWS
    midnight = datetime.datetime.combine(config.reference_date, datetime.time(), datetime.UTC)
    rows, times = column
    found: UInt64s = rows[(times != NO_TIME) & (times < midnight.timestamp() - config.max_age_days * _DAY_S)]
    return found


def _values(column: Column | None, rows: UInt64s) -> np.ndarray | None:
    if column is None:
        return None
    found: np.ndarray = column[1][np.searchsorted(column[0], rows)]
    return found
