"""Connected components of edges between rows, without a task that holds them all.

In: references of edge arrays (uint64 [num_edges, 2], row keys). Out: a `RowMap` with the column `root`: for each row
that occurs in an edge the smallest row of its component.

Each array is contracted to its spanning forest. Few edges are then joined by one task. More go through rounds of
large-star and small-star (Kiveris et al., "Connected Components in MapReduce and Beyond", 2014): each row points its
larger neighbours to the smallest of its neighbourhood, then itself and its smaller neighbours to it, until nothing
changes. A round is two exchanges; the number of rounds grows with the logarithm of a component's diameter. Memory: a
task holds the edges of its rows, so the row with the most neighbours is the limit.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ftlib.core.logging import get_logger
from ftlib.data import schema as s
from ftlib.data.rowmap import NO_MAP, Fingerprint, RowMap
from ftlib.runtime.exchange import exchange, gather, partition_indices, tree_reduce
from ftlib.text.components import Edges, forest, members
from ftlib.text.keyed import UInt64s, mix64

logger = get_logger(__name__)

ROOT = "root"
EDGES_AT_ONCE = 4_000_000
"""Edges of forests that one task joins: 64 MB, and about 20 s."""


def connect(edges: Sequence[Any], bounds: UInt64s, num_partitions: int, at_once: int | None = None) -> RowMap:
    """Root of each row. `bounds`: of the map; `at_once`: edges beyond which the work is spread."""
    import ray

    if not edges:
        return NO_MAP
    contract = ray.remote(num_returns=2)(_contract)
    pairs = [contract.remote(array) for array in edges]
    trees = [tree for tree, _ in pairs]
    num_edges = sum(gather([size for _, size in pairs], "joining duplicates", logger))
    if num_edges <= (EDGES_AT_ONCE if at_once is None else at_once):
        stars = [tree_reduce(trees, _join)]
        return RowMap.cut(stars, bounds, _members)
    stars = _stars(trees, num_partitions)
    return RowMap.cut(stars, bounds, _members, _one_each)


def _contract(edges: Edges) -> tuple[Edges, int]:
    tree = forest(edges)
    return tree, len(tree)


def _join(left: Edges, right: Edges) -> Edges:
    return forest(np.concatenate([left, right]))


def _members(trees: list[Edges]) -> pa.Table:
    rows, roots = members(np.concatenate(trees))
    return pa.table({s.ROW: rows, ROOT: roots})


def _one_each(_: int, part: pa.Table) -> pa.Table:
    """A root is named by each task that saw one of its rows."""
    rows = part[s.ROW].to_numpy()
    return part.filter(pa.array(np.concatenate([np.ones(min(len(rows), 1), dtype=bool), rows[1:] != rows[:-1]])))


def _stars(trees: Sequence[Any], num_partitions: int) -> list[Any]:
    """References of edges from the root of each component to its other rows."""
    import ray

    def to_both_ends(inputs: list[Edges]) -> list[Edges]:
        edges = np.concatenate(inputs)
        both = np.concatenate([edges, edges[:, ::-1]])
        return [both[index] for index in partition_indices(mix64(both[:, 0]), num_partitions)]

    def to_larger_end(inputs: list[Edges]) -> list[Edges]:
        edges = np.concatenate(inputs)
        return [edges[index] for index in partition_indices(mix64(edges[:, 1]), num_partitions)]

    mark, before = ray.remote(_mark), None
    parts = list(trees)
    for number in range(1, 65):
        large = exchange(parts, to_both_ends, lambda _, pieces: large_star(np.concatenate(pieces)), num_partitions)
        parts = exchange(large, to_larger_end, lambda _, pieces: small_star(np.concatenate(pieces)), num_partitions)
        found = sum(gather([mark.remote(part) for part in parts], f"joining, round {number}", logger), Fingerprint())
        if found == before:
            return parts
        before = found
    raise RuntimeError("the components of duplicates did not settle in 64 rounds")


def _mark(edges: Edges) -> Fingerprint:
    return Fingerprint.of(edges[:, 0] ^ mix64(edges[:, 1]))


def large_star(edges: Edges) -> Edges:
    """Edges (row, neighbour), all of each row → edges from the smallest of row and neighbours to the larger ones."""
    if not len(edges):
        return edges
    edges, first, number = _by_row(edges)
    least = np.minimum(np.minimum.reduceat(edges[:, 1], first), edges[first, 0])[number]
    larger = edges[:, 1] > edges[:, 0]
    return np.unique(np.stack([least[larger], edges[larger, 1]], axis=1), axis=0)


def small_star(edges: Edges) -> Edges:
    """Edges (smaller, row), all of each row → edges from the smallest neighbour to the row and its other neighbours."""
    if not len(edges):
        return edges
    edges, first, number = _by_row(edges[:, ::-1])
    least = np.minimum.reduceat(edges[:, 1], first)
    own = np.stack([least, edges[first, 0]], axis=1)
    others = np.stack([least[number], edges[:, 1]], axis=1)
    return np.unique(np.concatenate([own, others[others[:, 0] != others[:, 1]]]), axis=0)


def _by_row(edges: Edges) -> tuple[Edges, np.ndarray, np.ndarray]:
    """Edges sorted by their first row, where each row begins, and the number of each edge's row."""
    edges = edges[np.argsort(edges[:, 0], kind="stable")]
    begins = np.concatenate([[True], edges[1:, 0] != edges[:-1, 0]])
    return edges, np.flatnonzero(begins), np.cumsum(begins) - 1
