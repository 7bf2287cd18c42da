"""Label conflicts, exact and near duplicates over keyed hashes of the records: no text travels.

In: signature tables (`sign.SIGNATURE`, one row a record), made in the pass that reads the input. Out: `DECISION`
tables: rows that are held for review or dropped, each with its keeper, and links between rows that must share a split.

Three exchanges: by hash of the input (rows of the same input with different answers or labels conflict; rows equal in
everything are exact duplicates, the first is kept); by band key (buckets → star edges → components, see
`data.connect`); by candidate component (exact Jaccard similarity of the shingle sets, see `text.components.verify`).
Only candidates' hashes take part in the third. Each reducer sorts by row key, so the result depends on the rows alone.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftlib.config.prepare import DedupConfig
from ftlib.data import schema as s
from ftlib.data.common import NOTHING, Common, find_common, shingles_of
from ftlib.data.connect import ROOT, connect
from ftlib.data.row_keys import contains, row_keys
from ftlib.data.rowmap import NO_MAP, RowMap
from ftlib.data.sign import JUDGED, MEANINGS, ORDER, WORDS
from ftlib.runtime.exchange import exchange, partition_indices
from ftlib.text.common import Parts
from ftlib.text.components import Edges, nearest_reference, star_edges, verify
from ftlib.text.counters import NUM_COUNTERS
from ftlib.text.keyed import UInt64s, mix64
from ftlib.text.minhash import Shingles
from ftlib.text.symbols import Meanings

DECISION = pa.schema(
    [
        *s.IDENTITY,
        (s.STAGE, pa.string()),
        (s.REASON, pa.string()),
        (s.KEEPER_ROW, pa.uint64()),
        (s.KEEPER_ID, pa.string()),
        (s.KEEPER_DERIVED, pa.bool_()),
        (s.SCORE, pa.float32()),
    ]
)
"""`stage`: `review`, `dedup`, or null for a mere link: `row_key` and `keeper_row` must be in the same split."""

REVIEW, DEDUP = "review", "dedup"
LABEL_CONFLICT, EXACT, NEAR = "label_conflict", "exact_duplicate", "near_duplicate"
REFERENCE = "in_reference"
"""A near-duplicate of a record of the reference corpus."""


_LATER = "later"


def find_equal(
    blocks: Sequence[Any],
    num_partitions: int,
    *,
    conflicts: bool,
    preferred: RowMap = NO_MAP,
    without: RowMap = NO_MAP,
    among: RowMap | None = None,
) -> list[Any]:
    """Label conflicts and exact duplicates; references of `DECISION` tables.

    Several answers to one input are a conflict, unless one of them is judged or compared (preferences, good and bad
    answers): then they belong there, and rows without a stage link them.

    Args:
        blocks: references of `sign.SIGNATURE` tables.
        num_partitions: of the exchange.
        conflicts: whether rows of one input with different outcomes go to review.
        preferred: rows that are kept rather than others.
        without: rows that take no part.
        among: rows that alone take part; None: all.
    """
    columns = [*s.IDENTITY.names, "input_hash", "outcome_hash", "label_hash", "exact_hash", JUDGED, ORDER]

    def partition(tables: list[pa.Table]) -> list[pa.Table]:
        table = _ranked(_present(tables, without, columns, among), preferred)
        return [table.take(index) for index in partition_indices(table["input_hash"].to_numpy(), num_partitions)]

    def reduce(index: int, pieces: list[pa.Table]) -> pa.Table:
        return _equal_rows(_in_order(pieces), conflicts)

    return exchange(blocks, partition, reduce, num_partitions)


def _present(tables: list[pa.Table], without: RowMap, columns: Sequence[str], among: RowMap | None = None) -> pa.Table:
    """Rows that were read, are not in `without` and are in `among`; these columns only, or shingles would be copied."""
    table = pa.concat_tables(tables)
    rows = row_keys(table)
    keep = ~table["broken"].to_numpy() & ~without.contains(rows)
    if among is not None:
        keep &= among.contains(rows)
    return table.select(columns).filter(pa.array(keep))


def _ranked(table: pa.Table, preferred: RowMap) -> pa.Table:
    """The table with the column `later`: whether a row is none of the preferred ones."""
    return table.append_column(_LATER, pa.array(~preferred.contains(row_keys(table))))


def _in_order(pieces: list[pa.Table]) -> pa.Table:
    """Rows in order of preference for keepers: preferred ones first, then by policy, then by row key."""
    if not pieces:
        return pa.table({s.ROW: pa.array([], pa.uint64())})
    table = pa.concat_tables(pieces).combine_chunks()
    order = np.lexsort((row_keys(table), table[ORDER].to_numpy(), table[_LATER].to_numpy(zero_copy_only=False)))
    return table.take(order)


def _equal_rows(table: pa.Table, conflicts: bool) -> pa.Table:
    if not table.num_rows:
        return DECISION.empty_table()
    inputs = table["input_hash"].to_numpy()
    is_judged = contains(np.unique(inputs[table[JUDGED].to_numpy(zero_copy_only=False)]), inputs)
    outcomes = np.where(is_judged, table["label_hash"].to_numpy(), table["outcome_hash"].to_numpy())
    in_conflict = np.zeros(table.num_rows, dtype=bool)
    if conflicts:
        pairs = np.unique(np.stack([inputs, outcomes], axis=1), axis=0)[:, 0]
        many, counts = np.unique(pairs, return_counts=True)
        in_conflict = contains(many[counts > 1], inputs)
    review = table.filter(pa.array(in_conflict))
    groups = review["input_hash"].to_numpy()
    _, first = np.unique(groups, return_index=True)
    centre = first[np.searchsorted(groups[first], groups)] if len(groups) else np.empty(0, dtype=np.int64)
    held = decisions(review, centre, np.full(len(centre), np.nan), REVIEW, LABEL_CONFLICT)

    rest = table.filter(pa.array(~in_conflict))
    exact = rest["exact_hash"].to_numpy(zero_copy_only=False).astype("V16")
    _, first, inverse = np.unique(exact, return_index=True, return_inverse=True)
    keeper = first[inverse]
    dropped = np.flatnonzero(keeper != np.arange(len(keeper)))
    equal = decisions(rest, keeper, np.ones(len(keeper)), DEDUP, EXACT).take(dropped)
    links = _linked(rest.filter(pa.array((keeper == np.arange(len(keeper))) & is_judged[~in_conflict])))
    return pa.concat_tables([held, equal, links])


def _linked(table: pa.Table) -> pa.Table:
    """Links from the first row of each input to its others."""
    _, first, inverse = np.unique(table["input_hash"].to_numpy(), return_index=True, return_inverse=True)
    centre = first[inverse]
    links = decisions(table, centre, np.full(len(centre), np.nan), None, None)
    return links.take(np.flatnonzero(centre != np.arange(len(centre))))


def decisions(
    table: pa.Table, keeper: np.ndarray, score: np.ndarray, stage: str | None, reason: str | None
) -> pa.Table:
    """`DECISION` rows for every row of `table`; `keeper`: index of each one's keeper; NaN scores become null."""
    keepers = table.select([s.ROW, s.ID, s.DERIVED]).take(keeper)
    count = table.num_rows
    arrays = [
        *(table[name] for name in s.IDENTITY.names),
        pa.array([stage] * count, pa.string()),
        pa.array([reason] * count, pa.string()),
        *keepers.columns,
        pa.array(score, pa.float32(), from_pandas=True),
    ]
    return pa.table(arrays, schema=DECISION)


