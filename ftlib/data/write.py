"""The files of a prepared dataset, written by one exchange: a partition is a file.

In: blocks of `schema.PROCESSED` and `dedup.DECISION`, and the split of each kept row. Out: `train/`, `val/`, `test/`,
`dropped.parquet`, `redactions.parquet`, `quarantine.parquet`, `lineage.parquet`, `review.jsonl`. Rows go to the file
that the hash of their id names and are sorted there, so that a file's bytes depend on its rows alone.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ftlib.core.storage import join, write_bytes
from ftlib.data import schema as s
from ftlib.data.dedup import REVIEW, contains, row_keys
from ftlib.data.filter import kept_rows
from ftlib.data.review import REJECTED, REVIEWED, as_task
from ftlib.runtime.exchange import exchange
from ftlib.text.keyed import KeyedHash, UInt64s

DROPPED_FILE, REDACTIONS_FILE, QUARANTINE_FILE, LINEAGE_FILE, REVIEW_FILE = (
    "dropped.parquet",
    "redactions.parquet",
    "quarantine.parquet",
    "lineage.parquet",
    "review.jsonl",
)
_ROW_GROUP = 16384


@dataclass(frozen=True)
class Assignment:
    """The split of every kept row, and the rows that deduplication dropped in the end."""

    rows: UInt64s
    """Kept row keys, sorted."""
    splits: np.ndarray
    """uint8 [num_rows], index into `SPLITS`."""
    removed: UInt64s
    """Row keys that stand in a `DECISION` table, sorted: a `PROCESSED` block's copy of them does not count."""
    factors: np.ndarray | None = None
    """float32 [num_rows]: what the weight of each kept row is multiplied by."""

    def valid(self, table: pa.Table) -> pa.Table:
        """The rows of a `PROCESSED` table that count."""
        return table.filter(pa.array(~contains(self.removed, row_keys(table))))

    def of(self, table: pa.Table) -> np.ndarray:
        """Split of each row, -1 where it is not kept; int64 [num_rows]."""
        found = np.full(table.num_rows, -1, dtype=np.int64)
        kept = kept_rows(table)
        found[kept] = self.splits[np.searchsorted(self.rows, row_keys(table)[kept])]
        return found

    def weighted(self, table: pa.Table) -> pa.Table:
        """The table with the factors in the weights of its kept rows."""
        if self.factors is None:
            return table
        weights = table[s.WEIGHT].to_numpy().copy()
        kept = kept_rows(table)
        weights[kept] *= self.factors[np.searchsorted(self.rows, row_keys(table)[kept])]
        return table.set_column(table.column_names.index(s.WEIGHT), s.WEIGHT, pa.array(weights, pa.float32()))


def id_hashes(ids: Sequence[str]) -> UInt64s:
    """Hash of each id, the same under every key: splits and files follow it; uint64 [num_ids]."""
    return KeyedHash(b"ftlib", "id partition").uint64s(id_.encode() for id_ in ids)


def file_names(num_files: int) -> list[str]:
    """Paths of all data files below the dataset's folder."""
    parts = [f"{split}/part-{i:05d}.parquet" for split in s.SPLITS for i in range(num_files)]
    return [*parts, DROPPED_FILE, REDACTIONS_FILE, QUARANTINE_FILE, LINEAGE_FILE, REVIEW_FILE]


def write_files(
    folder: str, processed: Sequence[Any], decided: Sequence[Any], assignment: Any, num_files: int
) -> list[Any]:
    """Write all data files; references of `(path, sha256, bytes)`.

    Args:
        folder: existing local folder that every node sees, or a URI.
        processed: references of `schema.PROCESSED` tables.
        decided: references of `DECISION` tables with stored ids.
        assignment: reference of an `Assignment`.
        num_files: files of each split.
    """
    import ray

    names = file_names(num_files)

    def partition(tables: list[pa.Table]) -> list[pa.Table]:
        pieces: dict[str, list[pa.Table]] = {name: [] for name in names}
        for table in tables:
            if s.KEEPER_ROW in table.column_names:
                dropped = table.filter(pc.is_valid(table[s.STAGE]))
                pieces[DROPPED_FILE].append(_columns(dropped, s.DROPPED))
                pieces[LINEAGE_FILE].append(_lineage(dropped, np.full(dropped.num_rows, s.IN_DROPPED, dtype=object)))
            else:
                _partition_processed(table, ray.get(assignment), num_files, pieces)
        return [pa.concat_tables(found) if found else None for found in pieces.values()]

    def write(index: int, pieces: list[pa.Table | None]) -> tuple[str, str, int]:
        content = _encode(names[index], [piece for piece in pieces if piece is not None])
        write_bytes(join(folder, names[index]), content)
        return names[index], hashlib.sha256(content).hexdigest(), len(content)

    return exchange([*processed, *decided], partition, write, len(names))


