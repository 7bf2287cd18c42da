"""MinHash signatures of many documents at once (Broder 1997), with datasketch's permutations.

In: texts. Out, in CSR layout: the sorted distinct 64-bit hashes of each text's word n-grams, then signatures
[num_docs, num_permutations] and band keys [num_docs, num_bands]. Tokens are hashed under a key, once per batch and
distinct token; an n-gram's hash is a polynomial of its tokens' hashes modulo 2^64, mixed. A text with fewer than n
words is one shingle (and so equals only its like): no segment is empty, for which `np.minimum.reduceat` would return
the neighbour's value. Cost: about 2 ns for each shingle and permutation.

Signatures are those that `datasketch.MinHash(scheme=…, seed=1)` gives for the same 32-bit hash values. Bands and rows
follow from the S-curve `1 - (1 - s^r)^b`: the chance that a pair of similarity `s` shares a band. Every pair found is
verified on its exact shingle sets, so only misses matter: the longest rows are taken whose chance of a miss at the
threshold is at most `MAX_MISS`.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ftlib.text.keyed import KeyedHash, UInt64s, mix64
from ftlib.text.words import hash_words

Scheme = Literal["affine32", "legacy"]
MAX_MISS = 0.01
PERMUTATION_SEED = 1

_BASE = np.uint64(0x9E3779B97F4A7C15)
_LENGTH_SALT = np.uint64(0xD6E8FEB86659FD93)
_MERSENNE_PRIME = np.uint64((1 << 61) - 1)
_MASK32 = np.uint64((1 << 32) - 1)


@dataclass(frozen=True)
class Shingles:
    """Distinct shingle hashes of documents: those of document i are `values[offsets[i]:offsets[i + 1]]`, sorted."""

    values: UInt64s
    """uint64 [num_shingles]."""
    offsets: np.ndarray
    """int64 [num_docs + 1], strictly increasing: every document has a shingle."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, document: int) -> UInt64s:
        """The sorted distinct shingles of one document."""
        found: UInt64s = self.values[self.offsets[document] : self.offsets[document + 1]]
        return found


def shingle(texts: Sequence[str], ngram: int, hasher: KeyedHash) -> Shingles:
    """Hash the word n-grams of each text."""
    return shingle_words(*hash_words(texts, hasher), ngram)


def shingle_words(tokens: UInt64s, bounds: np.ndarray, ngram: int) -> Shingles:
    """Combine hashed words, as `hash_words` gives them, to n-grams."""
    grams = ngram_hashes(tokens, ngram)
    parts: list[UInt64s] = []
    for start, stop in itertools.pairwise(bounds.tolist()):
        if stop - start >= ngram:
            part = grams[start : stop - ngram + 1]
            part.sort()
            parts.append(part)
        else:
            parts.append(_short(tokens[start:stop]))
    if not parts:
        return Shingles(np.empty(0, dtype=np.uint64), np.zeros(1, dtype=np.int64))
    values = np.concatenate(parts)
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts[:-1]], dtype=np.int64)])
    fresh = np.concatenate([[True], values[1:] != values[:-1]])
    fresh[starts] = True
    offsets = np.concatenate([[0], np.cumsum(np.add.reduceat(fresh, starts, dtype=np.int64))])
    return Shingles(values[fresh], offsets)


def ngram_hashes(tokens: UInt64s, ngram: int) -> UInt64s:
    """Hash of the n-gram that begins at each token; those that reach into the next document are not used."""
    count = max(len(tokens) - ngram + 1, 0)
    total = np.zeros(count, dtype=np.uint64)
    for i in range(ngram):
        np.multiply(total, _BASE, out=total)
        np.add(total, tokens[i : i + count], out=total)
    return mix64(total)


def _short(tokens: UInt64s) -> UInt64s:
    """The one shingle of a document that has fewer words than an n-gram, salted with its length."""
    total = np.full(1, (len(tokens) + 1) * int(_LENGTH_SALT) & (2**64 - 1), dtype=np.uint64)
    for token in tokens:
        total = total * _BASE + token
    return mix64(total)


