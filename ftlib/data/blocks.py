"""What the driver asks of blocks: small tables, arrays of row keys and counters, made by tasks where the blocks lie.

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
from ftlib.data.dedup import DECISION, REVIEW, contains, row_keys
from ftlib.data.facts import Counts, count_decisions, count_processed
from ftlib.data.filter import kept_rows
from ftlib.data.leftout import LeftOut
from ftlib.data.write import Assignment, id_hashes
from ftlib.runtime.exchange import gather, map_blocks
from ftlib.text.components import Edges
from ftlib.text.keyed import KeyedHash, UInt64s

logger = get_logger(__name__)

NO_ROWS: UInt64s = np.empty(0, dtype=np.uint64)


@dataclass(frozen=True)
class Decided:
    """Decisions of a round of deduplication: the blocks, and what the driver needs of them."""

    blocks: list[Any]
    removed: UInt64s
    """Rows dropped as duplicates, sorted."""
    keepers: UInt64s
    """The keeper of each of `removed`."""
    held: UInt64s
    """Rows for review, sorted."""
    links: Edges
    clusters: Edges = field(default_factory=lambda: np.empty((0, 2), dtype=np.uint64))
    """Keeper and row of duplicates that are kept and weighed down."""

    def after(self, other: "Decided") -> "Decided":
        """These decisions and an earlier round's, whose rows took no part in this one; its links are not needed."""
        removed = np.concatenate([other.removed, self.removed])
        order = np.argsort(removed)
        keepers = np.concatenate([other.keepers, self.keepers])[order]
        return replace(self, blocks=[*other.blocks, *self.blocks], removed=removed[order], keepers=keepers)


def collect(references: list[Any], label: str = "collecting counts") -> list[Any]:
    """The values behind references, with progress on the log."""
    return gather(references, label, logger)


def count_rows(tables: list[pa.Table]) -> tuple[UInt64s, Counter[str], int]:
    """Of `sign.SIGNATURE` tables: row keys, rows of each source, broken rows."""
    table = pa.concat_tables(tables)
    return row_keys(table), Counter(table[s.SOURCE].to_pylist()), int(pc.sum(table["broken"]).as_py() or 0)


def count_left_out(tables: list[pa.Table]) -> LeftOut:
    """Of `sign.SIGNATURE` tables: the columns and keys that no record carries on."""
    return LeftOut.of(text for table in tables for text in table[s.LEFT_OUT].drop_null().to_pylist())


def signature_column(signatures: list[Any], name: str) -> tuple[UInt64s, np.ndarray]:
    """Sorted row keys of `sign.SIGNATURE` tables, and the values of a column of numbers."""

    def run(tables: list[pa.Table]) -> tuple[UInt64s, np.ndarray]:
        table = pa.concat_tables(tables)
        return row_keys(table), table[name].to_numpy()

    rows, values = (np.concatenate(column) for column in zip(*collect(map_blocks(signatures, run)), strict=True))
    order = np.argsort(rows)
    return rows[order], values[order]


def only_links(tables: list[pa.Table]) -> pa.Table:
    """Duplicates that are not dropped, but stay together; what is held for review stays held."""
    table = pa.concat_tables(tables)
    stage = pc.if_else(pc.equal(table[s.STAGE], REVIEW), table[s.STAGE], pa.scalar(None, pa.string()))
    return table.set_column(table.column_names.index(s.STAGE), s.STAGE, stage)


def only_dropped(tables: list[pa.Table]) -> pa.Table:
    """Rows that deduplication drops: those for review come out of the second pass, links are no rows."""
    table = pa.concat_tables(tables)
    return table.filter(pc.and_(pc.is_valid(table[s.STAGE]), pc.not_equal(table[s.STAGE], REVIEW)))


def held_rows(tables: list[pa.Table], ids: list[str], rows: UInt64s) -> pa.Table:
    """Of `DECISION` tables with stored ids: the rows held for review that have one of these ids or row keys."""
    table = pa.concat_tables(tables)
    named = pc.or_(pc.is_in(table[s.ID], pa.array(ids, pa.string())), pa.array(contains(rows, row_keys(table))))
    held = pc.fill_null(pc.equal(table[s.STAGE], REVIEW), False)
    return table.filter(pc.and_(held, named)).select([s.ROW, s.ID, s.KEEPER_ROW])


def summarise(blocks: list[Any]) -> Decided:
    """The row keys in `DECISION` blocks, by what happens to them."""

    def columns(tables: list[pa.Table]) -> tuple[UInt64s, UInt64s, np.ndarray, np.ndarray]:
        table = pa.concat_tables(tables)
        stage = table[s.STAGE]
        held = pc.fill_null(pc.equal(stage, REVIEW), False).to_numpy()
        return row_keys(table), table[s.KEEPER_ROW].to_numpy(), held, pc.is_valid(stage).to_numpy() & ~held

    parts = [
        (NO_ROWS, NO_ROWS, np.empty(0, dtype=bool), np.empty(0, dtype=bool)),
        *collect(map_blocks(blocks, columns), "finding near-duplicates"),
    ]
    rows, keepers, held, dropped = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(rows[dropped])
    links = np.stack([keepers[~held], rows[~held]], axis=1)
    return Decided(blocks, rows[dropped][order], keepers[dropped][order], np.sort(rows[held]), links)


