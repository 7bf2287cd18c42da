"""Rows of train that hold text of the test split, and what becomes of contaminated rows.

The comparison is that of `data.overlap`. Benchmarks are compared with the raw text while it is signed; the test split
with redacted text, as training and evaluation see both.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ftlib.data import schema as s
from ftlib.data.blocks import NO_ROWS, collect
from ftlib.data.dedup import DECISION, contains, row_keys
from ftlib.data.overlap import CLEAN, DECONTAMINATE, NOTHING, REASONS, Overlap, overlap_of
from ftlib.data.sign import spoken
from ftlib.data.split import TEST, TRAIN
from ftlib.data.write import Assignment
from ftlib.runtime.exchange import map_blocks, tree_reduce
from ftlib.text.keyed import UInt64s


def overlap_with_test(processed: Sequence[Any], assignment: Any, ngram: int, key: bytes) -> tuple[UInt64s, np.ndarray]:
    """Row keys of train rows that overlap with a test row, and their codes.

    Args:
        processed: references of `schema.PROCESSED` tables.
        assignment: reference of the `Assignment`.
        ngram: words of an n-gram.
        key: of the hashes.
    """
    import ray

    def of_test(tables: list[pa.Table]) -> Overlap:
        _, said = _said(tables, ray.get(assignment), TEST)
        return overlap_of(said, ngram, key)

    reference = tree_reduce([ray.put(NOTHING), *map_blocks(processed, of_test)], Overlap.merge)

    def of_train(tables: list[pa.Table]) -> tuple[UInt64s, np.ndarray]:
        rows, said = _said(tables, ray.get(assignment), TRAIN)
        codes = ray.get(reference).codes(said, ngram, key)
        return rows[codes != CLEAN], codes[codes != CLEAN]

    found = [(NO_ROWS, np.empty(0, dtype=np.uint8)), *collect(map_blocks(processed, of_train), "comparing with test")]
    rows, codes = (np.concatenate(column) for column in zip(*found, strict=True))
    return rows, codes


def _said(tables: list[pa.Table], assignment: Assignment, split: int) -> tuple[UInt64s, list[list[str]]]:
    """Row keys of one split's rows, and what is said in each."""
    table = assignment.valid(pa.concat_tables(tables))
    table = table.filter(pa.array(assignment.of(table) == split))
    return row_keys(table), [spoken(record) for record in table.select([s.MESSAGES, s.TEXT, s.REJECTED]).to_pylist()]


def dropped_rows(processed: Sequence[Any], rows: UInt64s, codes: np.ndarray) -> list[Any]:
    """References of `DECISION` tables of contaminated rows. `rows`: sorted; `codes`: of `data.overlap`."""
    import ray

    chosen = ray.put((rows, codes))

    def run(tables: list[pa.Table]) -> pa.Table:
        wanted, found = ray.get(chosen)
        table = pa.concat_tables(tables)
        table = table.filter(pa.array(contains(wanted, row_keys(table))))
        reasons = [REASONS[code] for code in found[np.searchsorted(wanted, row_keys(table))].tolist()]
        given = {
            s.STAGE: pa.array([DECONTAMINATE] * table.num_rows, pa.string()),
            s.REASON: pa.array(reasons, pa.string()),
            **{name: table[name] for name in s.IDENTITY.names},
        }
        arrays = [given.get(field.name, pa.nulls(table.num_rows, field.type)) for field in DECISION]
        return pa.table(arrays, schema=DECISION)

    return map_blocks(processed, run)
