"""The split of many rows: groups are found and taken in tasks, and the driver hands out quotas alone.

In: a `RowMap` of the rows with hashes (the columns of `ROW_COLUMNS`) and references of links between rows. Out: a
`RowMap` with the column `split`. The result is that of `split.assign_splits`, which does the work in one task where
there are few rows. Otherwise:

1. Components of links and of rows that share a subject or group (`data.connect`), as a root for each row.
2. An exchange by root: each partition holds whole groups, numbers them and counts rows by stratum.
3. An exchange of groups by their place in the order in which they are taken (ranges of the seeded hash, or of time).
4. One partition after the other takes groups for the quotas that are left and hands on what is left then. Only as many
   partitions are visited as the fractions need: about a fifth. The driver sees a number for each stratum.
5. What was taken goes back to the groups' partitions, and each row's split to its range of row keys.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ftlib.config.prepare import SplitConfig
from ftlib.core.logging import get_logger
from ftlib.data import schema as s
from ftlib.data.connect import ROOT, connect
from ftlib.data.row_keys import contains, row_keys
from ftlib.data.rowmap import RowMap, keys_of
from ftlib.data.split import (
    ORDER,
    SPLIT,
    TRAIN,
    Quota,
    SplitRows,
    Strata,
    assign_splits,
    group_rows,
    in_sequence,
    named_columns,
    quota_of,
    same_value,
    split_order,
    strata_of,
    take,
)
from ftlib.runtime.exchange import exchange, gather, partition_indices
from ftlib.text.components import Edges
from ftlib.text.keyed import UInt64s, mix64

logger = get_logger(__name__)

ROWS_AT_ONCE = 100_000
"""Rows that one task splits: fewer are not worth a dozen exchanges."""
ROW_COLUMNS = ("id_hash", "label_hash", "subject_hash", "group_hash", "time")
"""Of the rows to be split; the last two are absent where nothing goes by them."""
_SAMPLES = 256


def split_rows(
    rows: RowMap,
    links: Sequence[Any],
    config: SplitConfig,
    seed: int,
    num_partitions: int,
    *,
    rows_at_once: int | None = None,
    edges_at_once: int | None = None,
) -> tuple[RowMap, int]:
    """The split of each row, and the rows of the largest group.

    Args:
        rows: what is to be split.
        links: references of edges.
        config: fractions.
        seed: of the hash that orders groups.
        num_partitions: of the exchanges.
        rows_at_once: rows up to which one task does everything.
        edges_at_once: of `connect`.
    """
    import ray

    if rows.num_rows() <= (ROWS_AT_ONCE if rows_at_once is None else rows_at_once):
        whole = ray.remote(num_returns=2)(_split_all)
        table, largest = whole.remote(config, seed, len(rows.parts), *rows.parts, *links)
        return RowMap.cut([table], rows.bounds, pa.concat_tables), ray.get(largest)
    roots = _roots(rows, links, config, num_partitions, edges_at_once)
    parts = _grouped(rows.joined(_with_roots, roots), config, seed, num_partitions)
    strata, bounds = _survey(parts, num_partitions)
    sequence = _sequence(parts, bounds)
    taken = _take_in_order(sequence, strata, config)
    return RowMap.cut(_back_home(parts, sequence, taken), rows.bounds, pa.concat_tables), strata.largest


def as_split_rows(table: pa.Table) -> SplitRows:
    """The columns of a part."""
    found = {name: table[name].to_numpy() if name in table.column_names else None for name in ROW_COLUMNS}
    return SplitRows(row_keys(table), *found.values())  # type: ignore[arg-type]


def _split_all(config: SplitConfig, seed: int, num_parts: int, *inputs: Any) -> tuple[pa.Table, int]:
    table = pa.concat_tables(inputs[:num_parts]).combine_chunks()
    links = np.concatenate([np.empty((0, 2), dtype=np.uint64), *inputs[num_parts:]])
    splits, largest = assign_splits(as_split_rows(table), links, config, seed)
    return pa.table({s.ROW: table[s.ROW], SPLIT: splits}), largest


def _roots(rows: RowMap, links: Sequence[Any], config: SplitConfig, num_partitions: int, at_once: int | None) -> RowMap:
    """Root of each row that belongs together with another."""

    def partition(tables: list[pa.Table]) -> list[list[tuple[UInt64s, UInt64s]]]:
        """For each partition: of each named column, values and rows."""
        table = as_split_rows(pa.concat_tables(tables))
        pieces: list[list[tuple[UInt64s, UInt64s]]] = [[] for _ in range(num_partitions)]
        for column in named_columns(table, config):
            named = np.flatnonzero(column)
            values, keys = column[named], table.rows[named]
            for piece, index in zip(pieces, partition_indices(values, num_partitions), strict=True):
                piece.append((values[index], keys[index]))
        return pieces

    def reduce(_: int, pieces: list[list[tuple[UInt64s, UInt64s]]]) -> Edges:
        edges = [np.empty((0, 2), dtype=np.uint64)]
        for column in zip(*pieces, strict=True):
            values, keys = (np.concatenate(items) for items in zip(*column, strict=True))
            edges.append(same_value(keys, values))
        return np.concatenate(edges)

    shared = exchange(rows.parts, partition, reduce, num_partitions)
    return connect([*links, *shared], rows.bounds, num_partitions, at_once)


def _with_roots(part: pa.Table, roots: pa.Table | None) -> pa.Table:
    keys, members = row_keys(part), keys_of(roots)
    root = keys.copy()
    if roots is not None:
        found = contains(members, keys)
        root[found] = roots[ROOT].to_numpy()[np.searchsorted(members, keys[found])]
    return part.append_column(ROOT, pa.array(root))


def _grouped(rows: RowMap, config: SplitConfig, seed: int, num_partitions: int) -> list[Any]:
    """References of (row keys with the number of their group, `SEQUENCE` table), one for each partition of groups."""

    def partition(tables: list[pa.Table]) -> list[pa.Table]:
        table = pa.concat_tables(tables)
        return [table.take(index) for index in partition_indices(mix64(table[ROOT].to_numpy()), num_partitions)]

    def reduce(index: int, pieces: list[pa.Table]) -> tuple[pa.Table, pa.Table]:
        table = pa.concat_tables(pieces).combine_chunks()
        group, groups = group_rows(as_split_rows(table), table[ROOT].to_numpy(), config, seed, index)
        return pa.table({s.ROW: table[s.ROW], "group": group}), groups

    return exchange(rows.parts, partition, reduce, num_partitions)


def _survey(parts: list[Any], num_partitions: int) -> tuple[Strata, pa.Table]:
    """Strata of all groups, and bounds that cut their order into parts of about the same size."""
    import ray

    def survey(part: tuple[pa.Table, pa.Table]) -> tuple[Strata, pa.Table]:
        groups = in_sequence([part[1]])
        chosen = np.linspace(0, max(groups.num_rows - 1, 0), min(_SAMPLES, groups.num_rows)).astype(np.int64)
        return strata_of(part[1]), groups.take(chosen)

    task = ray.remote(survey)
    found = gather([task.remote(part) for part in parts], "counting groups", logger)
    strata = sum((item[0] for item in found[1:]), found[0][0])
    sample = in_sequence([item[1] for item in found])
    cuts = np.arange(1, num_partitions) * sample.num_rows // num_partitions if sample.num_rows else np.arange(0)
    return strata, sample.take(np.unique(cuts)).select(ORDER)


def _sequence(parts: list[Any], bounds: pa.Table) -> list[Any]:
    """References of `SEQUENCE` tables: all groups of a part are taken before those of the next."""
    number = bounds.num_rows + 1

    def partition(inputs: list[tuple[pa.Table, pa.Table]]) -> list[pa.Table]:
        table = in_sequence([groups for _, groups in inputs])
        target = place_among(table, bounds)
        return [table.filter(pa.array(target == part)) for part in range(number)]

    return exchange(parts, partition, lambda _, pieces: in_sequence(pieces), number)


def place_among(groups: pa.Table, bounds: pa.Table) -> np.ndarray:
    """How many of the bounds come before each group or are it; int64 [num_groups]."""
    columns = [np.concatenate([bounds[name].to_numpy(), groups[name].to_numpy()]) for name in ORDER]
    is_bound = np.arange(len(columns[0])) < bounds.num_rows
    order = np.lexsort((~is_bound, *reversed(columns)))
    before = np.empty(len(order), dtype=np.int64)
    before[order] = np.cumsum(is_bound[order])
    found: np.ndarray = before[bounds.num_rows :]
    return found


def _take_in_order(sequence: list[Any], strata: Strata, config: SplitConfig) -> list[Any | None]:
    """References of the split of each group of a part (uint8), None for parts of which nothing is taken."""
    import ray

    task = ray.remote(num_returns=2)(_take_part)
    taken: list[Any | None] = [None] * len(sequence)
    for split, fraction in split_order(config):
        quota = quota_of(strata, fraction)
        for stratified in (True, False):
            for number, part in enumerate(sequence):
                if quota.missing <= 0 or (stratified and quota.stratified_done):
                    break
                taken[number], left = task.remote(part, taken[number], split, quota, stratified)
                quota = ray.get(left)
    return taken


def _take_part(
    groups: pa.Table, taken: np.ndarray | None, split: int, quota: Quota, stratified: bool
) -> tuple[np.ndarray, Quota]:
    found = np.full(groups.num_rows, TRAIN, dtype=np.uint8) if taken is None else taken.copy()
    take(groups, found, split, quota, stratified=stratified)
    return found, quota


def _back_home(parts: list[Any], sequence: list[Any], taken: list[Any | None]) -> list[Any]:
    """References of tables of row keys and their split, one for each partition of groups."""
    import ray

    def outcome(groups: pa.Table, splits: np.ndarray) -> pa.Table:
        table = groups.select(["home", "group"]).append_column(SPLIT, pa.array(splits))
        return table.filter(pa.array(splits != TRAIN))

    def partition(tables: list[pa.Table]) -> list[pa.Table]:
        table = pa.concat_tables(tables)
        return [table.take(index) for index in partition_indices(table["home"].to_numpy(), len(parts))]

    task, last = ray.remote(outcome), ray.remote(_row_splits)
    pairs = zip(sequence, taken, strict=True)
    found = [task.remote(groups, splits) for groups, splits in pairs if splits is not None]
    chosen = exchange(found, partition, lambda _, pieces: _all(pieces), len(parts))
    return [last.remote(part, table) for part, table in zip(parts, chosen, strict=True)]


def _all(pieces: list[pa.Table]) -> pa.Table | None:
    return pa.concat_tables(pieces).combine_chunks() if pieces else None


def _row_splits(part: tuple[pa.Table, pa.Table], chosen: pa.Table | None) -> pa.Table:
    rows, groups = part
    splits = np.full(groups.num_rows, TRAIN, dtype=np.uint8)
    if chosen is not None:
        splits[chosen["group"].to_numpy()] = chosen[SPLIT].to_numpy()
    return pa.table({s.ROW: rows[s.ROW], SPLIT: splits[rows["group"].to_numpy()]})
