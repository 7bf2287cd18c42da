"""Clusters against brute force: components against a search, near-duplicates against all pairs."""

import itertools

import numpy as np
import pytest

from ftlib.text.components import (
    MAX_WITNESSES,
    components,
    forest,
    members,
    nearest_reference,
    star_edges,
    verify,
)
from ftlib.text.keyed import KeyedHash
from ftlib.text.minhash import Shingles, band_keys, jaccard, shingle, signatures


def search(edges):
    """Components by depth-first search: {row: smallest row}."""
    near = {}
    for left, right in edges:
        near.setdefault(int(left), set()).add(int(right))
        near.setdefault(int(right), set()).add(int(left))
    root = {}
    for start in sorted(near):
        stack = [start]
        while stack:
            row = stack.pop()
            if row not in root:
                root[row] = start
                stack.extend(near[row])
    return root


@pytest.fixture
def edges():
    generator = np.random.default_rng(3)
    return generator.integers(0, 2**63, size=400, dtype=np.uint64)[generator.integers(0, 400, size=(300, 2))]


def test_components_equal_a_search(edges):
    rows, roots = components(edges)
    assert dict(zip(rows.tolist(), roots.tolist(), strict=True)) == search(edges)


def test_members_of_a_forest_are_its_components(edges):
    rows, roots = members(forest(edges))
    expected_rows, expected_roots = components(edges[edges[:, 0] != edges[:, 1]])
    assert np.array_equal(rows, expected_rows)
    assert np.array_equal(roots, expected_roots)
    assert len(members(np.empty((0, 2), dtype=np.uint64))[0]) == 0


def test_a_forest_has_the_same_components_and_no_cycle(edges):
    tree = forest(edges)
    kept = {row: root for row, root in search(edges).items() if row != root or row in tree}
    assert search(tree) == kept
    assert len(tree) == len(set(tree[:, 1].tolist()))


def test_merging_forests_of_parts_equals_the_whole(edges):
    parts = [forest(part) for part in np.array_split(edges, 5)]
    assert search(forest(np.concatenate(parts))) == search(forest(edges))


def test_star_edges_are_fewer_than_pairs_and_connect_each_bucket():
    keys = np.array([5, 5, 5, 9, 5, 9, 1], dtype=np.uint64)
    rows = np.array([30, 10, 20, 7, 40, 8, 3], dtype=np.uint64)
    assert star_edges(keys, rows).tolist() == [[10, 20], [10, 30], [10, 40], [7, 8]]


def test_nothing():
    none = np.empty(0, dtype=np.uint64)
    assert star_edges(none, none).shape == (0, 2)
    assert forest(np.empty((0, 2), dtype=np.uint64)).shape == (0, 2)


def corpus(seed, num_docs=120):
    """Documents in families that differ in a few words, chained so that similarity is not transitive."""
    generator = np.random.default_rng(seed)
    vocabulary = [f"w{i}" for i in range(500)]
    texts = []
    for _ in range(num_docs // 6):
        words = generator.choice(vocabulary, 60).tolist()
        for _ in range(6):
            texts.append(" ".join(words))
            words[int(generator.integers(0, 60))] = str(generator.choice(vocabulary))
    return texts


def verified(texts, threshold, labels=None, bands=32, rows=4):
    shingles = shingle(texts, 3, KeyedHash(b"k" * 32, "token"))
    keys = band_keys(signatures(shingles, 128), bands, rows)
    labels = np.zeros(len(texts), dtype=np.uint64) if labels is None else labels
    return shingles, verify(shingles, keys, labels, threshold)


@pytest.mark.parametrize("seed", range(4))
def test_clusters_against_all_pairs(seed):
    """With bands that miss nothing here: keepers are close, kept documents are not, groups hold all that is close."""
    threshold = 0.8
    shingles, found = verified(corpus(seed), threshold)
    count = len(shingles)
    similar = {(i, j): jaccard(shingles.of(i), shingles.of(j)) for i, j in itertools.combinations(range(count), 2)}
    assert any(value >= threshold for value in similar.values())
    for document in range(count):
        keeper = int(found.keeper[document])
        assert found.keeper[keeper] == keeper
        if keeper != document:
            assert keeper < document
            assert found.score[document] == pytest.approx(similar[keeper, document])
            assert found.score[document] >= threshold
    kept = np.flatnonzero(found.keeper == np.arange(count))
    assert all(similar[i, j] < threshold for i, j in itertools.combinations(kept.tolist(), 2))
    expected = search([pair for pair, value in similar.items() if value >= threshold])
    assert found.group.tolist() == [expected.get(i, i) for i in range(count)]


def test_above_a_band_is_dropped_and_within_it_is_kept_in_one_group():
    texts = corpus(1)
    shingles = shingle(texts, 3, KeyedHash(b"k" * 32, "token"))
    keys = band_keys(signatures(shingles, 128), 32, 4)
    labels = np.zeros(len(texts), dtype=np.uint64)
    every, above = verify(shingles, keys, labels, 0.6), verify(shingles, keys, labels, 0.6, 0.9)
    own = np.arange(len(texts))
    assert 0 < (above.keeper != own).sum() < (every.keeper != own).sum()
    assert all(above.score[above.keeper != own] >= 0.9)
    assert np.array_equal(above.group, every.group)
    kept = np.flatnonzero(above.keeper == own).tolist()
    pairs = [jaccard(shingles.of(i), shingles.of(j)) for i, j in itertools.combinations(kept, 2)]
    assert max(pairs) < 0.9 and sum(value >= 0.6 for value in pairs) > 0


@pytest.mark.parametrize("seed", range(3))
def test_nearest_reference_against_all_pairs(seed):
    texts = corpus(seed)
    shingles = shingle(texts, 3, KeyedHash(b"k" * 32, "token"))
    keys = band_keys(signatures(shingles, 128), 32, 4)
    is_reference = np.random.default_rng(seed).random(len(texts)) < 0.3
    nearest, score = nearest_reference(shingles, keys, is_reference, 0.8)
    for document in range(len(texts)):
        similar = [
            jaccard(shingles.of(document), shingles.of(other)) if is_reference[other] else 0.0
            for other in range(len(texts))
        ]
        if is_reference[document] or max(similar) < 0.8:
            assert nearest[document] == -1 and score[document] == 0
        else:
            assert is_reference[nearest[document]]
            assert score[document] == similar[nearest[document]] == max(similar)
    assert (nearest >= 0).any()


def test_documents_of_different_labels_stay_but_keep_together():
    texts = corpus(0)[:1] * 4
    _, found = verified(texts, 0.8, np.array([1, 2, 1, 2], dtype=np.uint64))
    assert found.keeper.tolist() == [0, 1, 0, 1]
    assert found.group.tolist() == [0, 0, 0, 0]


def test_a_full_bucket_keeps_what_it_did_not_compare_and_groups_it():
    """All share one bucket and nothing else: beyond the witnesses nothing is dropped, and nothing is separated."""
    count = 2 * MAX_WITNESSES + 5
    values = np.arange(count * 10, dtype=np.uint64)
    shingles = Shingles(values, np.arange(0, len(values) + 1, 10))
    bands = np.zeros((count, 1), dtype=np.uint64)
    found = verify(shingles, bands, np.zeros(count, dtype=np.uint64), 0.8)
    assert found.keeper.tolist() == list(range(count))
    assert set(found.group[MAX_WITNESSES + 1 :].tolist()) == {0}
    assert found.group[1:MAX_WITNESSES].tolist() == list(range(1, MAX_WITNESSES))
