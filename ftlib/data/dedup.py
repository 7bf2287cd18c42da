"""Label conflicts, exact and near duplicates over keyed hashes of the records: no text travels.

In: signature tables (`SIGNATURE`, one row a record), made by `sign` in the pass that reads the input. Out: `DECISION`
tables: rows that are held for review or dropped, each with its keeper, and links between rows that must share a split.

Three exchanges: by hash of the input (rows of the same input with different answers or labels conflict; rows equal in
everything are exact duplicates, the first is kept); by band key (buckets → star edges → spanning forests, merged
pairwise); by candidate component (exact Jaccard similarity of the shingle sets, see `text.components.verify`). Only
candidates' hashes take part in the third. Each reducer sorts by row key, so the result depends on the rows alone.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ftlib.config.prepare import DedupConfig
from ftlib.data import schema as s
from ftlib.runtime.exchange import exchange, map_blocks, partition_indices, tree_reduce
from ftlib.text.components import forest, members, star_edges, verify
from ftlib.text.keyed import KeyedHash, UInt64s
from ftlib.text.minhash import Shingles, band_keys, choose_bands, shingle, signatures
from ftlib.text.normalize import normalize_all

SIGNATURE = pa.schema(
    [
        (s.ROW, pa.uint64()),
        (s.ID, pa.string()),
        (s.DERIVED, pa.bool_()),
        (s.SOURCE, pa.string()),
        (s.LABEL, pa.string()),
        ("broken", pa.bool_()),
        ("input_hash", pa.uint64()),
        ("outcome_hash", pa.uint64()),
        ("label_hash", pa.uint64()),
        ("exact_hash", pa.binary(16)),
        ("bands", pa.list_(pa.uint64())),
        ("shingles", pa.list_(pa.uint64())),
    ]
)
"""`outcome_hash`: of answer and label. `exact_hash`: of all that a record says. Rows that could not be read are
`broken` and have no hashes."""

DECISION = pa.schema(
    [
        (s.ROW, pa.uint64()),
        (s.ID, pa.string()),
        (s.DERIVED, pa.bool_()),
        (s.SOURCE, pa.string()),
        (s.LABEL, pa.string()),
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

_IDENTITY = [s.ROW, s.ID, s.DERIVED, s.SOURCE, s.LABEL]


@dataclass(frozen=True)
class SignSettings:
    """What signing needs."""

    dedup: DedupConfig
    key: bytes


def spoken(record: dict[str, Any]) -> list[str]:
    """What user and assistant say (or the text): shared system prompts would make unlike records alike."""
    if record[s.MESSAGES] is None:
        return [record[s.TEXT] or ""]
    return [message["content"] for message in record[s.MESSAGES] if message["role"] != "system"]


def sign(table: pa.Table, settings: SignSettings) -> pa.Table:
    """Hashes of each record: `schema.READ` or `schema.PROCESSED` → `SIGNATURE`."""
    names = [s.MESSAGES, s.TEXT, s.REJECTED, s.LABEL, s.ERROR]
    records = table.select(names).to_pylist()
    broken = np.array([record[s.ERROR] is not None for record in records], dtype=bool)
    parts = [[] if bad else spoken(record) for record, bad in zip(records, broken, strict=True)]
    config = settings.dedup
    # Equal texts of a block are worked on once.
    whole = ["\n".join(part) for part in parts]
    distinct = {text: number for number, text in enumerate(dict.fromkeys(whole))}
    copy = np.array([distinct[text] for text in whole], dtype=np.int64)
    shingles = shingle(list(distinct), config.ngram, KeyedHash(settings.key, "token"))
    bands, rows = choose_bands(config.threshold, config.num_permutations)
    keys = band_keys(signatures(shingles, config.num_permutations, config.scheme), bands, rows)
    columns = {
        "broken": broken,
        **_hashes(records, parts, KeyedHash(settings.key, "dedup")),
        "bands": _lists(keys.reshape(-1), np.arange(0, keys.size + 1, bands)).take(pa.array(copy)),
        "shingles": _lists(shingles.values, shingles.offsets).take(pa.array(copy)),
    }
    arrays = [pa.array(columns[name]) if name in columns else table[name] for name in SIGNATURE.names]
    return pa.table(arrays, schema=SIGNATURE)


def _hashes(records: Sequence[dict[str, Any]], parts: Sequence[list[str]], hasher: KeyedHash) -> dict[str, Any]:
    """Columns of hashes. Each text is normalised and hashed once; what a record says is a hash of those hashes."""
    texts = {text: b"" for part in parts for text in part}
    texts |= {record[s.REJECTED]: b"" for record in records if record[s.REJECTED] is not None}
    for text, normal in zip(texts, normalize_all(list(texts)), strict=True):
        texts[text] = hasher.digest(normal)
    nothing = hasher.digest(b"")
    inputs, outcomes, labels, everything = [], [], [], []
    for record, part in zip(records, parts, strict=True):
        said = [texts[text] for text in part]
        has_answer = record[s.MESSAGES] is not None and len(said) > 1
        question, answer = (said[:-1], said[-1]) if has_answer else (said, nothing)
        label = (record[s.LABEL] or "").encode()
        rejected = nothing if record[s.REJECTED] is None else texts[record[s.REJECTED]]
        # Several preference pairs for one prompt are no contradiction.
        outcome = nothing if record[s.REJECTED] is not None else answer
        inputs.append(b"".join(question))
        outcomes.append(outcome + label)
        labels.append(label)
        everything.append(b"".join([*said, rejected, label]))
    return {
        "input_hash": hasher.uint64s(inputs),
        "outcome_hash": hasher.uint64s(outcomes),
        "label_hash": hasher.uint64s(labels),
        "exact_hash": pa.array([hasher.digest(item) for item in everything], pa.binary(16)),
    }


def _lists(values: UInt64s, offsets: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def contains(sorted_rows: UInt64s, rows: UInt64s) -> np.ndarray:
    """Which of `rows` occur in `sorted_rows`; bool [len(rows)]."""
    if not len(sorted_rows):
        return np.zeros(len(rows), dtype=bool)
    index = np.searchsorted(sorted_rows, rows)
    index[index == len(sorted_rows)] = 0
    found: np.ndarray = sorted_rows[index] == rows
    return found


def row_keys(table: pa.Table) -> UInt64s:
    """The row keys of a table; uint64 [num_rows]."""
    keys: UInt64s = table[s.ROW].to_numpy()
    return keys


def find_equal(
    blocks: Sequence[Any], num_partitions: int, *, conflicts: bool, preferred: Any, without: Any
) -> list[Any]:
    """Label conflicts and exact duplicates; references of `DECISION` tables.

    Args:
        blocks: references of `SIGNATURE` tables.
        num_partitions: of the exchange.
        conflicts: whether rows of one input with different outcomes go to review.
        preferred: reference of sorted row keys that are kept rather than others.
        without: reference of sorted row keys that take no part.
    """
    import ray

    columns = [*_IDENTITY, "input_hash", "outcome_hash", "exact_hash"]

    def partition(tables: list[pa.Table]) -> list[pa.Table]:
        table = _present(tables, ray.get(without)).select(columns)
        return [table.take(index) for index in partition_indices(table["input_hash"].to_numpy(), num_partitions)]

    def reduce(index: int, pieces: list[pa.Table]) -> pa.Table:
        return _equal_rows(_in_order(pieces, ray.get(preferred)), conflicts)

    return exchange(blocks, partition, reduce, num_partitions)


def _present(tables: list[pa.Table], without: UInt64s) -> pa.Table:
    """Rows that were read and are not among `without`."""
    table = pa.concat_tables(tables)
    keep = ~table["broken"].to_numpy() & ~contains(without, row_keys(table))
    return table.filter(pa.array(keep))


def _in_order(pieces: list[pa.Table], preferred: UInt64s) -> pa.Table:
    """Rows in order of preference for keepers: preferred ones first, then by row key."""
    if not pieces:
        return pa.table({s.ROW: pa.array([], pa.uint64())})
    table = pa.concat_tables(pieces).combine_chunks()
    rows = row_keys(table)
    return table.take(np.lexsort((rows, ~contains(preferred, rows))))


def _equal_rows(table: pa.Table, conflicts: bool) -> pa.Table:
    if not table.num_rows:
        return DECISION.empty_table()
    inputs, outcomes = table["input_hash"].to_numpy(), table["outcome_hash"].to_numpy()
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
    return pa.concat_tables([held, equal])


def decisions(
    table: pa.Table, keeper: np.ndarray, score: np.ndarray, stage: str | None, reason: str | None
) -> pa.Table:
    """`DECISION` rows for every row of `table`; `keeper`: index of each one's keeper; NaN scores become null."""
    keepers = table.select([s.ROW, s.ID, s.DERIVED]).take(keeper)
    count = table.num_rows
    arrays = [
        *(table[name] for name in _IDENTITY),
        pa.array([stage] * count, pa.string()),
        pa.array([reason] * count, pa.string()),
        *keepers.columns,
        pa.array(score, pa.float32(), from_pandas=True),
    ]
    return pa.table(arrays, schema=DECISION)


