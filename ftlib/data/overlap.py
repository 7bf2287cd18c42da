"""Contamination: records that hold a text of a benchmark (or of the test split), or share an n-gram with one.

In: records. Out: `Overlap`, sorted hashes of a reference's texts and n-grams, and a code for each record that is
compared with it. A record's units are all that it says and, in a chat, all but the last answer: a benchmark's question
counts under another answer. A unit of fewer words than an n-gram takes part as a whole only. Where a unit is written
mostly in a script without blanks, whose characters are its words, an n-gram has twice as many. Cost: 8 bytes for each
distinct n-gram of the reference, held by every task that compares.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ftlib.text.keyed import KeyedHash, UInt64s
from ftlib.text.minhash import shingle
from ftlib.text.normalize import normalize_all
from ftlib.text.scripts import mostly_unspaced

DECONTAMINATE = "decontaminate"
CLEAN, EXACT_COPY, SHARED_NGRAM = range(3)
REASONS = {EXACT_COPY: "exact", SHARED_NGRAM: "shared_ngram"}

_NONE: UInt64s = np.empty(0, dtype=np.uint64)


@dataclass(frozen=True)
class Overlap:
    """Hashes of a reference."""

    texts: UInt64s
    """Of whole units; uint64, sorted."""
    grams: UInt64s
    """Of their n-grams, of units with that many words only; uint64, sorted."""

    def merge(self, other: "Overlap") -> "Overlap":
        """The reference that holds both."""
        return Overlap(np.union1d(self.texts, other.texts), np.union1d(self.grams, other.grams))

    def codes(self, records: Sequence[Sequence[str]], ngram: int, key: bytes) -> np.ndarray:
        """`CLEAN`, `EXACT_COPY` or `SHARED_NGRAM`; uint8 [num_records]. `records`: what is said in each, in order."""
        found = np.zeros(len(records), dtype=np.uint8)
        texts, grams, owners, gram_owners = _hashes(records, ngram, key)
        found[np.unique(gram_owners[np.isin(grams, self.grams)])] = SHARED_NGRAM
        found[np.unique(owners[np.isin(texts, self.texts)])] = EXACT_COPY
        return found


NOTHING = Overlap(_NONE, _NONE)


def overlap_of(records: Sequence[Sequence[str]], ngram: int, key: bytes) -> Overlap:
    """The hashes of a reference's records."""
    texts, grams, _, _ = _hashes(records, ngram, key)
    return Overlap(np.unique(texts), np.unique(grams))


def _units(parts: Sequence[str]) -> list[str]:
    whole = "\n".join(parts)
    return [whole] if len(parts) < 2 else [whole, "\n".join(parts[:-1])]


def _hashes(
    records: Sequence[Sequence[str]], ngram: int, key: bytes
) -> tuple[UInt64s, UInt64s, np.ndarray, np.ndarray]:
    """Hashes of units and of n-grams, each with the number of its record; units without a word are left out."""
    units = [(number, unit) for number, parts in enumerate(records) for unit in _units(parts) if unit.strip()]
    owners = np.array([number for number, _ in units], dtype=np.int64)
    texts = [unit for _, unit in units]
    whole = KeyedHash(key, "overlap").uint64s(normalize_all(texts))
    hasher = KeyedHash(key, "overlap words")
    unspaced = np.array([mostly_unspaced(text) for text in texts], dtype=bool)
    grams, gram_owners = [_NONE], [np.empty(0, dtype=np.int64)]
    for chosen, size in ((~unspaced, ngram), (unspaced, 2 * ngram)):
        index = np.flatnonzero(chosen)
        shingles = shingle([texts[i] for i in index.tolist()], size, hasher)
        counts = np.diff(shingles.offsets)
        # One shingle is a short text as a whole (or a text of exactly n words): `whole` has it already.
        long = np.repeat(counts > 1, counts)
        grams.append(shingles.values[long])
        gram_owners.append(np.repeat(owners[index], counts)[long])
    return whole, np.concatenate(grams), owners, np.concatenate(gram_owners)