@functools.lru_cache(maxsize=8)
def permutations(num_permutations: int, scheme: Scheme = "affine32") -> tuple[np.ndarray, np.ndarray]:
    """Multipliers and offsets as datasketch draws them; uint32 (affine32) or uint64 (legacy) [num_permutations]."""
    generator = np.random.RandomState(PERMUTATION_SEED)
    if scheme == "affine32":
        a = generator.randint(0, 1 << 31, num_permutations, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        return a, generator.randint(0, 1 << 32, num_permutations, dtype=np.uint32)
    pairs = [
        (
            generator.randint(1, _MERSENNE_PRIME, dtype=np.uint64),
            generator.randint(0, _MERSENNE_PRIME, dtype=np.uint64),
        )
        for _ in range(num_permutations)
    ]
    both = np.array(pairs, dtype=np.uint64).T
    return both[0], both[1]


def signatures(shingles: Shingles, num_permutations: int, scheme: Scheme = "affine32") -> np.ndarray:
    """Minimum of each permutation over each document's shingles; uint32 [num_docs, num_permutations]."""
    out = np.empty((num_permutations, len(shingles)), dtype=np.uint32)
    if not len(shingles):
        return out.T
    a, b = permutations(num_permutations, scheme)
    starts = shingles.offsets[:-1]
    values = (shingles.values & _MASK32).astype(np.uint32) if scheme == "affine32" else shingles.values & _MASK32
    if scheme == "affine32":
        values = _fmix32(values)
    hashed = np.empty_like(values)
    for i in range(num_permutations):
        np.multiply(values, a[i], out=hashed)
        np.add(hashed, b[i], out=hashed)
        if scheme == "legacy":
            np.bitwise_and(hashed % _MERSENNE_PRIME, _MASK32, out=hashed)
        out[i] = np.minimum.reduceat(hashed, starts)
    return np.ascontiguousarray(out.T)


def _fmix32(values: np.ndarray) -> np.ndarray:
    """MurmurHash3's 32-bit finalizer, which datasketch applies before affine permutations."""
    values = values ^ (values >> np.uint32(16))
    values = values * np.uint32(0x85EBCA6B)
    values = values ^ (values >> np.uint32(13))
    values = values * np.uint32(0xC2B2AE35)
    mixed: np.ndarray = values ^ (values >> np.uint32(16))
    return mixed


@functools.lru_cache(maxsize=64)
def choose_bands(threshold: float, num_permutations: int) -> tuple[int, int]:
    """(bands, rows): the longest rows that miss a pair at the threshold with at most `MAX_MISS`; else one row each."""
    for rows in range(num_permutations, 1, -1):
        bands = num_permutations // rows
        if collision_probability(threshold, bands, rows) >= 1 - MAX_MISS:
            return bands, rows
    return num_permutations, 1


def collision_probability(similarity: float, bands: int, rows: int) -> float:
    """Chance that two documents of this Jaccard similarity share a band."""
    return float(1.0 - (1.0 - similarity**rows) ** bands)


def expected_recall(threshold: float, num_permutations: int) -> dict[str, float]:
    """Similarity (the threshold, then in steps of .05) → share of such pairs that the chosen bands find."""
    bands, rows = choose_bands(threshold, num_permutations)
    steps = [threshold, *(step / 20 for step in range(1, 21) if step / 20 > threshold)]
    return {f"{value:.2f}": round(collision_probability(value, bands, rows), 4) for value in steps}


def band_keys(signature: np.ndarray, bands: int, rows: int) -> UInt64s:
    """A 64-bit key of each band, different for equal rows in different bands; uint64 [num_docs, bands]."""
    values = signature[:, : bands * rows].astype(np.uint64).reshape(len(signature), bands, rows)
    total = np.broadcast_to(np.arange(1, bands + 1, dtype=np.uint64) * _LENGTH_SALT, values.shape[:2])
    for i in range(rows):
        total = mix64(total * _BASE + values[:, :, i])
    keys: UInt64s = total
    return keys


def jaccard(left: UInt64s, right: UInt64s) -> float:
    """Jaccard similarity of two sorted sets of distinct hashes, neither empty."""
    position = np.searchsorted(right, left)
    position[position == len(right)] = 0
    common = int(np.count_nonzero(right[position] == left))
    return common / (len(left) + len(right) - common)
