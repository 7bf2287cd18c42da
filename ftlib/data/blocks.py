"""What the driver asks of blocks: maps by row key that stay where they are made, and counters.

The functions that take `tables` run inside tasks (see `runtime.exchange.map_blocks`); those that take references start
them. Nothing that comes back to the driver holds text.
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftlib.core.logging import get_logger
from ftlib.data import schema as s
from ftlib.data.dedup import DECISION, REVIEW
from ftlib.data.facts import Counts, count_decisions, count_processed
from ftlib.data.filter import kept_rows
from ftlib.data.leftout import LeftOut
from ftlib.data.row_keys import NO_ROWS, contains, row_keys
from ftlib.data.rowmap import NO_MAP, ROWS_PER_SAMPLE, Fingerprint, RowMap, inside, outside
from ftlib.data.write import Assignment, id_hashes
from ftlib.runtime.exchange import exchange, gather, map_blocks, partition_indices
from ftlib.text.components import Edges
from ftlib.text.keyed import KeyedHash, UInt64s, mix64

logger = get_logger(__name__)

KEPT = "kept"


@dataclass(frozen=True)
class Decided:
    """Decisions of a round of deduplication, by row key; nothing of them is in the driver."""

    blocks: list[Any]
    """References of `DECISION` tables."""
    removed: RowMap
    """Rows dropped as duplicates, with their keeper (`keeper_row`)."""
    held: RowMap
    """Rows for review."""
    links: list[Any]
    """References of edges between rows that must share a split."""
    clusters: list[Any] = field(default_factory=list)
    """References of edges (keeper, row) of duplicates that are kept and weighed down."""

    def after(self, other: "Decided") -> "Decided":
        """These decisions and an earlier round's, whose rows took no part in this one; its links are not needed."""
        both = (self.removed, other.removed)
        removed = self.removed.joined(_all_rows, other.removed) if all(item.parts for item in both) else both[0]
        return replace(self, blocks=[*other.blocks, *self.blocks], removed=removed if removed.parts else both[1])


def _all_rows(part: pa.Table, other: pa.Table) -> pa.Table:
    """The rows of two parts that share none."""
    table = pa.concat_tables([part, other]).combine_chunks()
    return table.take(np.argsort(row_keys(table)))


def collect(references: list[Any], label: str = "collecting counts") -> list[Any]:
    """The values behind references, with progress on the log."""
    return gather(references, label, logger)


@dataclass(frozen=True)
class RowCounts:
    """What the first pass has read; adds up over blocks."""

    rows: Fingerprint
    sample: UInt64s
    """One row key in `ROWS_PER_SAMPLE`: ranges are cut by it."""
    by_source: Counter[str]
    broken_by_source: Counter[str]
    """Rows that are no records."""

    def __add__(self, other: "RowCounts") -> "RowCounts":
        return RowCounts(
            self.rows + other.rows,
            np.concatenate([self.sample, other.sample]),
            self.by_source + other.by_source,
            self.broken_by_source + other.broken_by_source,
        )


def count_rows(tables: list[pa.Table]) -> RowCounts:
    """Of `sign.SIGNATURE` tables."""
    table = pa.concat_tables(tables)
    rows = row_keys(table)
    broken = table.filter(table["broken"])
    sources, of_broken = (Counter(part[s.SOURCE].to_pylist()) for part in (table, broken))
    return RowCounts(Fingerprint.of(rows), rows[::ROWS_PER_SAMPLE], sources, of_broken)


def count_left_out(tables: list[pa.Table]) -> LeftOut:
    """Of `sign.SIGNATURE` tables: the columns and keys that no record carries on."""
    return LeftOut.of(text for table in tables for text in table[s.LEFT_OUT].drop_null().to_pylist())


def only_links(tables: list[pa.Table]) -> pa.Table:
    """Duplicates that are not dropped, but stay together; what is held for review stays held."""
    table = pa.concat_tables(tables)
    stage = pc.if_else(pc.equal(table[s.STAGE], REVIEW), table[s.STAGE], pa.scalar(None, pa.string()))
    return table.set_column(table.column_names.index(s.STAGE), s.STAGE, stage)


def mere_links(tables: list[pa.Table]) -> pa.Table:
    """Rows of `DECISION` tables that are neither dropped nor held."""
    table = pa.concat_tables(tables)
    return table.filter(pc.is_null(table[s.STAGE]))


