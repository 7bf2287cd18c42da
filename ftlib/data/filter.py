"""Quality filters as a stage: rows that fail one get `stage` and `reason`; rows held for review get theirs.

In and out: tables of `schema.PROCESSED`; no row is added or removed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ftlib.config.prepare import FilterConfig
from ftlib.data import schema as s
from ftlib.data.dedup import LABEL_CONFLICT, REVIEW
from ftlib.data.row_keys import row_keys
from ftlib.data.rowmap import RowMap
from ftlib.data.sign import spoken
from ftlib.text.quality import failed_filter

FILTER, STALE = "filter", "stale"


@dataclass(frozen=True)
class Marked:
    """Rows whose fate is known before they are redacted."""

    review: RowMap
    """Held for a person; they are not filtered."""
    stale: RowMap
    """Older than `filter.max_age_days`."""


def apply_filters(table: pa.Table, config: FilterConfig, marked: Marked) -> pa.Table:
    """Mark the rows of a table."""
    rows = row_keys(table)
    held, stale = marked.review.contains(rows), marked.stale.contains(rows)
    records = table.select([s.MESSAGES, s.TEXT, s.REJECTED, s.ERROR, s.STAGE, s.REASON]).to_pylist()
    stages: list[str | None] = []
    reasons: list[str | None] = []
    for record, in_review, old in zip(records, held.tolist(), stale.tolist(), strict=True):
        stage, reason = _verdict(record, in_review, config)
        if stage is None and old and record[s.ERROR] is None:
            stage, reason = FILTER, STALE
        stages.append(stage)
        reasons.append(reason)
    table = _replaced(table, s.STAGE, stages)
    return _replaced(table, s.REASON, reasons)


def _verdict(record: dict[str, Any], in_review: bool, config: FilterConfig) -> tuple[str | None, str | None]:
    if record[s.ERROR] is not None or record[s.STAGE] is not None:
        return record[s.STAGE], record[s.REASON]
    if in_review:
        return REVIEW, LABEL_CONFLICT
    reason = failed_filter(spoken(record), config)
    return (FILTER, reason) if reason else (None, None)


def _replaced(table: pa.Table, name: str, values: list[str | None]) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values, pa.string()))


def kept_rows(table: pa.Table) -> np.ndarray:
    """Which rows of a `schema.PROCESSED` table are neither quarantined nor dropped so far; bool [num_rows]."""
    kept: np.ndarray = table[s.ERROR].is_null().to_numpy() & table[s.STAGE].is_null().to_numpy()
    return kept