def _partition_processed(
    table: pa.Table, assignment: Assignment, num_files: int, pieces: dict[str, list[pa.Table]]
) -> None:
    table = assignment.weighted(assignment.valid(table))
    splits = assignment.of(table)
    files = (id_hashes(table[s.ID].to_pylist()) % np.uint64(num_files)).astype(np.int64)
    for split, name in enumerate(s.SPLITS):
        for i in range(num_files):
            chosen = np.flatnonzero((splits == split) & (files == i))
            pieces[f"{name}/part-{i:05d}.parquet"].append(_columns(table.take(chosen), s.RECORD))
    places = np.array([*s.SPLITS, s.IN_DROPPED], dtype=object)[splits]
    places[table[s.ERROR].is_valid().to_numpy()] = s.IN_QUARANTINE
    pieces[LINEAGE_FILE].append(_lineage(table, places))
    broken = table.filter(pc.is_valid(table[s.ERROR]))
    pieces[QUARANTINE_FILE].append(_quarantined(broken))
    good = table.filter(pc.is_null(table[s.ERROR]))
    pieces[REDACTIONS_FILE].append(_redactions(good))
    pieces[DROPPED_FILE].append(_columns(good.filter(pc.is_valid(good[s.STAGE])), s.DROPPED))
    held = good.filter(pc.and_(pc.equal(good[s.STAGE], REVIEW), pc.not_equal(good[s.REASON], REJECTED)))
    pieces[REVIEW_FILE].append(held.append_column(s.POSITION, positions(held)).select([s.ROW, *REVIEWED]))


def _columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The row key and the columns of `schema`; absent ones are null."""
    wanted = pa.schema([(s.ROW, pa.uint64()), *schema])
    nulls = {field.name: pa.nulls(table.num_rows, field.type) for field in wanted}
    arrays = [table[name] if name in table.column_names else nulls[name] for name in wanted.names]
    return pa.table(arrays, schema=wanted)


def positions(table: pa.Table) -> pa.Array:
    """Position in its source of each row of a table with row keys; int64 [num_rows]."""
    return pa.array((row_keys(table) & np.uint64(s.MAX_POSITION)).astype(np.int64))


def _quarantined(table: pa.Table) -> pa.Table:
    return _columns(table.append_column(s.POSITION, positions(table)), s.QUARANTINE)


def _lineage(table: pa.Table, places: np.ndarray) -> pa.Table:
    """`schema.LINEAGE` of rows of a `PROCESSED` or `DECISION` table. `places`: where each one ended."""
    found = pa.array(np.zeros(table.num_rows, dtype=np.int32))
    if s.FINDINGS in table.column_names:
        found = pc.fill_null(pc.list_value_length(table[s.FINDINGS]), 0)
    if s.SUBJECT not in table.column_names:
        raise ValueError("a row without its subject could not be found again")  # erasure relies on it
    table = table.append_column(s.POSITION, positions(table)).append_column("place", pa.array(places, pa.string()))
    return _columns(table.append_column("num_redactions", found), s.LINEAGE)


def _redactions(table: pa.Table) -> pa.Table:
    lists = table[s.FINDINGS].combine_chunks()
    parents = pc.list_parent_indices(lists)
    findings = pa.table(pc.list_flatten(lists).flatten(), names=[field.name for field in s.FINDING_TYPE])
    return _columns(
        findings.append_column(s.ROW, table[s.ROW].combine_chunks().take(parents)).append_column(
            s.ID, table[s.ID].combine_chunks().take(parents)
        ),
        s.REDACTIONS,
    )


_EMPTY = {
    DROPPED_FILE: s.DROPPED,
    REDACTIONS_FILE: s.REDACTIONS,
    QUARANTINE_FILE: s.QUARANTINE,
    LINEAGE_FILE: s.LINEAGE,
}
_ORDER = {
    REDACTIONS_FILE: [(s.ID, "ascending"), (s.ROW, "ascending"), ("field", "ascending"), ("start", "ascending")],
    QUARANTINE_FILE: [(s.ROW, "ascending")],
}
_BY_ID = [(s.ID, "ascending"), (s.ROW, "ascending")]


def _encode(name: str, pieces: list[pa.Table]) -> bytes:
    """The file's content."""
    if name == REVIEW_FILE:
        return _encode_review(pieces)
    schema = _EMPTY.get(name, s.RECORD)
    table = schema.empty_table()
    if pieces:
        rows = pa.concat_tables(pieces).combine_chunks()
        table = rows.take(pc.sort_indices(rows, _ORDER.get(name, _BY_ID))).select(schema.names)
    return encode_table(table)


def encode_table(table: pa.Table) -> bytes:
    """A table as the Parquet file that stands in a dataset."""
    buffer = io.BytesIO()
    pq.write_table(table.combine_chunks(), buffer, compression="zstd", row_group_size=_ROW_GROUP)
    return buffer.getvalue()


def _encode_review(pieces: list[pa.Table]) -> bytes:
    records = [record for piece in pieces for record in piece.to_pylist()]
    records.sort(key=lambda record: (record[s.ID], record[s.ROW]))
    return "".join(json.dumps(as_task(record), ensure_ascii=False) + "\n" for record in records).encode()