def find_near(
    blocks: Sequence[Any], config: DedupConfig, num_partitions: int, *, preferred: Any, without: Any
) -> list[Any]:
    """Near-duplicates among the rows that are not in `without`; references of `DECISION` tables.

    Rows with stage `dedup` are dropped in favour of their keeper; those without a stage are links.
    """
    import ray

    def partition(tables: list[pa.Table]) -> list[tuple[UInt64s, UInt64s]]:
        table = _present(tables, ray.get(without))
        keys = pc.list_flatten(table["bands"]).to_numpy()
        rows = np.repeat(row_keys(table), len(keys) // max(table.num_rows, 1))
        return [(keys[index], rows[index]) for index in partition_indices(keys, num_partitions)]

    def edges(index: int, pieces: list[tuple[UInt64s, UInt64s]]) -> np.ndarray:
        if not pieces:
            return np.empty((0, 2), dtype=np.uint64)
        keys, rows = (np.concatenate(column) for column in zip(*pieces, strict=True))
        return forest(star_edges(keys, rows))

    forests = exchange(blocks, partition, edges, num_partitions)
    merged = tree_reduce(forests, lambda left, right: forest(np.concatenate([left, right])))

    def candidates(tables: list[pa.Table]) -> list[pa.Table]:
        rows, roots = members(ray.get(merged))
        table = _present(tables, ray.get(without))
        table = table.filter(pa.array(contains(rows, row_keys(table))))
        table = table.select([*_IDENTITY, "label_hash", "bands", "shingles"])
        root = roots[np.searchsorted(rows, row_keys(table))]
        table = table.append_column("root", pa.array(root))
        return [table.take(index) for index in partition_indices(root, num_partitions)]

    def decide(index: int, pieces: list[pa.Table]) -> pa.Table:
        return _near_rows(_in_order(pieces, ray.get(preferred)), config.threshold)

    return exchange(blocks, candidates, decide, num_partitions)


def follow_keepers(equal: Sequence[Any], near: Sequence[Any]) -> list[Any]:
    """Give the copies of a record that turned out to be a near-duplicate that record's keeper; references.

    Args:
        equal: references of `DECISION` tables from `find_equal`.
        near: those from `find_near` on what `equal` left.
    """
    import ray

    def in_order(index: int, pieces: list[pa.Table]) -> pa.Table:
        table = pa.concat_tables([DECISION.empty_table(), *pieces])
        return table.take(np.argsort(row_keys(table))).combine_chunks()

    def dropped(tables: list[pa.Table]) -> list[pa.Table]:
        table = pa.concat_tables(tables)
        return [table.filter(pc.is_valid(table[s.STAGE]))]

    (lookup,) = exchange(near, dropped, in_order, 1)

    def follow(tables: list[pa.Table]) -> pa.Table:
        return _follow(pa.concat_tables(tables), ray.get(lookup))

    return map_blocks(equal, follow)


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


def _near_rows(table: pa.Table, threshold: float) -> pa.Table:
    """Verdicts on all candidate components of a partition, whose rows come in order of preference."""
    if not table.num_rows:
        return DECISION.empty_table()
    table = table.take(np.argsort(table["root"].to_numpy(), kind="stable")).combine_chunks()
    roots, labels = table["root"].to_numpy(), table["label_hash"].to_numpy()
    lists = table["shingles"].combine_chunks()
    values = pc.list_flatten(lists).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy(), dtype=np.int64)])
    bands = pc.list_flatten(table["bands"]).to_numpy().reshape(table.num_rows, -1)
    own = np.arange(table.num_rows)
    keeper, group, score = own.copy(), own.copy(), np.ones(table.num_rows)
    cuts = [0, *(np.flatnonzero(np.diff(roots)) + 1).tolist(), table.num_rows]
    for start, stop in itertools.pairwise(cuts):
        shingles = Shingles(values, offsets[start : stop + 1])
        verdict = verify(shingles, bands[start:stop], labels[start:stop], threshold)
        keeper[start:stop], group[start:stop] = verdict.keeper + start, verdict.group + start
        score[start:stop] = verdict.score
    unknown = np.full(table.num_rows, np.nan)
    dropped = decisions(table, keeper, score, DEDUP, NEAR).take(np.flatnonzero(keeper != own))
    links = decisions(table, group, unknown, None, None).take(np.flatnonzero(group != own))
    return pa.concat_tables([dropped, links])
