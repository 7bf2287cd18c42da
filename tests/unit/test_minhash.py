"""MinHash signatures against datasketch, shingles and the S-curve against their definitions."""

import numpy as np
import pytest
from datasketch import MinHash

from ftlib.text.keyed import KeyedHash
from ftlib.text.minhash import (
    MAX_MISS,
    Shingles,
    band_keys,
    choose_bands,
    collision_probability,
    expected_recall,
    jaccard,
    permutations,
    shingle,
    signatures,
)
from ftlib.text.normalize import normalize, normalize_all
from ftlib.text.words import hash_words, words

HASHER = KeyedHash(b"k" * 32, "token")
SENTENCES = [
    "The quick brown fox jumps over the lazy dog and runs away",
    "The quick brown fox jumps over the lazy dog and walks home",
    "short one",
    "",
    "!!! ???",
    "Ünïcode Straße ﬁne text with ligatures and more words than five",
]


@pytest.mark.parametrize("scheme", ["affine32", "legacy"])
@pytest.mark.parametrize("num_permutations", [16, 128])
def test_signatures_equal_datasketch_bit_for_bit(scheme, num_permutations):
    shingles = shingle(SENTENCES, 5, HASHER)
    ours = signatures(shingles, num_permutations, scheme)
    for document in range(len(SENTENCES)):
        theirs = MinHash(num_perm=num_permutations, scheme=scheme, hashfunc=lambda value: value)
        for value in shingles.of(document):
            theirs.update(int(value) & 0xFFFFFFFF)
        assert ours[document].tolist() == theirs.hashvalues.tolist()


@pytest.mark.parametrize("scheme", ["affine32", "legacy"])
def test_permutations_equal_datasketch(scheme):
    a, b = permutations(64, scheme)
    theirs = MinHash(num_perm=64, scheme=scheme).permutations
    assert np.array_equal(a, theirs[0])
    assert np.array_equal(b, theirs[1])


def test_shingles_are_word_ngrams():
    """As many distinct shingles as there are distinct n-grams, and the same Jaccard similarity as on the words."""

    def grams(text):
        found = words(text)
        return {tuple(found[i : i + 5]) for i in range(max(len(found) - 4, 1))}

    texts = [*SENTENCES, "a b c a b c a b c a b c a b c", "a b c d e", "a b c d"]
    shingles = shingle(texts, 5, HASHER)
    for i, left in enumerate(texts):
        assert len(shingles.of(i)) == len(grams(left))
        for j, right in enumerate(texts):
            both = len(grams(left) & grams(right)) / len(grams(left) | grams(right))
            assert jaccard(shingles.of(i), shingles.of(j)) == pytest.approx(both)


def test_short_documents_do_not_take_a_neighbours_minimum():
    """`reduceat` on an empty segment returns the next document's value: every document must have a shingle."""
    texts = ["one", "two three", "", "a long document with many more words than the length of an n-gram", "zzz"]
    together = signatures(shingle(texts, 5, HASHER), 32)
    for i, text in enumerate(texts):
        assert np.array_equal(together[i], signatures(shingle([text], 5, HASHER), 32)[0])
    assert len(np.unique(together, axis=0)) == len(texts)


def test_a_batch_does_not_change_a_documents_shingles():
    alone = [shingle([text], 5, HASHER).of(0) for text in SENTENCES]
    batch = shingle(SENTENCES[::-1], 5, HASHER)
    for i, expected in enumerate(alone):
        assert np.array_equal(batch.of(len(SENTENCES) - 1 - i), expected)


def test_the_key_changes_every_hash():
    texts = [text for text in SENTENCES if words(text)]
    other = shingle(texts, 5, KeyedHash(b"x" * 32, "token"))
    assert not np.intersect1d(other.values, shingle(texts, 5, HASHER).values).size


def test_no_documents():
    empty = shingle([], 5, HASHER)
    assert len(empty) == 0
    assert signatures(empty, 16).shape == (0, 16)


def test_equal_rows_of_different_bands_have_different_keys():
    keys = band_keys(np.full((1, 128), 7, dtype=np.uint32), 16, 8)
    assert len(set(keys[0].tolist())) == 16


def test_a_band_key_depends_on_every_row_of_its_band():
    base = np.arange(24, dtype=np.uint32).reshape(1, 24)
    keys = band_keys(base, 4, 6)
    for column in range(24):
        changed = base.copy()
        changed[0, column] += 1
        assert np.flatnonzero(band_keys(changed, 4, 6) != keys).tolist() == [column // 6]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_are_the_longest_that_miss_seldom(threshold):
    bands, rows = choose_bands(threshold, 128)
    assert bands * rows <= 128
    assert collision_probability(threshold, bands, rows) >= 1 - MAX_MISS
    longer = rows + 1
    if longer <= 128:
        assert collision_probability(threshold, 128 // longer, longer) < 1 - MAX_MISS


def test_collision_probability_against_sampling():
    """Documents of known similarity share a band as often as the S-curve says."""
    generator = np.random.default_rng(0)
    bands, rows, trials = 8, 4, 2000
    values = np.sort(generator.choice(2**32, size=(trials, 30), replace=False).astype(np.uint64), axis=1)
    left, right = values[:, :25], values[:, 5:]  # 20 of 30 in common
    flat = [Shingles(part.reshape(-1), np.arange(0, part.size + 1, part.shape[1])) for part in (left, right)]
    keys = [band_keys(signatures(part, 32), bands, rows) for part in flat]
    shared = (keys[0] == keys[1]).any(axis=1).mean()
    assert shared == pytest.approx(collision_probability(20 / 30, bands, rows), abs=0.04)


def test_expected_recall_begins_at_the_threshold_and_never_falls():
    found = expected_recall(0.83, 128)
    bands, rows = choose_bands(0.83, 128)
    assert list(found) == ["0.83", "0.85", "0.90", "0.95", "1.00"]
    assert found["0.83"] == pytest.approx(1 - (1 - 0.83**rows) ** bands, abs=1e-4)
    assert list(found.values()) == sorted(found.values()) and found["1.00"] == 1


@pytest.mark.parametrize(
    ("left", "right"),
    [("Hello   World", "hello world"), ("ﬁle №1", "file no1"), ("a\u00a0b\n\tc", "A B C"), ("É", "é")],
)
def test_normalized_alike(left, right):
    assert normalize(left) == normalize(right)


TEXTS = [
    *SENTENCES,
    "  Two  spaces,\ttabs\n\n and a_b-c 42  ",
    "\u201cquotes\u201d \u2014 na\u00efve caf\u00e9s \u0130stanbul \u00df \ufb01ne \u2460 \u4f60\u597d \U0001f600",
    "zero\0byte and \x1cseparators\x1f here\x85there\u2028end",
    "! ! ! ! ! ! !",
    "\u2014 \u2014",
    "a\u0301 combining, \u0663\u0664 digits",
    "   ",
    "A" * 3000,
]


def test_words_of_many_texts_are_those_of_each():
    """Array operations against the regular expression, whatever stands next to a text."""
    tokens, offsets = hash_words(TEXTS, HASHER)
    for i, text in enumerate(TEXTS):
        expected = HASHER.uint64s(word.encode() for word in words(text))
        assert np.array_equal(tokens[offsets[i] : offsets[i + 1]], expected)
    assert hash_words([], HASHER)[1].tolist() == [0]


def test_normalizing_many_texts_is_normalizing_each():
    assert normalize_all(TEXTS) == [normalize(text).encode() for text in TEXTS]
    assert normalize_all([]) == []
