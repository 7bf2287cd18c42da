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
_CHUNK_WORDS = 1 << 18


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
        bits = np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1)
        starts = np.concatenate([[0], np.cumsum(lengths[part])[:-1]])
        ones = np.add.reduceat(bits, starts, axis=0, dtype=np.int16)
        found[part] = 2 * ones - lengths[part, None].astype(np.int16)
    return found


def word_distance(left: np.ndarray, right: np.ndarray) -> float:
    """Estimated squared distance of two texts' word counts; infinite where one has no sketch."""
    if not (left.any() and right.any()):
        return float("inf")
    difference = left.astype(np.int32) - right
    return float(difference @ difference) / NUM_COUNTERS
