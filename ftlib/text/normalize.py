"""The form of a text in which two records count as the same: NFKC, lower case, single spaces."""

import functools
import itertools
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

_SPACE = 32
_FOLDED = bytes(_SPACE if byte < 128 and chr(byte).isspace() else byte for byte in range(256)).lower()
"""ASCII in lower case, its white space as spaces."""
_GAP = "\0"
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_ASCII = bytes(range(128))
_MAX_FEW = 100
_LINE_ENDS = "\x85\u1680\u2028\u2029"
"""White space beyond ASCII that NFKC leaves as it is."""
_JAMO = range(0x1100, 0x1200)
_SUPERSCRIPT = re.compile(f"[{_SUPERSCRIPTS}]+")


def fold_compatible(text: str) -> str:
    """Unicode NFKC, except that superscript digits keep a sign: 5² is not 52."""
    few = few_beyond_ascii(text)
    if few is None or not few.isdisjoint(_SUPERSCRIPTS):
        text = _SUPERSCRIPT.sub(r"^\g<0>", text)
    folded = {character: _folded_alone(character) for character in few or ()}
    if few is None or None in folded.values():
        return unicodedata.normalize("NFKC", text)
    for character, found in folded.items():
        if found != character:
            text = text.replace(character, found or "")
    return text


def few_beyond_ascii(text: str) -> frozenset[str] | None:
    """The different characters of a text beyond ASCII; None where there are many."""
    beyond = text.encode("utf-8", "surrogatepass").translate(None, _ASCII).decode("utf-8", "surrogatepass")
    found = frozenset(beyond)
    return found if len(found) <= _MAX_FEW else None


@functools.lru_cache(maxsize=4096)
def _folded_alone(character: str) -> str | None:
    """NFKC of a character; None where that depends on its neighbours, or might."""
    folded = unicodedata.normalize("NFKC", character)
    for item in (character, *folded):
        in_doubt = unicodedata.category(item)[0] == "M" or ord(item) in _JAMO
        if in_doubt or (ord(item) >= 0x10000 and unicodedata.category(item) != "So"):
            return None
    return folded


def lower(text: str) -> str:
    """`text.lower()`, where few characters are beyond ASCII in a tenth of the time."""
    few = few_beyond_ascii(text)
    if few is None or "Σ" in few:  # its lower case depends on where it stands
        return text.lower()
    for character in few:
        if (small := character.lower()) != character:
            text = text.replace(character, small)
    return text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


def normalize(text: str) -> str:
    """Unicode NFKC, lower case (`casefold` would merge words that differ, as in ß/ss), white space to single spaces."""
    text = text.lower() if text.isascii() else lower(fold_compatible(text))
    return " ".join(text.split())


def normalize_all(texts: Sequence[str]) -> list[bytes]:
    """`normalize` of each text as UTF-8, for most by array operations on all of them: a quarter of the time."""
    texts = [text if text.isascii() else lower(fold_compatible(text)) for text in texts]
    plain = [_GAP not in text and (text.isascii() or not any(end in text for end in _LINE_ENDS)) for text in texts]
    joined = _GAP.encode().join([text.encode() for text in itertools.compress(texts, plain)]).translate(_FOLDED)
    spaces = np.frombuffer(joined, dtype=np.uint8) == _SPACE
    keep = np.ones(len(joined), dtype=bool)
    keep[1:] = ~(spaces[1:] & spaces[:-1])
    folded = iter(np.frombuffer(joined, dtype=np.uint8)[keep].tobytes().split(_GAP.encode()))
    return [
        next(folded).strip(b" ") if easy else " ".join(text.lower().split()).encode()
        for text, easy in zip(texts, plain, strict=True)
    ]
