"""The files of a prepared dataset, written by one exchange: a partition is a file.

In: blocks of `schema.PROCESSED` and `dedup.DECISION`, and the split of each kept row. Out: `train/`, `val/`, `test/`,
`dropped.parquet`, `redactions.parquet`, `quarantine.parquet`, `lineage.parquet`, `review.jsonl`. Rows go to the file
that the hash of their id names and are sorted there, so that a file's bytes depend on its rows alone.

Memory: a task holds one file, so no file holds much more than `output.rows_per_file` rows. Where a table has more, it
is a folder of that name (`redactions.parquet/part-00000.parquet`, …), which Parquet readers open like a file. Lineage,
dropped rows and redactions are cut alike: read as a whole, part after part, they keep the order in which they match.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ftlib.core.storage import filesystem, is_uri, join, write_bytes
from ftlib.data import schema as s
from ftlib.data.dedup import REVIEW
from ftlib.data.facts import Counts
from ftlib.data.filter import kept_rows
from ftlib.data.review import REJECTED, REVIEWED, as_task
from ftlib.data.row_keys import row_keys
from ftlib.data.rowmap import RowMap
from ftlib.data.split import SPLIT
from ftlib.runtime.exchange import exchange, partition_indices
from ftlib.text.keyed import KeyedHash, UInt64s

DROPPED_FILE, REDACTIONS_FILE, QUARANTINE_FILE, LINEAGE_FILE, REVIEW_FILE = (
    "dropped.parquet",
    "redactions.parquet",
    "quarantine.parquet",
    "lineage.parquet",
    "review.jsonl",
)
_ROW_GROUP = 16384
_NOWHERE = 255
FACTOR = "factor"


@dataclass(frozen=True)
class Assignment:
    """The split of every kept row, and the rows that deduplication dropped in the end."""

    placed: RowMap
    """Kept rows: `split` (index into `SPLITS`) and, where rows are weighted, `factor` (float64)."""
    removed: RowMap
    """Rows that stand in a `DECISION` table: a `PROCESSED` block's copy of them does not count."""
    weighted_rows: bool = False
    """Whether the weight of each kept row is multiplied by its `factor`."""

    def valid(self, table: pa.Table) -> pa.Table:
        """The rows of a `PROCESSED` table that count."""
        return table.filter(pa.array(~self.removed.contains(row_keys(table))))

    def of(self, table: pa.Table) -> np.ndarray:
        """Split of each row, -1 where it is not kept; int64 [num_rows]."""
        found = np.full(table.num_rows, -1, dtype=np.int64)
        kept = kept_rows(table)
        found[kept] = self.placed.values(row_keys(table)[kept], SPLIT, _NOWHERE)
        if (found[kept] == _NOWHERE).any():
            raise RuntimeError("a kept row has no split; was an input changed meanwhile?")
        return found

    def weighted(self, table: pa.Table) -> pa.Table:
        """The table with the factors in the weights of its kept rows."""
        if not self.weighted_rows:
            return table
        weights = table[s.WEIGHT].to_numpy().copy()
        kept = kept_rows(table)
        weights[kept] *= self.placed.values(row_keys(table)[kept], FACTOR, 1.0).astype(np.float32)
        return table.set_column(table.column_names.index(s.WEIGHT), s.WEIGHT, pa.array(weights, pa.float32()))


def id_hashes(ids: Sequence[str]) -> UInt64s:
    """Hash of each id, the same under every key: splits and files follow it; uint64 [num_ids]."""
    return KeyedHash(b"ftlib", "id partition").uint64s(id_.encode() for id_ in ids)