def find_near(
    blocks: Sequence[Any],
    config: DedupConfig,
    num_partitions: int,
    bounds: UInt64s,
    *,
    preferred: RowMap = NO_MAP,
    without: RowMap = NO_MAP,
    among: RowMap | None = None,
    first_reference: int | None = None,
    common: Common | None = None,
) -> list[Any]:
    """Near-duplicates among the rows that take part; references of `DECISION` tables.

    Rows with stage `dedup` are dropped in favour of their keeper; those without a stage are links. Rows from the key
    `first_reference` on are a reference corpus: given it, only near-duplicates of these are dropped. `bounds`: ranges
    of row keys in which candidates are looked up. `common`: text that most records of a source share, see
    `data.common`. The others are as `find_equal` takes them.
    """
    import ray

    shared = ray.put(common or NOTHING)
    looked_at = [s.ROW, "bands", *((s.SOURCE, WORDS, "shingles") if common else ())]

    def partition(tables: list[pa.Table]) -> list[tuple[UInt64s, UInt64s]]:
        table = _present(tables, without, looked_at, among)
        keys, offsets = _band_keys(table, ray.get(shared), config)
        rows = np.repeat(row_keys(table), np.diff(offsets))
        return [(keys[index], rows[index]) for index in partition_indices(keys, num_partitions)]

    def edges(index: int, pieces: list[tuple[UInt64s, UInt64s]]) -> Edges:
        if not pieces:
            return np.empty((0, 2), dtype=np.uint64)
        keys, rows = (np.concatenate(column) for column in zip(*pieces, strict=True))
        return star_edges(keys, rows)

    roots = connect(exchange(blocks, partition, edges, num_partitions), bounds, num_partitions)

    def candidates(tables: list[pa.Table]) -> list[pa.Table]:
        columns = [*s.IDENTITY.names, "verdict_hash", JUDGED, ORDER, *MEANINGS, WORDS, "bands", "shingles"]
        table = _ranked(_present(tables, without, columns, among=roots), preferred)
        root = roots.values(row_keys(table), ROOT, 0).astype(np.uint64)
        table = table.append_column(ROOT, pa.array(root))
        return [table.take(index) for index in partition_indices(root, num_partitions)]

    def decide(index: int, pieces: list[pa.Table]) -> pa.Table:
        table = _in_order(pieces)
        if not table.num_rows:
            return DECISION.empty_table()
        found = _Candidates.of(table, ray.get(shared), config)
        if first_reference is not None:
            return _reference_rows(found, config.threshold, first_reference)
        return _near_rows(found, config.threshold, config.drop_above)

    return exchange(blocks, candidates, decide, num_partitions)


