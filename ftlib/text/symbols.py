"""What the words of a text leave out but its meaning rests on: operators, signs, currencies, emoji, and values.

Near-duplicates are found by their words, so that `x > y` and `x < y`, C and C++, € 500 and $ 500 are alike. Two rules
tell such records apart before one is dropped for the other:

- Records with the very same words must also have the same `symbols`. Punctuation, quotes, brackets in prose, bullets,
  emphasis and rules of dashes are none. Short records must not have other operators, currencies and pictures in the
  same number in any case: one word more or less does not excuse `<` for `>`.
- Short records that are the same but for numbers must have the same `values`: amounts, measurements and the like, each
  with its sign, currency and unit. Dates, times, years and long numbers are taken for identifiers, which change in
  copies of one text.

Where a rule is in doubt it keeps a record: such pairs still share a side of the split.
"""

import functools
import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ftlib.text.keyed import KeyedHash, UInt64s
from ftlib.text.normalize import few_beyond_ascii, fold_compatible
from ftlib.text.scripts import find_words
from ftlib.text.words import ascii_words

MAX_VALUE_CHARS = 1000
"""Values tell records apart that are no longer than this: a long text with another number is another version of it."""

MAX_SYMBOL_CHARS = 1000
"""Longer texts are told apart by operators and currencies alone: to look at what stands beside them costs time."""

_DASHES = re.compile("[\u2010-\u2015\u2212\ufe58]")
_BULLETS = re.compile(r"\n[ \t]*(?:[-+*>\u2022\u25a0-\u25ff\u27a2-\u27a4]+[ \t]+)+")
_RULE_STARTS = tuple(4 * mark for mark in "-=_*#~+.<>|")
_RULES = re.compile(r"([-=_*#~+.<>|])\1{3,}")
_ALWAYS = r"+=<>%^&~\\$"
_OPERATOR = r"-+*/=<>^%&|"
_BESIDE = rf"""
        (?<=[{_ALWAYS}/])
      | (?<=[.,:;])(?=\d)(?:(?<=\d[.,:;]) | (?<!\w\.)(?<=\.))
      | (?<![.,:;])(?: (?<=\w\#)                              # C#, not a heading
      | (?<=[\w)\]]\*)(?=\*?[\w(\[]) | (?<=[^\s*]\s\*)(?=\s) | (?<=\w\*\*)(?=\w)      # a*b and a * b, not emphasis
      | (?<=[\w)\]]\|)(?=[\w(\[]) | (?<=\|\|)
      | (?<=\d-)(?=\d) | (?<=\d\s-)(?=\s\d)    # 5-3, 5 - 3
      | (?<![\w)\]]-)(?<=-)(?=\w|\.\d)         # -5, --force
      | (?<=\s\w\s-)(?=\s\w\b)               # x - y
      | (?<=!)(?=[\w=(])
      | (?<=@)(?=\w)
      | (?<=\w[(\[]) | (?<=[{_OPERATOR}][(\[]) | (?<=[{_OPERATOR}]\s[(\[]) | (?<=[)\]])(?=\s*[{_OPERATOR}]) )
"""
"""What must stand before and after a symbol's character for it to count."""
_SOMETIMES = r"#*|/.,:;!@()\[\]\-"
_BESIDE_OTHERS = dict.fromkeys(map(ord, "*|/.,:;!@()[]-"))
_ASCII = re.compile(rf"[{_ALWAYS}{_SOMETIMES}](?:{_BESIDE})", re.VERBOSE)
_PLAIN_ASCII = bytes(byte for byte in range(128) if chr(byte) not in "+=<>%^&~\\$")
_ANY_CHARACTER_BUT = bytes(byte for byte in range(256) if chr(byte) not in "+=<>%^&~\\$")

