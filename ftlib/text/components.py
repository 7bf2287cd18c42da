"""From band keys to clusters: star edges, connected components, and verification by exact Jaccard similarity.

Documents are named by 64-bit row keys; their order is the order of preference for keepers. Nothing here compares all
pairs: a bucket of m documents gives m - 1 star edges, and a document is compared only with documents that share a
bucket with it, at most twice `MAX_WITNESSES` of them for each bucket.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ftlib.text.common import Parts
from ftlib.text.keyed import UInt64s
from ftlib.text.minhash import Shingles, jaccard
from ftlib.text.symbols import Meanings

MAX_WITNESSES = 64
"""Documents of a bucket that a new one is compared with. Without a bound, a bucket full of documents that share a
boilerplate band but are not alike costs the square of its size. Beyond it each decision takes its safe side: a document
is kept rather than dropped, and joined for the split rather than separated."""

Edges = np.ndarray[tuple[int, int], np.dtype[np.uint64]]
"""uint64 [num_edges, 2]."""


def star_edges(keys: UInt64s, rows: UInt64s) -> Edges:
    """Edges from the smallest row of each bucket to its others. `keys`, `rows`: uint64 [num_entries], any order."""
    if not len(keys):
        return np.empty((0, 2), dtype=np.uint64)
    order = np.lexsort((rows, keys))
    keys, rows = keys[order], rows[order]
    first = np.concatenate([[True], keys[1:] != keys[:-1]])
    centre = rows[np.maximum.accumulate(np.where(first, np.arange(len(keys)), 0))]
    edges: Edges = np.stack([centre, rows], axis=1)[~first]
    return edges


def components(edges: Edges) -> tuple[UInt64s, UInt64s]:
    """Rows that occur in an edge, sorted, and the smallest row of each one's connected component."""
    if not len(edges):
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.uint64)
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, index = np.unique(edges, return_inverse=True)
    index = index.reshape(-1, 2)
    graph = coo_matrix((np.ones(len(index), dtype=np.int8), (index[:, 0], index[:, 1])), shape=(len(rows), len(rows)))
    _, labels = connected_components(graph, directed=False)
    _, first = np.unique(labels, return_index=True)
    return rows, rows[first][labels]


def forest(edges: Edges) -> Edges:
    """As few edges as have the same components: each row to the smallest of its component."""
    rows, roots = components(edges)
    tree: Edges = np.stack([roots, rows], axis=1)[roots != rows]
    return tree


def members(tree: Edges) -> tuple[UInt64s, UInt64s]:
    """Like `components`, for the edges that `forest` returned: no search is needed."""
    roots = np.unique(tree[:, 0])
    rows, centres = np.concatenate([roots, tree[:, 1]]), np.concatenate([roots, tree[:, 0]])
    order = np.argsort(rows)
    return rows[order], centres[order]


@dataclass(frozen=True)
class Clusters:
    """Verdict on the documents of one candidate component, in the order given."""

    keeper: np.ndarray
    """int64 [num_docs]: index of the document that is kept in its stead; its own where it is kept."""
    score: np.ndarray
    """float64 [num_docs]: Jaccard similarity to the keeper; 1 for keepers."""
    group: np.ndarray
    """int64 [num_docs]: index of the first document of its group; documents of different groups are not alike."""