def common_text(
    blocks: Sequence[Any], num_partitions: int, without: RowMap = NO_MAP, among: RowMap | None = None
) -> Common:
    """Text that most records of a source share, among the rows that take part, as `find_equal` takes them."""

    def present(tables: list[pa.Table], columns: Sequence[str]) -> pa.Table:
        return _present(tables, without, columns, among)

    return find_common(blocks, num_partitions, present)


def _parts(table: pa.Table, common: Common, config: DedupConfig) -> Parts | None:
    """Shingle sets cut by what is common; None without common text."""
    if not common or not table.num_rows:
        return None
    expected = common.expected(table[s.SOURCE].to_pylist())
    sketches = np.frombuffer(b"".join(table[WORDS].to_pylist()), dtype=np.int16).reshape(-1, NUM_COUNTERS)
    return Parts.of(shingles_of(table), common.values, expected, sketches, config.ngram)


def _band_keys(table: pa.Table, common: Common, config: DedupConfig) -> tuple[UInt64s, np.ndarray]:
    """All band keys of a table's rows, and where those of each row begin; int64 [num_rows + 1]."""
    keys = pc.list_flatten(table["bands"]).to_numpy()
    num_bands = len(keys) // max(table.num_rows, 1)
    parts = _parts(table, common, config)
    if parts is None:
        return keys, np.arange(table.num_rows + 1) * num_bands
    return parts.bands(keys.reshape(table.num_rows, num_bands), config.num_permutations, config.scheme)


def follow_keepers(equal: Sequence[Any], near: Sequence[Any], num_partitions: int) -> list[Any]:
    """Give the copies of a record that turned out to be a near-duplicate that record's keeper; references.

    Args:
        equal: references of `DECISION` tables from `find_equal`.
        near: those from `find_near` on what `equal` left.
        num_partitions: of the exchange that brings copies and their keepers together.
    """

    def partition(tables: list[pa.Table]) -> list[tuple[pa.Table, pa.Table]]:
        table = pa.concat_tables([DECISION.empty_table(), *tables])
        found = pc.fill_null(pc.is_in(table[s.REASON], pa.array([LABEL_CONFLICT, EXACT])), False)
        copies = table.filter(found)
        moved = table.filter(pc.and_(pc.is_valid(table[s.STAGE]), pc.invert(found)))
        pairs = zip(
            partition_indices(mix64(copies[s.KEEPER_ROW].to_numpy()), num_partitions),
            partition_indices(mix64(row_keys(moved)), num_partitions),
            strict=True,
        )
        return [(copies.take(left), moved.take(right)) for left, right in pairs]

    def follow(_: int, pieces: list[tuple[pa.Table, pa.Table]]) -> pa.Table:
        copies, moved = (pa.concat_tables([DECISION.empty_table(), *column]) for column in zip(*pieces, strict=True))
        return _follow(copies, moved.take(np.argsort(row_keys(moved))).combine_chunks())

    return exchange([*equal, *near], partition, follow, num_partitions)