_MONTH = r"(?:jan|feb|mar|apr|may|mai|jun|jul|aug|sep|okt|oct|nov|dec|dez)[a-z]*"
_UNIT = (
    r"(?:[kmµμnpcdhMGT]?(?:g|l|L|m|s|Pa|W|Wh|V|A|Hz|J|N|mol|Eq|bar|b|B|bit|byte|Ω|eV|cal|Sv|Gy|IU|U)"
    r"(?:/(?:d?[lL]|kg|h|min|s|m[23]?|day|d))?"
    r"|mmHg|mcg|min|h|hrs?|hours?|days?|weeks?|months?|years?|percent|ppm|in|ft|lbs?|oz|mph|km/h|dB|rpm|°[CF]?|°\s[CF])"
)
_NUMBER = re.compile(
    rf"\d+(?:[.,:/-]\d+)*(?:(?P<day>(?:st|nd|rd|th|\.)?\s(?i:{_MONTH})\b)|(?P<unit>\s?(?:[%‰$€£¥₹₩₽]|{_UNIT}(?!\w))))?"
)
_DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{2,4}|\d{1,2}:\d\d(?::\d\d)?")
_CASED_UNIT = re.compile(r"\d\s?([mM](?:W|Wh|V|A|Hz|J|N|Pa|mol|g|l|eV|b|B|bit|byte|m|s)|[kKGT][bB])(?!\w)")
_SIGNS = frozenset("-+±<>≤≥~$€£¥₹₩₽. ")
_LOWEST = np.uint64(255)
_MAX_BEFORE, _MAX_VALUE_DIGITS = 12, 4
_MONTH_BEFORE = re.compile(rf"(?:\b{_MONTH}\.?\s|\#)\Z", re.IGNORECASE)


def symbols(text: str) -> str:
    """The symbols of a text that carry meaning, in order."""
    if text.isascii():
        if len(text) > MAX_SYMBOL_CHARS:
            return text.encode().translate(None, _ANY_CHARACTER_BUT).decode()
        return "".join(_ASCII.findall(_without_layout(text)))
    if len(text) > MAX_SYMBOL_CHARS:
        encoded = text.encode("utf-8", "surrogatepass")
        few = few_beyond_ascii(text)
        if few is not None and not _any_always().search("".join(few)):
            return encoded.translate(None, _ANY_CHARACTER_BUT).decode()
        found = encoded.translate(None, _PLAIN_ASCII).decode("utf-8", "surrogatepass")
        return "".join(_any_always().findall(found))
    return "".join(_any().findall(_without_layout(_DASHES.sub("-", fold_compatible(text)))))


def _without_layout(text: str) -> str:
    """A text without bullets, quoting and rules."""
    text = _BULLETS.sub("\n", "\n" + text)
    return _RULES.sub("", text) if any(rule in text for rule in _RULE_STARTS) else text


def operators(found: str) -> str:
    """Those of a text's `symbols` that carry meaning wherever they stand: operators, currencies and pictures."""
    return found.translate(_BESIDE_OTHERS)


@functools.cache
def _signs_of_all_scripts() -> str:
    """Mathematical signs, currencies and pictures beyond ASCII, as ranges of a character set.

    Beyond the first 65,536 characters pictures alone, in two ranges without skin tones: a set with more is slow.
    """
    kinds = {"Sm", "Sc", "So"}
    inside = [chr(code) in "‰" or unicodedata.category(chr(code)) in kinds for code in range(0x80, 0x10000)]
    for sign in "©®℗":
        inside[ord(sign) - 0x80] = False
    edges = [i for i, (left, right) in enumerate(itertools.pairwise([False, *inside, False])) if left != right]
    ranges = [
        f"\\u{start + 0x80:04x}-\\u{stop + 0x7F:04x}" for start, stop in zip(edges[::2], edges[1::2], strict=True)
    ]
    return "".join([*ranges, r"\U0001f000-\U0001f3fa\U0001f400-\U0001faff"])


@functools.cache
def _any() -> re.Pattern[str]:
    """`_ASCII` with the signs of all scripts."""
    signs = _signs_of_all_scripts()
    return re.compile(rf"[{_ALWAYS}{_SOMETIMES}{signs}](?:{_BESIDE} | (?<=[{signs}]))", re.VERBOSE)


@functools.cache
def _any_always() -> re.Pattern[str]:
    return re.compile(rf"[{_ALWAYS}{_signs_of_all_scripts()}]")


def cased_units(text: str) -> str:
    """Units of a short text whose meaning rests on case (`mW` and `MW`, `Mb` and `MB`): case is folded elsewhere."""
    return ",".join(_CASED_UNIT.findall(text)) if len(text) <= MAX_VALUE_CHARS else ""


