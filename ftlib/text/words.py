"""The words of many texts at once, as hashes.

A word is a run of letters, digits and underscores of the normalised text, or one character of a script without blanks
(`text.scripts`); a text without any falls apart at white space. The texts are joined to one buffer of bytes in which
everything else is zero, so that words are found by array operations, and each distinct word is hashed once: about 15 ns
a character, a sixth of what a regular expression and a dictionary take.
"""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ftlib.text.keyed import KeyedHash, UInt64s
from ftlib.text.normalize import fold_compatible, normalize
from ftlib.text.scripts import ALONE, GAP, INVISIBLE, LETTER, MARK, classes, find_words

_WORD = re.compile(r"\w")
_GAP = b"\0"
_END = "\x01"
_LETTERS = bytes(byte if byte >= 128 or _WORD.match(chr(byte)) else 0 for byte in range(256)).lower()
"""Byte of UTF-8 → itself in lower case, or 0 for ASCII that is no part of a word."""
_SPACED = _LETTERS.replace(_GAP, b" ")


def words(text: str) -> list[str]:
    """Words of the normalised text; what stands between white space where there is no letter or digit."""
    normal = normalize(text)
    return find_words(normal) or normal.split()


def ascii_words(text: str) -> list[str]:
    """The words of a text in ASCII, in lower case, without a regular expression."""
    return text.encode().translate(_SPACED).decode().split()


def hash_words(texts: Sequence[str], hasher: KeyedHash) -> tuple[UInt64s, np.ndarray]:
    """Hashes of the `words` of all texts, one after the other.

    Returns:
        uint64 [num_words]; and int64 [num_texts + 1]: the words of text i are those from `offsets[i]` to
        `offsets[i + 1]`.
    """
    parts = _word_bytes(texts)
    joined = _GAP + _GAP.join(parts) + _GAP
    inside = np.frombuffer(joined, dtype=np.uint8) != 0
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, stops = edges[::2], edges[1::2]
    places = np.concatenate([[0], np.cumsum(stops - starts)])
    letters = joined.translate(None, _GAP)
    buffers = [None, pa.py_buffer(places.astype(np.int64)), pa.py_buffer(letters)]
    encoded = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(starts), buffers).dictionary_encode()
    hashes = hasher.remembered_uint64s(encoded.dictionary.to_pylist())[encoded.indices.to_numpy()]
    ends = np.cumsum([len(part) + 1 for part in parts], dtype=np.int64)
    offsets = np.concatenate([[0], np.searchsorted(starts, ends)])
    return _with_wordless(texts, hashes, offsets, hasher)


def _word_bytes(texts: Sequence[str]) -> list[bytes]:
    """UTF-8 of each normalised text, zero in place of what is no part of a word and between characters of their own."""
    plain = [text.isascii() for text in texts]
    others = [fold_compatible(text).lower() for text, easy in zip(texts, plain, strict=True) if not easy]
    separated = iter(_separated(others))
    return [
        text.encode().translate(_LETTERS) if easy else next(separated) for text, easy in zip(texts, plain, strict=True)
    ]


def _separated(texts: Sequence[str]) -> list[bytes]:
    """`_word_bytes` of normalised texts in any script, by array operations on all of them."""
    if not texts:
        return []
    joined = _END.join(text.replace(_END, " ") for text in texts)
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kinds = classes()[codes]
    seen = kinds != INVISIBLE
    codes, kinds = codes[seen], kinds[seen]
    kinds = _without_loose_marks(kinds)
    between = codes == ord(_END)
    codes = np.where((kinds == GAP) & ~between, 0, codes)
    inside = kinds != GAP
    # A character of its own begins a word and ends it: what is not its mark begins the next.
    base = np.maximum.accumulate(np.where(kinds != MARK, np.arange(len(kinds)), 0))
    after_alone = np.concatenate([[False], kinds[base][:-1] == ALONE]) & (kinds == LETTER)
    cuts = np.flatnonzero(((kinds == ALONE) | after_alone) & inside)
    spread = np.insert(codes, cuts, 0)
    return spread.astype("<u4").tobytes().decode("utf-32-le").encode().split(_END.encode())


def _without_loose_marks(kinds: np.ndarray) -> np.ndarray:
    """Take marks that follow no letter for gaps."""
    if not (kinds == MARK).any():
        return kinds
    base = np.maximum.accumulate(np.where(kinds != MARK, np.arange(len(kinds)), 0))
    owner = kinds[base]
    return np.where((kinds == MARK) & ((owner == GAP) | (owner == MARK)), GAP, kinds)


def _with_wordless(
    texts: Sequence[str], hashes: UInt64s, offsets: np.ndarray, hasher: KeyedHash
) -> tuple[UInt64s, np.ndarray]:
    """Put in what stands between white space for texts that have no word."""
    counts = np.diff(offsets)
    others = {
        text: hasher.uint64s(word.encode("utf-8", "surrogatepass") for word in words(texts[text]))
        for text in np.flatnonzero(counts == 0).tolist()
    }
    if not any(map(len, others.values())):
        return hashes, offsets
    parts = np.split(hashes, offsets[1:-1])
    for text, found in others.items():
        parts[text] = found
        counts[text] = len(found)
    return np.concatenate(parts), np.concatenate([[0], np.cumsum(counts)])