@dataclass(frozen=True)
class Layout:
    """The files of a dataset: how many each split has, and each table beside the splits."""

    num_files: dict[str, int]
    """Split or table → number of files. A table of one file is that file, of several a folder."""

    @classmethod
    def of(cls, counts: Counts, num_files: int, rows_per_file: int) -> "Layout":
        """The layout that these row counts need: a function of the data and the configuration alone.

        Args:
            counts: of all rows.
            num_files: fewest files of a split.
            rows_per_file: rows beyond which a split or a table gets more files.
        """
        num_rows = counts.num_kept + counts.num_dropped + counts.num_quarantined
        held = sum(n for (stage, _), n in counts.dropped.items() if stage == REVIEW)
        matched = -(-max(num_rows, sum(counts.findings.values())) // rows_per_file)
        return cls(
            {
                **{split: max(num_files, -(-counts.splits[split] // rows_per_file)) for split in s.SPLITS},
                **dict.fromkeys((DROPPED_FILE, REDACTIONS_FILE, LINEAGE_FILE), max(1, matched)),
                QUARANTINE_FILE: max(1, -(-counts.num_quarantined // rows_per_file)),
                REVIEW_FILE: max(1, -(-held // rows_per_file)),
            }
        )

    def files(self, name: str) -> list[str]:
        """Paths of the files of a split or table below the dataset's folder, in order."""
        if self.num_files[name] == 1 and name not in s.SPLITS:
            return [name]
        suffix = "jsonl" if name == REVIEW_FILE else "parquet"
        return [f"{name}/part-{i:05d}.{suffix}" for i in range(self.num_files[name])]

    @property
    def all_files(self) -> list[str]:
        """Paths of all data files."""
        return [file for name in self.num_files for file in self.files(name)]


Pieces = dict[str, list[pa.Table]]
"""File → its rows in the blocks of a map task."""


def write_files(
    folder: str, processed: Sequence[Any], decided: Sequence[Any], assignment: Any, layout: Layout
) -> list[Any]:
    """Write all data files; references of `(path, sha256, bytes)`.

    Args:
        folder: existing local folder that every node sees, or a URI.
        processed: references of `schema.PROCESSED` tables.
        decided: references of `DECISION` tables with stored ids.
        assignment: reference of an `Assignment`.
        layout: which files there are.
    """
    import ray

    names = layout.all_files
    if is_uri(folder):
        _make_folders(folder, names)

    def partition(tables: list[pa.Table]) -> list[pa.Table]:
        pieces: Pieces = {name: [] for name in names}
        for table in tables:
            if s.KEEPER_ROW in table.column_names:
                dropped = table.filter(pc.is_valid(table[s.STAGE]))
                hashes = id_hashes(dropped[s.ID].to_pylist())
                places = np.full(dropped.num_rows, s.IN_DROPPED, dtype=object)
                _spread(pieces, layout.files(DROPPED_FILE), _columns(dropped, s.DROPPED), hashes)
                _spread(pieces, layout.files(LINEAGE_FILE), _lineage(dropped, places), hashes)
            else:
                _partition_processed(table, ray.get(assignment), layout, pieces)
        return [pa.concat_tables(found) if found else None for found in pieces.values()]

    def write(index: int, pieces: list[pa.Table | None]) -> tuple[str, str, int]:
        content = _encode(names[index].split("/", 1)[0], [piece for piece in pieces if piece is not None])
        write_bytes(join(folder, names[index]), content)
        return names[index], hashlib.sha256(content).hexdigest(), len(content)

    return exchange([*processed, *decided], partition, write, len(names))


def _make_folders(folder: str, names: Iterable[str]) -> None:
    """Nothing on an object store; file systems behind a URI need their folders."""
    fs, inner = filesystem(folder)
    for parent in sorted({name.split("/", 1)[0] for name in names if "/" in name}):
        fs.makedirs(f"{inner.rstrip('/')}/{parent}", exist_ok=True)


def _spread(pieces: Pieces, files: Sequence[str], table: pa.Table, hashes: UInt64s) -> None:
    """Give each row to one of the files by the hash of its id."""
    if len(files) == 1:
        pieces[files[0]].append(table)
        return
    for file, index in zip(files, partition_indices(hashes, len(files)), strict=True):
        pieces[file].append(table.take(index))


def _partition_processed(table: pa.Table, assignment: Assignment, layout: Layout, pieces: Pieces) -> None:
    table = assignment.weighted(assignment.valid(table))
    splits = assignment.of(table)
    hashes = id_hashes(table[s.ID].to_pylist())

    def spread(name: str, chosen: pa.Table, index: np.ndarray) -> None:
        _spread(pieces, layout.files(name), chosen, hashes[index])

    for split, name in enumerate(s.SPLITS):
        index = np.flatnonzero(splits == split)
        spread(name, _columns(table.take(index), s.RECORD), index)
    places = np.array([*s.SPLITS, s.IN_DROPPED], dtype=object)[splits]
    is_broken = table[s.ERROR].is_valid().to_numpy()
    places[is_broken] = s.IN_QUARANTINE
    spread(LINEAGE_FILE, _lineage(table, places), np.arange(table.num_rows))
    broken, good = np.flatnonzero(is_broken), np.flatnonzero(~is_broken)
    spread(QUARANTINE_FILE, _quarantined(table.take(broken)), broken)
    redactions, parents = _redactions(table.take(good))
    spread(REDACTIONS_FILE, redactions, good[parents])
    dropped = good[table[s.STAGE].is_valid().to_numpy()[good]]
    spread(DROPPED_FILE, _columns(table.take(dropped), s.DROPPED), dropped)
    in_review = pc.and_(pc.equal(table[s.STAGE], REVIEW), pc.not_equal(table[s.REASON], REJECTED))
    held = np.flatnonzero(pc.fill_null(in_review, False).to_numpy() & ~is_broken)
    review = table.take(held)
    spread(REVIEW_FILE, review.append_column(s.POSITION, positions(review)).select([s.ROW, *REVIEWED]), held)


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


def _redactions(table: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """`schema.REDACTIONS` of a `PROCESSED` table, and the row of the table that each finding is in."""
    lists = table[s.FINDINGS].combine_chunks()
    parents = pc.list_parent_indices(lists)
    findings = pa.table(pc.list_flatten(lists).flatten(), names=[field.name for field in s.FINDING_TYPE])
    rows = findings.append_column(s.ROW, table[s.ROW].combine_chunks().take(parents)).append_column(
        s.ID, table[s.ID].combine_chunks().take(parents)
    )
    return _columns(rows, s.REDACTIONS), parents.to_numpy()


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
    """The content of a file of a split or table."""
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