def skeleton_and_values(text: str) -> tuple[str, str]:
    """The words of a short text with a zero for each number, and its values; empty where there are none."""
    if len(text) > MAX_VALUE_CHARS:
        return "", ""
    if not text.isascii():
        text = _DASHES.sub("-", fold_compatible(text))
    values: list[str] = []
    parts: list[str] = []
    end = 0
    for match in _NUMBER.finditer(text):
        start, stop = match.span()
        last = text[start - 1] if start > end else ""
        if last.isalnum() or last == "_":
            continue
        value = _value(text[max(end, start - _MAX_BEFORE) : start], match)
        if value is not None:
            values.append(value)
        parts += (text[end:start], " 0 ")
        end = stop
    if not values:
        return "", ""
    bare = "".join([*parts, text[end:]])
    words = ascii_words(bare) if bare.isascii() else find_words(bare.lower())
    return " ".join(words), "\n".join(values)


def _value(before: str, match: re.Match[str]) -> str | None:
    """An amount with its sign, currency and unit; None for a date, a time, a year or a long number."""
    number = match[0]
    bare = number.isdigit()
    if not bare and (match["day"] is not None or _DATE.fullmatch(number)):
        return None
    if _follows_month(before):
        return None
    start = len(before)
    while start and before[start - 1] in _SIGNS:
        start -= 1
    sign = "".join(before[start:].split())
    if sign == "-" and start and before[start] == "-":
        return None  # a hyphen: part of a name
    if bare and not sign.strip(".") and (len(number) > _MAX_VALUE_DIGITS or 1900 <= int(number) < 2100):
        return None
    return sign + (number if bare else "".join(number.split()))


def _follows_month(before: str) -> bool:
    """Whether a number stands behind the name of a month, or behind `#`."""
    last, letter = before[-1:], before[-2:-1]
    if last == "#":
        return True
    # The expression alone takes half the time of a value.
    return last.isspace() and (letter.isalpha() or letter == ".") and _MONTH_BEFORE.search(before) is not None


@dataclass(frozen=True)
class Meanings:
    """Hashes of what the words of each document leave out; 0 for nothing."""

    symbols: UInt64s
    """uint64 [num_docs]."""
    skeletons: UInt64s
    """uint64 [num_docs]: of a short document's words without its numbers."""
    values: UInt64s
    """uint64 [num_docs]: of the numbers that `skeletons` leaves out."""
    operators: UInt64s
    """uint64 [num_docs]: of a short document's operators, currencies and pictures, their number in the lowest byte."""

    @classmethod
    def of(cls, texts: Sequence[str], hasher: KeyedHash) -> "Meanings":
        """Hash the symbols and values of texts."""
        signs = [symbols(text) for text in texts]
        pairs = [skeleton_and_values(text) for text in texts]
        short = [
            operators(found) if len(text) <= MAX_VALUE_CHARS else "" for text, found in zip(texts, signs, strict=True)
        ]
        return cls(
            _hashed(signs, hasher),
            _hashed([skeleton for skeleton, _ in pairs], hasher),
            _hashed([values for _, values in pairs], hasher),
            _counted(short, hasher),
        )

    @property
    def columns(self) -> tuple[UInt64s, UInt64s, UInt64s, UInt64s]:
        """All hashes, in the order of the fields."""
        return self.symbols, self.skeletons, self.values, self.operators

    def take(self, index: np.ndarray | slice) -> "Meanings":
        """Those of some documents."""
        return Meanings(*(column[index] for column in self.columns))

    def differ(self, left: int, right: int, similarity: float) -> bool:
        """Whether two documents that are alike by their words say different things."""
        if similarity == 1.0 and self.symbols[left] != self.symbols[right]:
            return True
        other_operators = self.operators[left] != self.operators[right]
        if other_operators and self.operators[left] & _LOWEST == self.operators[right] & _LOWEST:
            return True
        same_words = self.skeletons[left] != 0 and self.skeletons[left] == self.skeletons[right]
        return bool(same_words and self.values[left] != self.values[right])


def _counted(contents: Sequence[str], hasher: KeyedHash) -> UInt64s:
    """Hashes with the length of each content, at most 255, in the lowest byte."""
    lengths = np.array([min(len(content), 255) for content in contents], dtype=np.uint64)
    counted: UInt64s = (_hashed(contents, hasher) & ~_LOWEST) | lengths
    return counted


def _hashed(contents: Sequence[str], hasher: KeyedHash) -> UInt64s:
    encoded = [content.encode("utf-8", "surrogatepass") for content in contents]
    given = [content for content in encoded if content]
    found = np.zeros(len(encoded), dtype=np.uint64)
    found[[bool(content) for content in encoded]] = hasher.uint64s(given)
    return found
