"""How many words two short texts differ in, estimated from sketches of their words.

Shingles cannot tell one edited word in the middle of a text from a few at its end. A sketch can: 64 counters, each the
sum over the words of a random sign for each word (Alon, Matias and Szegedy 1996). The mean square of the difference of
two sketches estimates the squared distance of the texts' word counts: 1 for a word more or less, 2 for another word.
"""

import itertools

import numpy as np

from ftlib.text.keyed import UInt64s

NUM_COUNTERS = 64
SKETCH_BYTES = 2 * NUM_COUNTERS
MAX_CHARS = 3000
"""Longer texts get no sketch: what is a word in so many?"""
_CHUNK_WORDS = 1 << 15
_MAX_IN_BYTE = 255
_SPREAD = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).view(np.uint64).ravel()
"""Byte → its bits, each in a byte of its own; uint64 [256]."""


def word_sketches(tokens: UInt64s, bounds: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Sketches of texts, zero for those not chosen; int16 [num_texts, 64].

    Args:
        tokens: hashed words of all texts.
        bounds: int64 [num_texts + 1]: where each text's words begin.
        chosen: bool [num_texts].
    """
    found = np.zeros((len(chosen), NUM_COUNTERS), dtype=np.int16)
    lengths = np.diff(bounds)
    index = np.flatnonzero(chosen & (lengths > 0))
    if not len(index):
        return found
    # Not more words at a time than fit into the processor's cache with their bits.
    groups = np.flatnonzero(np.diff(np.cumsum(lengths[index]) // _CHUNK_WORDS)) + 1
    for start, stop in itertools.pairwise([0, *groups.tolist(), len(index)]):
        part = index[start:stop]
        words = np.concatenate([tokens[bounds[i] : bounds[i + 1]] for i in part.tolist()])
        found[part] = 2 * _ones(words, lengths[part]) - lengths[part, None].astype(np.int16)
    return found


def _ones(words: UInt64s, lengths: np.ndarray) -> np.ndarray:
    """How often each bit is set in the words of each text; int16 [num_texts, 64].

    The eight bits of a byte are added at once, as the bytes of one number, for as many words as such a byte can count.
    """
    stops = np.cumsum(lengths)
    pieces = np.maximum(-(-lengths // _MAX_IN_BYTE), 1)
    texts = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(len(texts)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.repeat(stops - lengths, pieces) + number * _MAX_IN_BYTE
    sums = np.add.reduceat(_SPREAD[words.view(np.uint8).reshape(-1, 8)], starts, axis=0)
    counts = sums.view(np.uint8).reshape(-1, NUM_COUNTERS).astype(np.int16)
    if len(texts) == len(lengths):
        return counts
    first = np.cumsum(pieces) - pieces
    return np.add.reduceat(counts, first, axis=0)


def word_distance(left: np.ndarray, right: np.ndarray) -> float:
    """Estimated squared distance of two texts' word counts; infinite where one has no sketch."""
    if not (left.any() and right.any()):
        return float("inf")
    difference = left.astype(np.int32) - right
    return float(difference @ difference) / NUM_COUNTERS
