"""Weights of kept rows: of weighed down duplicates, of labels or sources, of their balance, of synthetic records.

In: sorted row keys with the hash of each row's label or source, and who duplicates whom. Out: a factor for each row by
which its own weight is multiplied. Labels and sources weigh in train only: in validation or test they would bend the
scores.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ftlib.config.prepare import MixConfig, PrepareConfig
from ftlib.data import schema as s
from ftlib.data.dedup import contains
from ftlib.data.facts import Counts
from ftlib.data.split import TRAIN
from ftlib.data.write import Assignment
from ftlib.text.components import Edges
from ftlib.text.keyed import KeyedHash, UInt64s


def name_hashes(names: Iterable[str], column: str) -> dict[str, int]:
    """Name of a label or source → its hash, which is never 0."""
    hasher = KeyedHash(b"ftlib", column)
    return {name: hasher.uint64(name.encode()) for name in names}


def source_hashes(rows: UInt64s, sources: Mapping[int, str]) -> UInt64s:
    """Hash of the source of each row. `sources`: rank, which is in the row keys, → name."""
    names = name_hashes(sources.values(), s.SOURCE)
    hashes = np.zeros(max(sources, default=0) + 1, dtype=np.uint64)
    for rank, name in sources.items():
        hashes[rank] = names[name]
    found: UInt64s = hashes[(rows >> np.uint64(s.ROW_POSITION_BITS)).astype(np.int64)]
    return found


def cluster_factors(rows: UInt64s, clusters: Edges) -> np.ndarray:
    """1 / number of kept rows of its cluster; float64 [num_rows].

    Args:
        rows: kept row keys, sorted.
        clusters: uint64 [num_pairs, 2]: the record that stands for a cluster (kept or not), and a row of it.
    """
    root = rows.copy()
    inside = clusters[contains(rows, clusters[:, 1])] if len(clusters) else clusters
    root[np.searchsorted(rows, inside[:, 1])] = inside[:, 0]
    _, inverse, counts = np.unique(root, return_inverse=True, return_counts=True)
    factors: np.ndarray = 1.0 / counts[inverse]
    return factors


def mix_factors(names: UInt64s, weights: np.ndarray, config: MixConfig) -> np.ndarray:
    """Factors of `mix.balance` and `mix.weights`; float64 [num_rows]. Rows without a label (hash 0) have 1.

    Args:
        names: hash of each train row's label or source.
        weights: what each weighs already; the balance evens out the sums of these.
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
    """Factors of `mix.min_genuine`; float64 [num_rows].

    Args:
        sources: hash of each train row's source.
        weights: what each weighs by all else.
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
    """Hash of label or source of each train row."""
    weights: np.ndarray
    """Factor of each train row."""
    warnings: list[str]

    def facts(self, counts: Counts, sources: Iterable[str], by: str) -> list[dict[str, Any]]:
        """Rows of train and the sums of their factors by label or source; empty where nothing is weighted."""
        if self.assignment.factors is None:
            return []
        labels = {label for _, label in counts.labels}
        known = name_hashes(labels, s.LABEL) if by == "label" else name_hashes(sources, s.SOURCE)
        return mix_facts(self.names, self.weights, known)


def mix_rows(
    assignment: Assignment, labels: UInt64s, clusters: Edges, config: PrepareConfig, sources: Mapping[int, str]
) -> Mixed:
    """Work out the factors of all kept rows.

    Args:
        assignment: the kept rows and their splits.
        labels: hash of each one's label, 0 without one.
        clusters: as `cluster_factors` takes them.
        config: `dedup.action` and `mix` count.
        sources: rank → source of the input.
    """
    mix, rows = config.mix, assignment.rows
    by_source = mix.weights_by == "source"
    train = assignment.splits == TRAIN
    of_source = source_hashes(rows, sources)[train]
    names = of_source if by_source else labels[train]
    warnings = [
        *_absent("weights", mix.weights_by, mix.weights, names),
        *_absent("synthetic_sources", s.SOURCE, mix.synthetic_sources, of_source),
    ]
    weighed_down = config.dedup.enabled and config.dedup.action == "weight"
    if not (weighed_down or mix.weights or mix.balance != "none" or mix.min_genuine):
        return Mixed(assignment, names, np.ones(len(names)), warnings)
    factors = cluster_factors(rows, clusters)
    factors[train] *= mix_factors(names, factors[train], mix)
    factors[train] *= genuine_factors(of_source, factors[train], mix)
    synthetic = name_hashes(mix.synthetic_sources, s.SOURCE).values()
    if mix.min_genuine and np.isin(of_source, np.array(list(synthetic), dtype=np.uint64)).all():
        warnings.append("mix.min_genuine cannot be held: no record of train is genuine")
    return Mixed(replace(assignment, factors=factors.astype(np.float32)), names, factors[train], warnings)


def _absent(key: str, kind: str, wanted: Iterable[str], names: UInt64s) -> list[str]:
    """A warning for each label or source that no record of train has."""
    hashes = name_hashes(wanted, s.LABEL if kind == "label" else s.SOURCE)
    missing = sorted(name for name, hashed in hashes.items() if not (names == np.uint64(hashed)).any())
    return [f"mix.{key}: no record of train has the {kind} {name}" for name in missing]


def mix_facts(names: UInt64s, weights: np.ndarray, known: Mapping[str, int]) -> list[dict[str, Any]]:
    """Rows of train and the sum of their weights by label or source. `known`: name → hash."""
    found = []
    for name, hashed in sorted(known.items()):
        chosen = names == np.uint64(hashed)
        if chosen.any():
            total = float(weights[chosen].sum(dtype=np.float64))
            found.append({"name": name, "num_rows": int(chosen.sum()), "weight": round(total, 4)})
    return found
