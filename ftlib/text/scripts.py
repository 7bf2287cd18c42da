"""Which characters make up words, and which are words of their own.

Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan and a few more scripts put no blanks between words, so that a run
of letters is a clause; Korean does, but a word takes on so many endings that equal texts share few. In all of these one
character with its marks is a token, as in the usual baselines for Chinese. Elsewhere a token is a run of letters,
digits, underscores and combining marks: `\\w+` alone would cut Hindi or Tamil at every vowel sign. Invisible characters
(zero-width blanks and joiners, soft hyphens) are left out of words.

The tables behind this take about 0.1 s to build and are made for the first text that is not ASCII.
"""

import functools
import re
import sys
import unicodedata

import numpy as np

GAP, LETTER, ALONE, MARK, INVISIBLE = range(5)
"""Classes of characters: no part of a word; of a word; a word of its own; with the character before; left out."""

_ALONE_RANGES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1100, 0x11FF),  # Hangul letters
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x3007),  # iteration mark, zero
    (0x3021, 0x3029),
    (0x3031, 0x303C),
    (0x3040, 0x318F),  # Hiragana, Katakana, Bopomofo, Hangul letters
    (0x31A0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),  # Han
    (0xA000, 0xA48F),  # Yi
    (0xA960, 0xA9DF),  # Hangul letters, Javanese
    (0xA9E0, 0xA9FF),  # Burmese
    (0xAA00, 0xAADF),  # Cham, Burmese, Tai Viet
    (0xAC00, 0xD7FF),  # Hangul
    (0xF900, 0xFAFF),  # Han
    (0xFF66, 0xFFDC),  # half-width forms
    (0x16FE0, 0x18DFF),  # Tangut, Khitan
    (0x1AFF0, 0x1B2FF),  # kana, Nushu
    (0x20000, 0x323AF),  # Han
)
_INVISIBLE = (0xAD, 0x34F, 0x180E, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, *range(0xFE00, 0xFE10))
_DIGITS = frozenset({"Nd"})
_SPACED_TOKEN = re.compile(r"\w+")


@functools.cache
def classes() -> np.ndarray:
    """The class of each code point; uint8 [0x110000]."""
    table = np.zeros(sys.maxunicode + 1, dtype=np.uint8)
    for start, stop in ((0, 0x32400), (0xE0100, 0xE01F0)):
        for code in range(start, stop):
            category = unicodedata.category(chr(code))
            if category[0] == "M":
                table[code] = MARK
            elif chr(code) == "_" or category[0] in "LN":
                table[code] = LETTER
    for start, stop in _ALONE_RANGES:
        part = table[start : stop + 1]
        # Digits of these scripts make numbers, as elsewhere.
        digits = [unicodedata.category(chr(code)) in _DIGITS for code in range(start, stop + 1)]
        part[(part == LETTER) & ~np.array(digits)] = ALONE
    table[list(_INVISIBLE)] = INVISIBLE
    return table


@functools.cache
def character_set(*kinds: int) -> str:
    """The characters of some classes, as ranges within the brackets of a regular expression."""
    inside = np.isin(classes(), kinds)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
    return "".join(f"\\U{start:08x}-\\U{stop - 1:08x}" for start, stop in edges.reshape(-1, 2).tolist())


@functools.cache
def word_pattern() -> str:
    """A regular expression for one word of a text in any script; invisible characters count as marks."""
    letter, alone, mark = character_set(LETTER), character_set(ALONE), character_set(MARK, INVISIBLE)
    return f"(?:[{alone}][{mark}]*|[{letter}][{letter}{mark}]*)"


@functools.cache
def _word() -> re.Pattern[str]:
    return re.compile(word_pattern())


@functools.cache
def _invisible() -> dict[int, None]:
    return dict.fromkeys(_INVISIBLE)


def find_words(text: str) -> list[str]:
    """The words of a text, in order; none in a text without letters and digits."""
    if text.isascii():
        return _SPACED_TOKEN.findall(text)
    return _word().findall(text.translate(_invisible()))


def stands_alone(word: str) -> bool:
    """Whether a word is one character of a script without blanks."""
    return not word[0].isascii() and bool(classes()[ord(word[0])] == ALONE)


def mostly_unspaced(text: str) -> bool:
    """Whether most words of a text are single characters of scripts without blanks."""
    if text.isascii():
        return False
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    alone = classes()[codes] == ALONE
    return 2 * int(np.count_nonzero(alone)) > len(find_words(text)) if alone.any() else False