def _follow(table: pa.Table, lookup: pa.Table) -> pa.Table:
    rows, keepers = row_keys(lookup), table[s.KEEPER_ROW].to_numpy()
    moved = pa.array(contains(rows, keepers))
    if not pc.any(moved).as_py():
        return table
    found = lookup.take(np.minimum(np.searchsorted(rows, keepers), len(rows) - 1))
    for name in (s.REASON, s.KEEPER_ROW, s.KEEPER_ID, s.KEEPER_DERIVED, s.SCORE):
        column = pc.if_else(moved, found[name].combine_chunks(), table[name].combine_chunks())
        table = table.set_column(table.column_names.index(name), name, column)
    return table


@dataclass(frozen=True)
class _Component:
    """One candidate component."""

    rows: slice
    shingles: Shingles
    bands: list[UInt64s]
    meanings: Meanings
    parts: Parts | None


@dataclass(frozen=True)
class _Candidates:
    """Candidate components of a partition, one after the other, each in order of preference."""

    table: pa.Table
    shingles: Shingles
    bands: list[UInt64s]
    meanings: Meanings
    parts: Parts | None
    cuts: list[int]
    """Where components begin, and the number of rows."""

    @classmethod
    def of(cls, table: pa.Table, common: Common, config: DedupConfig) -> "_Candidates":
        """Sort a partition's rows by component."""
        table = table.take(np.argsort(table[ROOT].to_numpy(), kind="stable")).combine_chunks()
        keys, offsets = _band_keys(table, common, config)
        bands = [keys[start:stop] for start, stop in itertools.pairwise(offsets.tolist())]
        meanings = Meanings(*(table[name].to_numpy() for name in MEANINGS))
        cuts = [0, *(np.flatnonzero(np.diff(table[ROOT].to_numpy())) + 1).tolist(), table.num_rows]
        return cls(table, shingles_of(table), bands, meanings, _parts(table, common, config), cuts)

    def components(self) -> Iterator[_Component]:
        """Each component, in the order of the rows."""
        for start, stop in itertools.pairwise(self.cuts):
            part = Shingles(self.shingles.values, self.shingles.offsets[start : stop + 1])
            rows = slice(start, stop)
            own = None
            if self.parts is not None:
                own = replace(
                    self.parts, shingles=part, templated=self.parts.templated[rows], sketches=self.parts.sketches[rows]
                )
            yield _Component(rows, part, self.bands[rows], self.meanings.take(rows), own)


def _near_rows(found: _Candidates, threshold: float, drop_above: float | None) -> pa.Table:
    """Verdicts on all candidate components of a partition, whose rows come in order of preference."""
    table, labels = found.table, found.table["verdict_hash"].to_numpy()
    own = np.arange(table.num_rows)
    keeper, group, score = own.copy(), own.copy(), np.ones(table.num_rows)
    for item in found.components():
        rows = item.rows
        verdict = verify(
            item.shingles, item.bands, labels[rows], threshold, drop_above, meanings=item.meanings, parts=item.parts
        )
        keeper[rows], group[rows] = verdict.keeper + rows.start, verdict.group + rows.start
        score[rows] = verdict.score
    unknown = np.full(table.num_rows, np.nan)
    dropped = decisions(table, keeper, score, DEDUP, NEAR).take(np.flatnonzero(keeper != own))
    links = decisions(table, group, unknown, None, None).take(np.flatnonzero(group != own))
    return pa.concat_tables([dropped, links])


def _reference_rows(found: _Candidates, threshold: float, first_reference: int) -> pa.Table:
    """Rows of a partition that are near-duplicates of a reference row, whatever the labels.

    Of two judged records the answers and verdicts must agree as well.
    """
    judged = found.table[JUDGED].to_numpy(zero_copy_only=False)
    verdict = np.where(judged, found.table["verdict_hash"].to_numpy(), 0)
    is_reference = row_keys(found.table) >= np.uint64(first_reference)
    keeper, score = np.full(found.table.num_rows, -1), np.zeros(found.table.num_rows)
    for item in found.components():
        rows = item.rows
        nearest, score[rows] = nearest_reference(
            item.shingles,
            item.bands,
            is_reference[rows],
            threshold,
            meanings=item.meanings,
            parts=item.parts,
            verdicts=verdict[rows],
        )
        keeper[rows] = np.where(nearest >= 0, nearest + rows.start, -1)
    alike = np.flatnonzero(keeper >= 0)
    return decisions(found.table, np.maximum(keeper, 0), score, DEDUP, REFERENCE).take(alike)