def restrict(blocks: list[Any], rows: UInt64s, *, inside: bool) -> list[Any]:
    """`DECISION` rows that are in `rows`, or that are not."""

    import ray

    chosen = ray.put(rows)

    def run(tables: list[pa.Table]) -> pa.Table:
        table = pa.concat_tables(tables)
        return table.filter(pa.array(contains(ray.get(chosen), row_keys(table)) == inside))

    return map_blocks(blocks, run)


def verdicts(processed: list[Any]) -> tuple[UInt64s, UInt64s, int]:
    """Sorted row keys that are kept, those that are not, and how many of these are for quarantine."""

    def run(tables: list[pa.Table]) -> tuple[UInt64s, UInt64s, int]:
        table = pa.concat_tables(tables)
        kept, rows = kept_rows(table), row_keys(table)
        return rows[kept], rows[~kept], table.num_rows - table[s.ERROR].null_count

    parts = [(NO_ROWS, NO_ROWS, 0), *collect(map_blocks(processed, run))]
    kept, lost, broken = zip(*parts, strict=True)
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(lost)), sum(broken)


def kept_table(tables: list[pa.Table], removed: UInt64s) -> pa.Table:
    """The rows of `PROCESSED` tables that go into a split."""
    table = pa.concat_tables(tables)
    return table.filter(pa.array(kept_rows(table) & ~contains(removed, row_keys(table))))


def split_columns(tables: list[pa.Table], removed: UInt64s) -> tuple[UInt64s, UInt64s, UInt64s, UInt64s]:
    """Row keys of kept rows with hashes of id, label and subject (0: none)."""
    table = kept_table(tables, removed)

    def hashes(name: str) -> UInt64s:
        hasher = KeyedHash(b"ftlib", name)
        values = table[name].to_pylist()
        return np.array([0 if value is None else hasher.uint64(value.encode()) for value in values], dtype=np.uint64)

    return row_keys(table), id_hashes(table[s.ID].to_pylist()), hashes(s.LABEL), hashes(s.SUBJECT)


def count_placed(tables: list[pa.Table], assignment: Assignment) -> tuple[Counts, UInt64s]:
    """Of `PROCESSED` tables: counts, and the row keys that stand there for good."""
    table = assignment.valid(pa.concat_tables(tables))
    return count_processed(table, assignment.of(table)), row_keys(table)


def count_decided(tables: list[pa.Table]) -> tuple[Counts, Counter[int]]:
    """Of `DECISION` tables: counts, and dropped rows by their keeper."""
    table = pa.concat_tables(tables)
    dropped = table.filter(pc.and_(pc.is_valid(table[s.STAGE]), pc.is_valid(table[s.KEEPER_ROW])))
    return count_decisions(table), Counter(dropped[s.KEEPER_ROW].to_pylist())


def cluster_sizes(keepers: list[Counter[int]]) -> Counter[int]:
    """Size, keeper included → number of clusters."""
    return Counter(n + 1 for n in sum(keepers, Counter[int]()).values())


def conflicts_in(tables: list[pa.Table]) -> dict[int, list[str]]:
    """Labels of the rows held for review, by the group's first row."""
    table = pa.concat_tables([DECISION.empty_table(), *tables])
    table = table.filter(pc.fill_null(pc.equal(table[s.STAGE], REVIEW), False))
    groups: dict[int, list[str]] = {}
    for group, label in zip(table[s.KEEPER_ROW].to_pylist(), table[s.LABEL].to_pylist(), strict=True):
        groups.setdefault(group, []).append(label or "")
    return groups


def conflict_groups(found: list[dict[int, list[str]]]) -> tuple[Counter[tuple[str, ...]], Counter[tuple[str, ...]]]:
    """Rows and groups by the labels that contradict each other; no labels where answers do."""
    merged: dict[int, list[str]] = {}
    for groups in found:
        for group, labels in groups.items():
            merged.setdefault(group, []).extend(labels)
    rows: Counter[tuple[str, ...]] = Counter()
    number: Counter[tuple[str, ...]] = Counter()
    for labels in merged.values():
        key = tuple(sorted({label for label in labels if label}))
        rows[key] += len(labels)
        number[key] += 1
    return rows, number


def reasons_in(tables: list[pa.Table], removed: UInt64s) -> Counter[str]:
    """Why rows of `PROCESSED` tables are not kept."""
    table = pa.concat_tables(tables)
    table = table.filter(pa.array(~contains(removed, row_keys(table))))
    return Counter(pc.coalesce(table[s.ERROR], table[s.REASON], pa.scalar("kept")).to_pylist())