def settled_rows(tables: list[pa.Table]) -> pa.Table:
    """Rows of `DECISION` tables that are dropped or held."""
    table = pa.concat_tables(tables)
    return table.filter(pc.is_valid(table[s.STAGE])).select([s.ROW])


def only_dropped(tables: list[pa.Table]) -> pa.Table:
    """Rows that deduplication drops: those for review come out of the second pass, links are no rows."""
    table = pa.concat_tables(tables)
    return table.filter(pc.and_(pc.is_valid(table[s.STAGE]), pc.not_equal(table[s.STAGE], REVIEW)))


def held_rows(tables: list[pa.Table], ids: list[str], rows: UInt64s) -> pa.Table:
    """Of `DECISION` tables with stored ids: the rows held for review that have one of these ids or row keys."""
    table = pa.concat_tables(tables)
    named = pc.or_(pc.is_in(table[s.ID], pa.array(ids, pa.string())), pa.array(contains(rows, row_keys(table))))
    return table.filter(pc.and_(_is_held(table), named)).select([s.ROW, s.ID, s.KEEPER_ROW])


def summarise(blocks: list[Any], bounds: UInt64s) -> Decided:
    """The rows in `DECISION` blocks, by what happens to them."""

    def dropped(tables: list[pa.Table]) -> pa.Table:
        return only_dropped(tables).select([s.ROW, s.KEEPER_ROW])

    def held(tables: list[pa.Table]) -> pa.Table:
        table = pa.concat_tables(tables)
        return table.filter(_is_held(table)).select([s.ROW])

    return Decided(
        blocks,
        RowMap.cut(blocks, bounds, dropped),
        RowMap.cut(blocks, bounds, held),
        map_blocks(blocks, links_in),
    )


def _is_held(table: pa.Table) -> pa.Array:
    return pc.fill_null(pc.equal(table[s.STAGE], REVIEW), False)


def links_in(tables: list[pa.Table]) -> Edges:
    """Of `DECISION` tables: edges from keepers to rows that must share a split with them."""
    table = pa.concat_tables(tables)
    table = table.filter(pc.invert(_is_held(table)))
    edges: Edges = np.stack([table[s.KEEPER_ROW].to_numpy(), row_keys(table)], axis=1)
    return edges


def dropped_edges(removed: RowMap) -> list[Any]:
    """References of edges (keeper, row)."""
    return removed.each(lambda part: np.stack([part[s.KEEPER_ROW].to_numpy(), row_keys(part)], axis=1))


def restrict(blocks: list[Any], rows: RowMap, *, within: bool) -> list[Any]:
    """`DECISION` rows that are in `rows`, or that are not."""
    if not rows.parts:
        return [] if within else blocks
    every = RowMap.cut(blocks, rows.bounds, pa.concat_tables)
    return every.each(inside if within else outside, rows)


def verdicts(processed: list[Any], bounds: UInt64s) -> tuple[RowMap, int]:
    """Whether each row is kept (column `kept`), and how many rows are for quarantine."""

    def run(tables: list[pa.Table]) -> pa.Table:
        table = pa.concat_tables(tables)
        return pa.table({s.ROW: table[s.ROW], KEPT: kept_rows(table)})

    def broken(tables: list[pa.Table]) -> int:
        return sum(table.num_rows - table[s.ERROR].null_count for table in tables)

    return RowMap.cut(processed, bounds, run), sum(collect(map_blocks(processed, broken)))


def kept_only(verdict: RowMap) -> RowMap:
    """The rows that are kept."""
    return verdict.joined(lambda part: part.filter(part[KEPT]).select([s.ROW]))


def lost_keepers(removed: RowMap, verdict: RowMap) -> RowMap:
    """Rows that were dropped for a keeper that is not kept."""
    if not (removed.parts and verdict.parts):
        return NO_MAP

    def with_keepers(tables: list[pa.Table]) -> pa.Table:
        table = pa.concat_tables(tables)
        return pa.table({s.ROW: table[s.KEEPER_ROW], "dropped": table[s.ROW]})

    def of_lost(part: pa.Table, fates: pa.Table) -> pa.Table:
        return inside(part, fates.filter(pc.invert(fates[KEPT])))

    by_keeper = RowMap.cut(removed.parts, removed.bounds, with_keepers).joined(of_lost, verdict)
    found = RowMap.cut(
        by_keeper.parts, removed.bounds, lambda tables: pa.table({s.ROW: pa.concat_tables(tables)["dropped"]})
    )
    return found


