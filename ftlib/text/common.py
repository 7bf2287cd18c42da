"""Near-duplicates among records that share text: an instruction, a form, a header.

Shingles that most records of a source have say nothing about two of its records. A record that consists of common text
with something of its own in it is *templated*: it is compared by its own shingles as well, and finds others by these
alone. A record whose own shingles are no more than edits of the common text (each edited word replaces n common
shingles by n others) is a copy of that text and is compared whole, as are records without common text.

Two documents of which one is templated are alike when the whole similarity reaches the threshold and their own parts
are alike too: these reach the threshold as well, or the documents differ in one or two words (`text.counters`), which
take a good part of the shingles of a short part. Own shingles that stand in one document where the other has common
text are edits of it and do not count.
"""

from dataclasses import dataclass

import numpy as np

from ftlib.text.counters import word_distance
from ftlib.text.keyed import UInt64s, mix64
from ftlib.text.minhash import Scheme, Shingles, band_keys, choose_bands, jaccard, signatures

MIN_OWN = 0.3
"""Least similarity of own parts that differ in a word or two."""
MAX_DISTANCE = 4.5
"""Squared distance of word counts up to which documents differ in a word or two."""
_SHORT, _LONG = 40, 32
"""Own parts of fewer shingles take bands that find them at `_SHORT_THRESHOLD`, those of at least `_LONG` bands for
`_LONG_THRESHOLD`, which one edited word leaves them; those in between take both, so that a pair meets."""
_SHORT_THRESHOLD, _LONG_THRESHOLD = 0.4, 0.7
_SALTS = (np.uint64(0x8CB92BA72F3D8DD7), np.uint64(0xABC98388FB8FAC03))


@dataclass(frozen=True)
class Parts:
    """Shingle sets cut into what is common and what is a document's own."""

    shingles: Shingles
    common: np.ndarray
    """bool [num_shingles]: whether each of `shingles.values` is common."""
    templated: np.ndarray
    """bool [num_docs]: whether a document is compared by its own part as well."""
    sketches: np.ndarray
    """int16 [num_docs, 64]: of `text.counters`."""
    ngram: int

    @classmethod
    def of(cls, shingles: Shingles, common: UInt64s, expected: np.ndarray, sketches: np.ndarray, ngram: int) -> "Parts":
        """Cut documents.

        Args:
            shingles: of the documents.
            common: uint64, sorted: common shingles of all sources.
            expected: int64 [num_docs]: how many common shingles each document's source has.
            sketches: of the documents' words.
            ngram: words of a shingle.
        """
        inside = _contains(common, shingles.values)
        num_common = np.add.reduceat(inside, shingles.offsets[:-1], dtype=np.int64) if len(shingles) else expected
        num_own = np.diff(shingles.offsets) - num_common
        missing = np.maximum(expected - num_common, 0)
        edits = num_own * max(ngram - 1, 1) <= missing * ngram
        return cls(shingles, inside, (num_common > 0) & (num_own > 0) & ~edits, sketches, ngram)

    def alike(self, left: int, right: int, threshold: float) -> float:
        """Jaccard similarity of two documents, 0 where the threshold is reached by common text alone."""
        if not (self.templated[left] or self.templated[right]):
            return jaccard(self.shingles.of(left), self.shingles.of(right))
        least = threshold
        if word_distance(self.sketches[left], self.sketches[right]) <= MAX_DISTANCE:
            least = min(MIN_OWN, threshold)
        if not self._own_alike(left, right, least):
            return 0.0
        return jaccard(self.shingles.of(left), self.shingles.of(right))

    def _own_alike(self, left: int, right: int, least: float) -> bool:
        first, second = self.shingles.of(left), self.shingles.of(right)
        first_common, second_common = self._common_of(left), self._common_of(right)
        in_second, in_first = _contains(second, first), _contains(first, second)
        num_shared = int(np.count_nonzero(in_second & ~first_common))
        # An edited word takes n - 1 or n common shingles away for up to n others.
        per_common = self.ngram / max(self.ngram - 1, 1)
        lacks_first = per_common * np.count_nonzero(second_common & ~in_first)
        lacks_second = per_common * np.count_nonzero(first_common & ~in_second)
        other = max(np.count_nonzero(~in_second & ~first_common) - lacks_first, 0)
        other += max(np.count_nonzero(~in_first & ~second_common) - lacks_second, 0)
        return bool(num_shared >= least * (num_shared + other) - 1e-9)

    def _common_of(self, document: int) -> np.ndarray:
        found: np.ndarray = self.common[self.shingles.offsets[document] : self.shingles.offsets[document + 1]]
        return found

    def bands(self, whole: UInt64s, num_permutations: int, scheme: Scheme) -> tuple[UInt64s, np.ndarray]:
        """Band keys of each document, those of its own part where it has common text.

        Args:
            whole: uint64 [num_docs, num_bands], of the whole documents.
            num_permutations: of MinHash.
            scheme: of the permutations.

        Returns:
            uint64 [num_keys] and int64 [num_docs + 1]: the keys of document i are those from `offsets[i]` on.
        """
        num_docs = len(self.shingles)
        plain = ~self.templated
        documents, keys = [np.repeat(np.flatnonzero(plain), whole.shape[-1])], [whole[plain].ravel()]
        sizes = np.add.reduceat(~self.common, self.shingles.offsets[:-1], dtype=np.int64)
        partly = (sizes > 0) & (sizes < np.diff(self.shingles.offsets))
        for salt, chosen, threshold in (
            (_SALTS[0], partly & (sizes < _SHORT), _SHORT_THRESHOLD),
            (_SALTS[1], partly & (sizes >= _LONG), _LONG_THRESHOLD),
        ):
            index = np.flatnonzero(chosen)
            if not len(index):
                continue
            bands, rows = choose_bands(threshold, num_permutations)
            own = self._own(chosen)
            found = band_keys(signatures(own, num_permutations, scheme), bands, rows)
            documents.append(np.repeat(index, bands))
            keys.append(mix64(found.ravel() ^ salt))
        owner = np.concatenate(documents)
        order = np.argsort(owner, kind="stable")
        offsets = np.searchsorted(owner[order], np.arange(num_docs + 1))
        return np.concatenate(keys)[order], offsets

    def _own(self, chosen: np.ndarray) -> Shingles:
        """The own shingles of the chosen documents, none of which is empty."""
        lengths = np.diff(self.shingles.offsets)
        keep = np.repeat(chosen, lengths) & ~self.common
        sizes = np.add.reduceat(~self.common, self.shingles.offsets[:-1], dtype=np.int64)[chosen]
        return Shingles(self.shingles.values[keep], np.concatenate([[0], np.cumsum(sizes)]))


def _contains(sorted_values: UInt64s, values: UInt64s) -> np.ndarray:
    if not len(sorted_values):
        return np.zeros(len(values), dtype=bool)
    index = np.searchsorted(sorted_values, values)
    index[index == len(sorted_values)] = 0
    found: np.ndarray = sorted_values[index] == values
    return found
