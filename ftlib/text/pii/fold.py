r"""One folded copy of a text for matching, with a map of its offsets back.

In: a text as written. Out: `Folded`, whose text spells alike what readers see alike: accents composed (NFC), dashes,
blanks, quotes, full-width signs and the digits of all scripts as ASCII, characters without width taken out, and
`\u2013`, `\n`, `\/` and `&nbsp;` (JSON's and HTML's spellings) as the characters that they stand for. `Folded.span`
gives the characters of the original that a span of the copy came from, those taken out within it included.

Cost: a text of ASCII without `\` and `&` is its own copy, told in under a microsecond; others take one pass of an
expression, and a second one that rewrites what has to be.
"""

import bisect
import functools
import html
import re
import unicodedata
from dataclasses import dataclass, field

from ftlib.text.pii.letters import code_points, ranges

_PLANES = 0x20000
"""Characters beyond are ideographs, tags and private use: none of them has a fold."""
_DASHES = "\u058a\u05be\u1806\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\u2e3a\u2e3b\ufe31\ufe32\ufe58\ufe63\uff0d"
_QUOTES = {
    "'": "\u2018\u2019\u201a\u201b\u2032\u2035\u02bc\uff07",
    '"': "\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\u301d\u301e\uff02",
}
_LINE_ENDS = "\u0085\u2028\u2029"
_INVISIBLE = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    r"\ufeff\uffa0\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_STRAY_MARKS = r"\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
"""Marks of the Latin, Greek and Cyrillic alphabets; those that compose with no letter are taken out."""
# Starters that compose with the character before them all the same: vowel signs, Hangul's vowels and finals.
_JOINING = (
    r"\u09be\u09d7\u0b3e\u0b56\u0b57\u0bbe\u0bd7\u0cc2\u0cd5\u0cd6\u0d3e\u0d57\u0dcf\u0ddf\u102e\u1161-\u1175"
    r"\u11a8-\u11c2\u1b35\U00011127\U0001133e\U00011357\U000114b0\U000114ba\U000114bd\U000115af\U00011930"
)
_ESCAPED_VALUE = r"(?:https?|ftp)://|[a-z]{2,5}[-_][A-Za-z0-9]|[0-9a-f]{1,4}:"
"""What a line may begin with in small letters: behind `\\n` they are else the rest of a path (`\\new`)."""
_LINE_ESCAPE = rf"\\{{1,8}}[nrt](?:(?![a-z])|(?={_ESCAPED_VALUE}))"
_ESCAPES = (
    rf"\\u[0-9A-Fa-f]{{4}}|{_LINE_ESCAPE}|\\{{1,8}}[/\"']|" r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});"
)
_LINES = {"n": "\n", "r": "\n", "t": " "}
_MAX_MARKS = 30
"""Marks on one letter that are composed, as in Unicode's stream-safe format: sorting them takes quadratic time."""


