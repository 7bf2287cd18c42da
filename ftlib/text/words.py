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
from ftlib.text.normalize import few_beyond_ascii, fold_compatible, lower, normalize
from ftlib.text.scripts import ALONE, GAP, INVISIBLE, LETTER, MARK, classes, find_words

_WORD = re.compile(r"\w")
_GAP = b"\0"
_END = "\x01"
_SIMPLE = frozenset({GAP, LETTER})
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
    starts = np.flatnonzero(inside[1:] > inside[:-1]) + 1
    # Each word with the gap behind it, or all words would have to be copied; the different ones are cut.
    buffers = [None, pa.py_buffer(np.append(starts, len(joined))), pa.py_buffer(joined)]
    encoded = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(starts), buffers).dictionary_encode()
    distinct = [word.rstrip(_GAP) for word in encoded.dictionary.to_pylist()]
    hashes = hasher.remembered_uint64s(distinct)[encoded.indices.to_numpy()]
    ends = np.cumsum([len(part) + 1 for part in parts], dtype=np.int64)
    offsets = np.concatenate([[0], np.searchsorted(starts, ends)])
    return _with_wordless(texts, hashes, offsets, hasher)


def _word_bytes(texts: Sequence[str]) -> list[bytes]:
    """UTF-8 of each normalised text, zero in place of what is no part of a word and between characters of their own."""
    plain = [text.isascii() for text in texts]
    others = [lower(fold_compatible(text)) for text, easy in zip(texts, plain, strict=True) if not easy]
    found = list(map(_simply_separated, others))
    rest = iter(_separated([text for text, simple in zip(others, found, strict=True) if simple is None]))
    separated = (next(rest) if simple is None else simple for simple in found)
    return [
        text.encode().translate(_LETTERS) if easy else next(separated) for text, easy in zip(texts, plain, strict=True)
    ]


def _simply_separated(text: str) -> bytes | None:
    """`_word_bytes` of a normalised text whose characters beyond ASCII are few letters and gaps; None for others."""
    few = few_beyond_ascii(text)
    kinds = {character: int(classes()[ord(character)]) for character in few or ()}
    if few is None or not _SIMPLE.issuperset(kinds.values()):
        return None
    encoded = text.encode("utf-8", "surrogatepass").translate(_LETTERS)
    for character, kind in kinds.items():
        if kind == GAP:
            encoded = encoded.replace(character.encode("utf-8", "surrogatepass"), _GAP)
    return encoded


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
