"""Weights of kept rows: of weighed down duplicates, of labels or sources, of their balance, of synthetic records.

In: a `RowMap` of the kept rows with hashes of their labels, and who duplicates whom. Out: a factor for each row by
which its own weight is multiplied. Labels and sources weigh in train only: in validation or test they would bend the
scores.

Rows of one label, source and number of duplicates have one factor. Tasks count the rows of each such kind, the driver
works out a factor for each kind, and tasks look them up: what the driver holds depends on labels, sources and sizes of
clusters alone. Counts are exact, so the factors do not depend on how the rows were cut.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ftlib.config.prepare import MixConfig, PrepareConfig
from ftlib.core.logging import get_logger
from ftlib.data import schema as s
from ftlib.data.connect import ROOT
from ftlib.data.facts import Counts
from ftlib.data.row_keys import NO_ROWS, contains, row_keys
from ftlib.data.rowmap import NO_MAP, RowMap
from ftlib.data.split import SPLIT, TRAIN
from ftlib.data.write import FACTOR, Assignment
from ftlib.runtime.exchange import exchange, gather, partition_indices
from ftlib.text.components import Edges
from ftlib.text.keyed import KeyedHash, UInt64s, mix64

logger = get_logger(__name__)


def name_hashes(names: Iterable[str], column: str) -> dict[str, int]:
    """Name of a label or source → its hash, which is never 0."""
    hasher = KeyedHash(b"ftlib", column)
    return {name: hasher.uint64(name.encode()) for name in names}


COPIES = "copies"
"""Column: kept rows of a row's cluster of duplicates."""


def cluster_copies(placed: RowMap, clusters: Sequence[Any], num_partitions: int) -> RowMap:
    """How many kept rows each kept row's cluster has.

    Args:
        placed: the kept rows.
        clusters: references of edges: the record that stands for a cluster (kept or not), and a row of it.
        num_partitions: of the exchange by cluster.
    """

    def of_rows(inputs: list[Edges]) -> pa.Table:
        edges = np.concatenate([np.empty((0, 2), dtype=np.uint64), *inputs])
        return pa.table({s.ROW: edges[:, 1], ROOT: edges[:, 0]})

    def with_root(part: pa.Table, members: pa.Table | None) -> pa.Table:
        rows = row_keys(part)
        root = rows.copy()
        if members is not None:
            found = contains(row_keys(members), rows)
            root[found] = members[ROOT].to_numpy()[np.searchsorted(row_keys(members), rows[found])]
        return pa.table({s.ROW: rows, ROOT: root})

    def by_root(tables: list[pa.Table]) -> list[pa.Table]:
        table = pa.concat_tables(tables)
        return [table.take(index) for index in partition_indices(mix64(table[ROOT].to_numpy()), num_partitions)]

    def count(index: int, pieces: list[pa.Table]) -> pa.Table:
        table = pa.concat_tables(pieces)
        _, inverse, counts = np.unique(table[ROOT].to_numpy(), return_inverse=True, return_counts=True)
        return pa.table({s.ROW: table[s.ROW], COPIES: counts[inverse]})

    rooted = placed.joined(with_root, RowMap.cut(clusters, placed.bounds, of_rows))
    counted = exchange(rooted.parts, by_root, count, num_partitions)
    return RowMap.cut(counted, placed.bounds, pa.concat_tables)


Kind = tuple[int, int, int]
"""Hash of the label (0 without one), rank of the source, kept rows of the cluster."""


def _kinds(part: pa.Table, rows: pa.Table, copies: pa.Table | None) -> tuple[list[Kind], np.ndarray]:
    """Distinct kinds of the rows of a part, and the number of each row's. `rows`: those of the part and others."""
    keys = row_keys(part)
    columns = np.stack(
        [
            rows["label_hash"].to_numpy()[np.searchsorted(row_keys(rows), keys)],
            keys >> np.uint64(s.ROW_POSITION_BITS),
            np.ones(len(keys), dtype=np.uint64) if copies is None else copies[COPIES].to_numpy().astype(np.uint64),
        ],
        axis=1,
    )
    kinds, inverse = np.unique(columns, axis=0, return_inverse=True)
    return [(label, rank, number) for label, rank, number in kinds.tolist()], inverse.reshape(-1)


def _count_kinds(part: pa.Table, rows: pa.Table, copies: pa.Table | None) -> Counter[Kind]:
    """Rows of train of each kind."""
    kinds, inverse = _kinds(part, rows, copies)
    counts = np.bincount(inverse[part[SPLIT].to_numpy() == TRAIN], minlength=len(kinds)).tolist()
    return Counter({kind: count for kind, count in zip(kinds, counts, strict=True) if count})


def mix_factors(names: UInt64s, weights: np.ndarray, config: MixConfig) -> np.ndarray:
    """Factors of `mix.balance` and `mix.weights`; float64 [num_kinds]. Rows without a label (hash 0) have 1.

    Args:
        names: hash of the label or source of each kind of train rows.
        weights: what its rows weigh already; the balance evens out the sums of these.
        config: `mix`.
    """
    factors = np.ones(len(names))
    if config.balance == "inverse_frequency":
        named = names != 0
        values, inverse = np.unique(names[named], return_inverse=True)
        sums = np.bincount(inverse, weights=weights[named], minlength=len(values))
        if len(values):
            factors[named] = (sums.sum() / len(values) / sums)[inverse]
    column = s.LABEL if config.weights_by == "label" else s.SOURCE
    for name, hashed in name_hashes(config.weights, column).items():
        factors[names == np.uint64(hashed)] *= config.weights[name]
    return factors