def _table() -> dict[int, str]:
    table = {code: str(unicodedata.decimal(chr(code))) for code in code_points(str.isdecimal, _PLANES) if code > 127}
    table |= {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    # Mathematical letters and the small forms of punctuation.
    for code in (*range(0xFE50, 0xFE70), *range(0x1D400, 0x1D7CE)):
        plain = unicodedata.normalize("NFKC", chr(code))
        if len(plain) == 1 and plain.isascii():
            table[code] = plain
    table |= {code: " " for code in code_points(lambda c: unicodedata.category(c) == "Zs", 0x3001) if code > 127}
    table |= {ord(mark): ascii_mark for ascii_mark, marks in _QUOTES.items() for mark in marks}
    table |= dict.fromkeys(map(ord, _DASHES), "-") | dict.fromkeys(map(ord, _LINE_ENDS), "\n")
    return table | {0x2024: ".", 0x2044: "/", 0x2215: "/", 0x2236: ":", 0xFFE5: "\u00a5"}


@dataclass(frozen=True, slots=True)
class _Folds:
    """The expressions and the table, made at first use: 0.1 s."""

    table: dict[int, str]
    prose_table: dict[int, str]
    replaced: frozenset[str]
    suspect: frozenset[str]
    """What `dropped` can begin with. A set of a text's characters is made ten times as fast as it is searched."""
    dropped: re.Pattern[str]
    composed: re.Pattern[str]


@functools.cache
def _folds() -> _Folds:
    table = _table()
    marks = ranges(code_points(lambda c: unicodedata.combining(c) != 0, _PLANES)) + _JOINING
    letter = rf"[^{marks}{_INVISIBLE}]"
    dropped = rf"[{_INVISIBLE}{_STRAY_MARKS}]+|{_ESCAPES}"
    composed = rf"{letter}(?:[{_INVISIBLE}]{{0,4}}[{marks}]){{1,{_MAX_MARKS}}}|{dropped}"
    first = re.compile(rf"[{_INVISIBLE}{_STRAY_MARKS}\\&]")
    suspect = frozenset(map(chr, code_points(lambda c: first.match(c) is not None, 0xE1000)))
    written = {ord(character) for character in (*_DASHES, *"".join(_QUOTES.values()))}
    prose_table = {code: plain for code, plain in table.items() if code not in written}
    return _Folds(table, prose_table, frozenset(map(chr, table)), suspect, re.compile(dropped), re.compile(composed))


@dataclass(frozen=True, slots=True)
class Folded:
    """A text as expressions see it."""

    text: str
    prose: str
    """The same with dashes and quotes as they were, of the same length: models of language know them apart."""
    _starts: list[int] = field(default_factory=list)
    """Where rewritten stretches begin in the copy."""
    _edits: list[tuple[int, int, int]] = field(default_factory=list)
    """Of each of them its length in the copy, and its start and end in the original."""

    @property
    def same_places(self) -> bool:
        """Whether every character of the copy stands where it stands in the original."""
        return not self._edits

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The original's characters that [start, end) of the copy came from; `start` < `end`."""
        if not self._edits:
            return start, end
        return self._place(start)[0], self._place(end - 1)[1]

    def _place(self, position: int) -> tuple[int, int]:
        """Start and end in the original of one character of the copy."""
        index = bisect.bisect_right(self._starts, position) - 1
        if index < 0:
            return position, position + 1
        length, start, end = self._edits[index]
        beyond = position - self._starts[index] - length
        return (start, end) if beyond < 0 else (end + beyond, end + beyond + 1)


def fold(text: str) -> Folded:
    """The folded copy of a text."""
    if text.isascii() and "\\" not in text and "&" not in text:
        return Folded(text, text)
    folds = _folds()
    normal = text.isascii() or unicodedata.is_normalized("NFC", text)
    expression = folds.dropped if normal else folds.composed
    parts: list[str] = []
    starts: list[int] = []
    edits: list[tuple[int, int, int]] = []
    position = length = 0
    characters = frozenset(text)
    found = expression.finditer(text) if not normal or not folds.suspect.isdisjoint(characters) else ()
    for match in found:
        new = _rewritten(match[0], folds)
        if new == match[0]:
            continue
        parts += [text[position : match.start()], new]
        length += match.start() - position
        starts.append(length)
        edits.append((len(new), match.start(), match.end()))
        length += len(new)
        position = match.end()
    copy = "".join([*parts, text[position:]]) if edits else text
    prose = copy
    if edits or not folds.replaced.isdisjoint(characters):
        prose, copy = copy.translate(folds.prose_table), copy.translate(folds.table)
    return Folded(copy, prose, starts, edits)


_SEAM = re.compile(
    r"(?<=[0-9A-Za-z])(?=[^\W\x00-\u024f])|(?<=[^\W\x00-\u024f])(?=[0-9A-Za-z])|"
    r"(?<=[0-9])(?=[\u00c0-\u024f])|(?<=[\u00c0-\u024f])(?=[0-9])"
)


def spaced(copy: Folded) -> Folded:
    """A folded copy with a blank wherever ASCII meets a letter of another script, or a digit an accented letter.

    For detectors that know words by blanks alone. The blank is placed at the character behind it.
    """
    if copy.text.isascii():
        return copy
    pieces = _SEAM.split(copy.text)
    if len(pieces) == 1:
        return copy
    starts: list[int] = []
    edits: list[tuple[int, int, int]] = []
    at = position = 0
    for piece in pieces:
        for _ in piece:
            starts.append(at)
            edits.append((1, *copy.span(position, position + 1)))
            at, position = at + 1, position + 1
        if piece and position < len(copy.text):
            starts.append(at)
            edits.append((1, *copy.span(position, position + 1)))
            at += 1
    text = " ".join(piece for piece in pieces if piece)
    return Folded(text, text, starts, edits)


def folded(text: str) -> str:
    """The folded copy without its map, for values that are compared with folded texts."""
    return fold(text).text


def _rewritten(found: str, folds: _Folds) -> str:
    if found.startswith("\\u") or (found[0] == "&" and found[-1] == ";"):
        return _unescaped(found, folds)
    if found[0] == "\\":
        return _LINES.get(found[-1], found[-1])
    if folds.dropped.fullmatch(found):
        return ""
    plain = folds.dropped.sub(lambda match: match[0] if unicodedata.combining(match[0][0]) else "", found)
    return _without_stray(unicodedata.normalize("NFC", plain))


def _without_stray(text: str) -> str:
    return re.sub(f"[{_STRAY_MARKS}]", "", text)


def _unescaped(found: str, folds: _Folds) -> str:
    """The character that an escape stands for; what is no escape of one stays."""
    character = chr(int(found[2:], 16)) if found[0] == "\\" else html.unescape(found)
    if len(character) != 1 or "\ud800" <= character <= "\udfff":
        return found
    return "" if folds.dropped.fullmatch(character) else character