def kept_table(tables: list[pa.Table], removed: RowMap) -> pa.Table:
    """The rows of `PROCESSED` tables that go into a split."""
    table = pa.concat_tables(tables)
    return table.filter(pa.array(kept_rows(table) & ~removed.contains(row_keys(table))))


def split_columns(tables: list[pa.Table], removed: RowMap) -> pa.Table:
    """Row keys of kept rows with hashes of id, label and subject (0: none), as `split_tasks` takes them."""
    table = kept_table(tables, removed)

    def hashes(name: str) -> UInt64s:
        hasher = KeyedHash(b"ftlib", name)
        values = table[name].to_pylist()
        return np.array([0 if value is None else hasher.uint64(value.encode()) for value in values], dtype=np.uint64)

    return pa.table(
        {
            s.ROW: table[s.ROW],
            "id_hash": id_hashes(table[s.ID].to_pylist()),
            "label_hash": hashes(s.LABEL),
            "subject_hash": hashes(s.SUBJECT),
        }
    )


def count_placed(tables: list[pa.Table], assignment: Assignment) -> tuple[Counts, Fingerprint]:
    """Of `PROCESSED` tables: counts, and the rows that stand there for good."""
    table = assignment.valid(pa.concat_tables(tables))
    return count_processed(table, assignment.of(table)), Fingerprint.of(row_keys(table))


def count_decided(tables: list[pa.Table]) -> Counts:
    """Of `DECISION` tables."""
    return count_decisions(pa.concat_tables(tables))


def cluster_sizes(blocks: list[Any], num_partitions: int) -> Counter[int]:
    """Of `DECISION` blocks: size, keeper included → number of clusters."""

    def partition(tables: list[pa.Table]) -> list[UInt64s]:
        table = pa.concat_tables(tables)
        dropped = table.filter(pc.and_(pc.is_valid(table[s.STAGE]), pc.is_valid(table[s.KEEPER_ROW])))
        keepers = dropped[s.KEEPER_ROW].to_numpy()
        return [keepers[index] for index in partition_indices(mix64(keepers), num_partitions)]

    def reduce(index: int, pieces: list[UInt64s]) -> Counter[int]:
        keepers = np.concatenate(pieces) if pieces else NO_ROWS
        return Counter((np.unique(keepers, return_counts=True)[1] + 1).tolist())

    return sum(collect(exchange(blocks, partition, reduce, num_partitions)), Counter[int]())


Conflicts = tuple[Counter[tuple[str, ...]], Counter[tuple[str, ...]]]
"""Rows and groups by the labels that contradict each other; no labels where answers do."""


def conflict_groups(blocks: list[Any], num_partitions: int) -> Conflicts:
    """Conflicts among the rows of `DECISION` blocks that are held for review."""

    def partition(tables: list[pa.Table]) -> list[pa.Table]:
        table = pa.concat_tables([DECISION.empty_table(), *tables])
        table = table.filter(_is_held(table)).select([s.KEEPER_ROW, s.LABEL])
        keys = mix64(table[s.KEEPER_ROW].to_numpy())
        return [table.take(index) for index in partition_indices(keys, num_partitions)]

    def reduce(_: int, pieces: list[pa.Table]) -> Conflicts:
        return conflicts_in(pa.concat_tables(pieces)) if pieces else (Counter(), Counter())

    found = collect(exchange(blocks, partition, reduce, num_partitions))
    rows, groups = (sum(column, Counter[tuple[str, ...]]()) for column in zip(*found, strict=True))
    return rows, groups


def conflicts_in(table: pa.Table) -> Conflicts:
    """Conflicts among whole groups of rows that are held."""
    labels: dict[int, list[str]] = {}
    for group, label in zip(table[s.KEEPER_ROW].to_pylist(), table[s.LABEL].to_pylist(), strict=True):
        labels.setdefault(group, []).append(label or "")
    rows, groups = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for found in labels.values():
        key = tuple(sorted({label for label in found if label}))
        rows[key] += len(found)
        groups[key] += 1
    return rows, groups


def reasons_in(tables: list[pa.Table], removed: RowMap) -> Counter[str]:
    """Why rows of `PROCESSED` tables are not kept."""
    table = pa.concat_tables(tables)
    table = table.filter(pa.array(~removed.contains(row_keys(table))))
    return Counter(pc.coalesce(table[s.ERROR], table[s.REASON], pa.scalar("kept")).to_pylist())
