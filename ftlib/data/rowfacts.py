"""What the first pass learns of rows by their metadata and benchmarks, where configured: maps by row key."""

import datetime
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ftlib.config.prepare import FilterConfig, PrepareConfig
from ftlib.data import schema as s
from ftlib.data.overlap import CLEAN
from ftlib.data.row_keys import row_keys
from ftlib.data.rowmap import NO_MAP, RowMap
from ftlib.data.sign import FILTER_TIME, GROUP, NO_TIME, OVERLAP, SPLIT_TIME
from ftlib.text.keyed import UInt64s

_DAY_S = 86_400
CODE = "code"
"""Column of the contaminated rows: one of `data.overlap`."""


@dataclass(frozen=True)
class RowFacts:
    """Columns of the first pass."""

    split_by: RowMap = NO_MAP
    """`group_hash` and `time` as `split_tasks` takes them, where the configuration names a field for them."""
    stale: RowMap = NO_MAP
    """Rows older than `filter.max_age_days`."""
    dirty: RowMap = NO_MAP
    """Rows that overlap with a benchmark, and their codes."""

    @classmethod
    def of(cls, signatures: list[Any], config: PrepareConfig, benchmarks: bool, bounds: UInt64s) -> "RowFacts":
        """Collect what the configuration asks for. `signatures`: references of `sign.SIGNATURE` tables."""
        split, found = config.split, {}
        names = {GROUP: "group_hash"} if split.group_column else {}
        names |= {SPLIT_TIME: "time"} if split.by_time else {}
        if names:
            found["split_by"] = RowMap.cut(signatures, bounds, lambda tables: _renamed(tables, names))
        if config.filter.enabled and config.filter.max_age_days is not None:
            found["stale"] = RowMap.cut(signatures, bounds, lambda tables: stale_rows(tables, config.filter))
        if benchmarks:
            found["dirty"] = RowMap.cut(signatures, bounds, _contaminated)
        return cls(**found)

    def with_split_columns(self, rows: RowMap) -> RowMap:
        """The rows with the columns that the split goes by."""
        return rows.joined(_beside, self.split_by) if self.split_by.parts else rows


def _renamed(tables: list[pa.Table], names: dict[str, str]) -> pa.Table:
    table = pa.concat_tables(tables)
    return pa.table({s.ROW: table[s.ROW], **{new: table[name] for name, new in names.items()}})


def _contaminated(tables: list[pa.Table]) -> pa.Table:
    table = _renamed(tables, {OVERLAP: CODE})
    return table.filter(pa.array(table[CODE].to_numpy() != CLEAN))


def _beside(part: pa.Table, facts: pa.Table) -> pa.Table:
    """The part with the columns of `facts`, which has all of its rows."""
    found = facts.take(np.searchsorted(row_keys(facts), row_keys(part)))
    for name in found.column_names[1:]:
        part = part.append_column(name, found[name])
    return part


def stale_rows(tables: list[pa.Table], config: FilterConfig) -> pa.Table:
    """Rows with a date more than `max_age_days` before `reference_date`. Rows without a date never count as stale."""
    table = _renamed(tables, {FILTER_TIME: "time"})
    times = table["time"].to_numpy()
    if config.max_age_days is None or config.reference_date is None:
        return table.slice(0, 0).select([s.ROW])
    midnight = datetime.datetime.combine(config.reference_date, datetime.time(), datetime.UTC)
    old = (times != NO_TIME) & (times < midnight.timestamp() - config.max_age_days * _DAY_S)
    return table.filter(pa.array(old)).select([s.ROW])