def genuine_factors(sources: UInt64s, weights: np.ndarray, config: MixConfig) -> np.ndarray:
    """Factors of `mix.min_genuine`; float64 [num_kinds].

    Args:
        sources: hash of the source of each kind of train rows.
        weights: what its rows weigh by all else.
        config: `mix`.
    """
    hashes = np.array(list(name_hashes(config.synthetic_sources, s.SOURCE).values()), dtype=np.uint64)
    synthetic = np.isin(sources, hashes)
    factors = np.ones(len(sources))
    genuine, generated = weights[~synthetic].sum(), weights[synthetic].sum()
    if generated > 0 and genuine > 0 and config.min_genuine > 0:
        allowed = genuine * (1 - config.min_genuine) / config.min_genuine
        factors[synthetic] = min(1.0, allowed / generated)
    return factors


@dataclass(frozen=True)
class Mixed:
    """The assignment with its factors, and what is to be said about them."""

    assignment: Assignment
    names: UInt64s
    """Hash of label or source of each kind of train rows."""
    num_rows: np.ndarray
    """int64 [num_kinds]."""
    weights: np.ndarray
    """float64 [num_kinds]: sum of the factors of its rows."""
    warnings: list[str]

    def facts(self, counts: Counts, sources: Iterable[str], by: str) -> list[dict[str, Any]]:
        """Rows of train and the sums of their factors by label or source; empty where nothing is weighted."""
        if not self.assignment.weighted_rows:
            return []
        labels = {label for _, label in counts.labels}
        known = name_hashes(labels, s.LABEL) if by == "label" else name_hashes(sources, s.SOURCE)
        found = []
        for name, hashed in sorted(known.items()):
            chosen = self.names == np.uint64(hashed)
            if chosen.any():
                weight = round(float(self.weights[chosen].sum()), 4)
                found.append({"name": name, "num_rows": int(self.num_rows[chosen].sum()), "weight": weight})
        return found


def mix_rows(
    assignment: Assignment,
    rows: RowMap,
    clusters: Sequence[Any],
    config: PrepareConfig,
    *,
    sources: Mapping[int, str],
    num_partitions: int,
) -> Mixed:
    """Work out the factors of all kept rows.

    Args:
        assignment: the kept rows and their splits.
        rows: these and others, with the hash of each one's label.
        clusters: as `cluster_copies` takes them.
        config: `dedup.action` and `mix` count.
        sources: rank → source of the input.
        num_partitions: of an exchange.
    """
    mix, placed = config.mix, assignment.placed
    weighed_down = config.dedup.enabled and config.dedup.action == "weight"
    weighted = bool(weighed_down or mix.weights or mix.balance != "none" or mix.min_genuine)
    if not weighted and not mix.synthetic_sources:
        return Mixed(assignment, NO_ROWS, np.arange(0), np.arange(0.0), [])
    copies = cluster_copies(placed, clusters, num_partitions) if weighed_down else NO_MAP
    counted = sum(gather(placed.each(_count_kinds, rows, copies), "weighing", logger), Counter[Kind]())
    kinds = sorted(counted)
    num_rows = np.array([counted[kind] for kind in kinds], dtype=np.int64)
    hashes = name_hashes(sources.values(), s.SOURCE)
    of_source = np.array([hashes[sources[rank]] for _, rank, _ in kinds], dtype=np.uint64)
    of_label = np.array([label for label, _, _ in kinds], dtype=np.uint64)
    names = of_source if mix.weights_by == "source" else of_label
    warnings = [
        *_absent("weights", mix.weights_by, mix.weights, names),
        *_absent("synthetic_sources", s.SOURCE, mix.synthetic_sources, of_source),
    ]
    if not weighted:
        return Mixed(assignment, names, num_rows, num_rows.astype(np.float64), warnings)
    factors = 1.0 / np.array([number for _, _, number in kinds])
    factors *= mix_factors(names, factors * num_rows, mix)
    factors *= genuine_factors(of_source, factors * num_rows, mix)
    synthetic = name_hashes(mix.synthetic_sources, s.SOURCE).values()
    if mix.min_genuine and np.isin(of_source, np.array(list(synthetic), dtype=np.uint64)).all():
        warnings.append("mix.min_genuine cannot be held: no record of train is genuine")
    by_kind = dict(zip(kinds, factors.tolist(), strict=True))

    def with_factors(part: pa.Table, rows: pa.Table, copies: pa.Table | None) -> pa.Table:
        kinds, inverse = _kinds(part, rows, copies)
        in_train = np.array([by_kind.get(kind, 1.0) for kind in kinds])
        elsewhere = np.array([1.0 / number for _, _, number in kinds])
        train = part[SPLIT].to_numpy() == TRAIN
        return part.append_column(FACTOR, pa.array(np.where(train, in_train[inverse], elsewhere[inverse])))

    found = replace(assignment, placed=placed.joined(with_factors, rows, copies), weighted_rows=True)
    return Mixed(found, names, num_rows, factors * num_rows, warnings)


def _absent(key: str, kind: str, wanted: Iterable[str], names: UInt64s) -> list[str]:
    """A warning for each label or source that no record of train has."""
    hashes = name_hashes(wanted, s.LABEL if kind == "label" else s.SOURCE)
    missing = sorted(name for name, hashed in hashes.items() if not (names == np.uint64(hashed)).any())
    return [f"mix.{key}: no record of train has the {kind} {name}" for name in missing]
