"""Rows of train that hold text of the test split, and what becomes of contaminated rows.

The comparison is that of `data.overlap`. Benchmarks are compared with the raw text while it is signed; the test split
with redacted text, as training and evaluation see both.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ftlib.data import schema as s
from ftlib.data.dedup import DECISION
from ftlib.data.overlap import CLEAN, DECONTAMINATE, NOTHING, REASONS, Overlap, overlap_of
from ftlib.data.row_keys import NO_ROWS, contains, row_keys
from ftlib.data.rowfacts import CODE
from ftlib.data.rowmap import RowMap
from ftlib.data.sign import spoken
from ftlib.data.split import SPLIT, TEST, TRAIN
from ftlib.data.write import Assignment
from ftlib.runtime.exchange import map_blocks, tree_reduce
from ftlib.text.keyed import UInt64s


def overlap_with_test(processed: Sequence[Any], assignment: Any, ngram: int, key: bytes, bounds: UInt64s) -> RowMap:
    """Train rows that overlap with a test row, and their codes.

    Args:
        processed: references of `schema.PROCESSED` tables.
        assignment: reference of the `Assignment`.
        ngram: words of an n-gram.
        key: of the hashes.
        bounds: of the map.
    """
    import ray

    def of_test(tables: list[pa.Table]) -> Overlap:
        _, said = _said(tables, ray.get(assignment), TEST)
        return overlap_of(said, ngram, key)

    reference = tree_reduce([ray.put(NOTHING), *map_blocks(processed, of_test)], Overlap.merge)

    def of_train(tables: list[pa.Table]) -> pa.Table:
        rows, said = _said(tables, ray.get(assignment), TRAIN)
        codes = ray.get(reference).codes(said, ngram, key)
        return pa.table({s.ROW: rows[codes != CLEAN], CODE: codes[codes != CLEAN]})

    return RowMap.cut(processed, bounds, of_train)


def contaminated(placed: RowMap, benchmarks: RowMap, test: RowMap) -> RowMap:
    """Rows of train that overlap with a benchmark or, if with none, with the test split; with their codes."""

    def run(part: pa.Table, *others: pa.Table | None) -> pa.Table:
        train = row_keys(part)[part[SPLIT].to_numpy() == TRAIN]
        found = pa.table({s.ROW: NO_ROWS, CODE: np.empty(0, dtype=np.uint8)})
        for other in others:
            if other is not None:
                chosen = contains(train, row_keys(other)) & ~contains(row_keys(found), row_keys(other))
                found = pa.concat_tables([found, other.filter(pa.array(chosen))])
                found = found.take(np.argsort(row_keys(found))).combine_chunks()
        return found

    return placed.joined(run, benchmarks, test)


def _said(tables: list[pa.Table], assignment: Assignment, split: int) -> tuple[UInt64s, list[list[str]]]:
    """Row keys of one split's rows, and what is said in each."""
    table = assignment.valid(pa.concat_tables(tables))
    table = table.filter(pa.array(assignment.of(table) == split))
    return row_keys(table), [spoken(record) for record in table.select([s.MESSAGES, s.TEXT, s.REJECTED]).to_pylist()]


def dropped_rows(processed: Sequence[Any], dirty: RowMap) -> list[Any]:
    """References of `DECISION` tables of contaminated rows. `dirty`: with their codes."""

    def run(tables: list[pa.Table]) -> pa.Table:
        table = pa.concat_tables(tables)
        table = table.filter(pa.array(dirty.contains(row_keys(table))))
        reasons = [REASONS[code] for code in dirty.values(row_keys(table), CODE, CLEAN).tolist()]
        given = {
            s.STAGE: pa.array([DECONTAMINATE] * table.num_rows, pa.string()),
            s.REASON: pa.array(reasons, pa.string()),
            **{name: table[name] for name in s.IDENTITY.names},
        }
        arrays = [given.get(field.name, pa.nulls(table.num_rows, field.type)) for field in DECISION]
        return pa.table(arrays, schema=DECISION)

    return map_blocks(processed, run)