def verify(
    shingles: Shingles,
    bands: Sequence[UInt64s] | np.ndarray,
    labels: np.ndarray,
    threshold: float,
    drop_above: float | None = None,
    *,
    meanings: Meanings | None = None,
    parts: Parts | None = None,
) -> Clusters:
    """Decide for documents in order of preference which are near-duplicates of an earlier one.

    A document is dropped when it shares a bucket with a kept one, has the same label and a Jaccard similarity of at
    least `drop_above` with it: no dropped document is further from its keeper. One that says something else in symbols
    or values is kept. It joins the group of every earlier
    document (kept or dropped, whatever the label) with which it shares a bucket and a similarity of at least
    `threshold`.

    Args:
        shingles: the documents' shingle sets.
        bands: uint64, the band keys of each document.
        labels: [num_docs]; documents whose labels (or verdicts) differ never stand for each other.
        threshold: smallest similarity of near-duplicates.
        drop_above: smallest similarity at which one is dropped; `threshold` by default.
        meanings: what the shingles leave out; by default nothing.
        parts: the same shingle sets, cut by what the records of a source have in common; by default nothing.
    """
    drop_above = threshold if drop_above is None else drop_above
    count = len(shingles)
    alike = _comparison(shingles, threshold, parts, meanings)
    keeper, score = np.arange(count), np.ones(count)
    parents = list(range(count))
    buckets: dict[int, _Bucket] = defaultdict(_Bucket)
    for document in range(count):
        shared = [buckets[key] for key in bands[document].tolist()]
        similarity: dict[int, float] = {}
        for other in itertools.chain.from_iterable(bucket.kept for bucket in shared):
            if other not in similarity:
                similarity[other] = alike(document, other)
                if similarity[other] >= threshold:
                    _union(parents, document, other)
        for other in itertools.chain.from_iterable(bucket.dropped for bucket in shared):
            if other not in similarity and _find(parents, other) != _find(parents, document):
                similarity[other] = alike(document, other)
                if similarity[other] >= threshold:
                    _union(parents, document, other)
        keepers = [
            other
            for other, value in similarity.items()
            if value >= drop_above
            and keeper[other] == other
            and labels[other] == labels[document]
            and not (meanings is not None and meanings.differ(document, other, value))
        ]
        if keepers:
            best = min(keepers, key=lambda other: (-similarity[other], other))
            keeper[document], score[document] = best, similarity[best]
        for bucket in shared:
            if bucket.overflowed and all(value < threshold for value in similarity.values()):
                _union(parents, document, bucket.kept[0])
            bucket.add(document, kept=not keepers)
    return Clusters(keeper, score, np.array([_find(parents, document) for document in range(count)], dtype=np.int64))


def _comparison(
    shingles: Shingles, threshold: float, parts: Parts | None, meanings: Meanings | None
) -> Callable[[int, int], float]:
    """The similarity of two documents, by their numbers."""
    if parts is None:
        return lambda left, right: jaccard(shingles.of(left), shingles.of(right))

    def compare(left: int, right: int) -> float:
        value = parts.alike(left, right, threshold)
        templated = parts.templated[left] or parts.templated[right]
        # Forms with other values are other records: linked, all records of a form would share a side of the split.
        return 0.0 if value and templated and meanings is not None and meanings.differ(left, right, value) else value

    return compare


def nearest_reference(
    shingles: Shingles,
    bands: Sequence[UInt64s] | np.ndarray,
    is_reference: np.ndarray,
    threshold: float,
    *,
    meanings: Meanings | None = None,
    parts: Parts | None = None,
    verdicts: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """For each document that is none of a reference corpus, the most similar one that is.

    Args:
        shingles: the documents' shingle sets.
        bands: uint64, the band keys of each document; documents are compared where they share a bucket.
        is_reference: bool [num_docs].
        threshold: smallest similarity that counts.
        meanings: what the shingles leave out: documents that differ in it are not alike.
        parts: as for `verify`.
        verdicts: uint64 [num_docs]: of judged documents, 0 for others; two that have another one are not alike.

    Returns:
        int64 [num_docs]: index of the reference document, -1 without one; float64 [num_docs]: the similarity, or 0.
    """
    nearest, score = np.full(len(shingles), -1), np.zeros(len(shingles))
    alike = _comparison(shingles, threshold, parts, meanings)
    buckets: dict[int, list[int]] = defaultdict(list)
    for reference in np.flatnonzero(is_reference).tolist():
        for key in bands[reference].tolist():
            if len(buckets[key]) < MAX_WITNESSES:
                buckets[key].append(reference)
    for document in np.flatnonzero(~is_reference).tolist():
        shared = {other for key in bands[document].tolist() for other in buckets.get(key, ())}
        for other in sorted(shared):
            value = alike(document, other)
            if verdicts is not None and 0 != verdicts[document] != verdicts[other] != 0:
                continue
            if meanings is not None and meanings.differ(document, other, value):
                continue
            if value >= threshold and value > score[document]:
                nearest[document], score[document] = other, value
    return nearest, score


class _Bucket:
    """The documents of one bucket seen so far that later ones are compared with."""

    __slots__ = ("dropped", "kept", "overflowed")

    def __init__(self) -> None:
        self.kept: list[int] = []
        self.dropped: list[int] = []
        self.overflowed = False

    def add(self, document: int, kept: bool) -> None:
        members = self.kept if kept else self.dropped
        if len(members) < MAX_WITNESSES:
            members.append(document)
        else:
            self.overflowed = True


def _find(parents: list[int], item: int) -> int:
    while parents[item] != item:
        parents[item] = parents[parents[item]]
        item = parents[item]
    return item


def _union(parents: list[int], left: int, right: int) -> None:
    """Join two groups under the smaller root, so that a group is named by its first document."""
    left, right = _find(parents, left), _find(parents, right)
    parents[max(left, right)] = min(left, right)
