r"""Expressions made weaker, so that an engine that scans for all of them at once can read them.

A relaxed expression matches wherever the original does, and perhaps elsewhere. It is over single bytes: ASCII as it is,
and every other character stands as one of three bytes of its kind (`as_bytes`), so that `\w`, `\s` and `\b` mean what
they mean for Python. To expressions with `re.ASCII` every other character is one that is no letter, digit or blank, and
so they see the text in another spelling (`as_ascii_bytes`). Sets grow to whole kinds, references back become the
expression they refer to, long repeats have no upper bound. Within a negative assertion all this turns round: there sets
shrink, and what cannot shrink is left out.
"""

import codecs
import functools
import re
import string
from collections.abc import Callable, Iterable
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

_WORD, _SPACE, _OTHER = "_", "\x0b", "\x7f"
_KINDS = (_WORD, _SPACE, _OTHER)
_MAX_REPEAT, _MAX_REPEAT_OF_ONE = 8, 32
"""Engines of automata copy what is repeated that often; a run of single characters costs less."""

_FOLDED = {"i": "\u0130\u0131", "k": "\u212a", "s": "\u017f"}
"""Characters that equal an ASCII letter where case is ignored."""
_WITHOUT_BYTE = re.compile(f"[{''.join(_FOLDED.values())}\u0345]")
"""Those, and a mark that equals a letter (a small iota) there."""


class _Kinds(dict[int, int]):
    def __missing__(self, code: int) -> int:
        self[code] = code if code < 128 else ord(_kind(chr(code)))
        return self[code]


_TABLE = _Kinds()


def as_bytes(text: str) -> bytes | None:
    """The text as relaxed expressions see it; None where one of its characters has no byte."""
    if text.isascii():
        return text.encode("ascii")
    return None if _WITHOUT_BYTE.search(text) else text.translate(_TABLE).encode("ascii")


def as_ascii_bytes(text: str) -> bytes:
    """The text as relaxed expressions that have `re.ASCII` see it."""
    return text.encode("ascii", _OTHERWISE)


def _stand_in(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return _OTHER * (error.end - error.start), error.end


_OTHERWISE = "ftlib.other"
codecs.register_error(_OTHERWISE, _stand_in)


def relaxed(pattern: re.Pattern[str]) -> str | None:
    """The weaker expression, in the syntax of PCRE, with no flags; None where there is none that says anything."""
    try:
        parsed = parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG)
        return _Relaxer().sequence(parsed, int(parsed.state.flags), over=True) or None
    except (_NothingSmaller, re.error, RecursionError):
        return None


class _NothingSmaller(Exception):
    """Within a negative assertion: this part cannot be made stricter."""


class _Relaxer:
    def __init__(self) -> None:
        self._groups: dict[int, str] = {}
        self._forms: dict[Any, Callable[[Any, int, bool], str]] = {
            sre.LITERAL: lambda code, flags, over: self._set([(sre.LITERAL, code)], flags, over),
            sre.NOT_LITERAL: lambda code, flags, over: self._set([(sre.NEGATE, 0), (sre.LITERAL, code)], flags, over),
            sre.IN: self._set,
            sre.ANY: self._any,
            sre.AT: self._place,
            sre.BRANCH: self._branch,
            sre.SUBPATTERN: self._subpattern,
            sre.MAX_REPEAT: self._repeat,
            sre.MIN_REPEAT: self._repeat,
            sre.POSSESSIVE_REPEAT: self._possessive,
            sre.ATOMIC_GROUP: self._atomic,
            sre.GROUPREF: self._back,
            sre.GROUPREF_EXISTS: self._if_group,
            sre.ASSERT: functools.partial(self._assertion, True),
            sre.ASSERT_NOT: functools.partial(self._assertion, False),
        }

    def sequence(self, items: Iterable[Any], flags: int, *, over: bool) -> str:
        parts, letters = [], ""
        for operator, argument in items:
            if flags & re.IGNORECASE and operator is sre.LITERAL and chr(argument) in string.ascii_letters:
                letters += chr(argument)  # the engine knows words, not chains of pairs
                continue
            parts += [f"(?i:{letters})" if letters else "", self._item(operator, argument, flags, over)]
            letters = ""
        return "".join([*parts, f"(?i:{letters})" if letters else ""])

    def _item(self, operator: Any, argument: Any, flags: int, over: bool) -> str:
        form = self._forms.get(operator)
        if form is None:
            raise re.error(f"unknown operator {operator}")
        return form(argument, flags, over)

    @staticmethod
    def _set(items: list[Any], flags: int, over: bool) -> str:
        members = _members(tuple(items), bool(flags & re.IGNORECASE), bool(flags & re.ASCII), over)
        if not members:
            raise _NothingSmaller
        ranges = _ranges(members)
        return ranges if len(members) == 1 else f"[{ranges}]"

    @staticmethod
    def _any(_: Any, flags: int, over: bool) -> str:
        return r"[\x00-\x7f]" if flags & re.DOTALL else r"[^\n]"

    def _branch(self, argument: Any, flags: int, over: bool) -> str:
        return f"(?:{'|'.join(self.sequence(branch, flags, over=over) for branch in argument[1])})"

    def _subpattern(self, argument: Any, flags: int, over: bool) -> str:
        number, added, removed, inner = argument
        if (added | removed) & re.ASCII or added & re.UNICODE:
            raise re.error("sets would mean another thing in a part than in the whole")
        return self._group(number, self.sequence(inner, (flags | added) & ~removed, over=over))

    def _atomic(self, argument: Any, flags: int, over: bool) -> str:
        return self._group(None, self.sequence(argument, flags, over=_only_larger(over)))

    def _possessive(self, argument: Any, flags: int, over: bool) -> str:
        return self._repeat(argument, flags, _only_larger(over))

    def _back(self, argument: Any, flags: int, over: bool) -> str:
        _only_larger(over)
        return f"(?:{self._groups[argument]})"

    def _if_group(self, argument: Any, flags: int, over: bool) -> str:
        _, yes, no = argument
        return self._branch((None, [yes, no or ()]), flags, _only_larger(over))

    def _group(self, number: int | None, inner: str) -> str:
        if number is not None:
            self._groups[number] = inner
        return f"(?:{inner})"

    def _repeat(self, argument: Any, flags: int, over: bool) -> str:
        low, high, inner = argument
        low = int(low)
        limit = "" if high is sre.MAXREPEAT else str(high)
        allowed = _MAX_REPEAT_OF_ONE if len(inner) == 1 and inner[0][0] in _ONE_CHARACTER else _MAX_REPEAT
        if over and (high is sre.MAXREPEAT or high > allowed):
            low, limit = min(low, allowed), ""
        return f"(?:{self.sequence(inner, flags, over=over)}){{{low},{limit}}}"

    @staticmethod
    def _place(where: Any, flags: int, over: bool) -> str:
        if where in (sre.AT_BOUNDARY, sre.AT_NON_BOUNDARY):
            return r"\b" if where is sre.AT_BOUNDARY else r"\B"
        _only_larger(over)  # the engine takes no anchors within an expression
        return ""

    def _assertion(self, positive: bool, argument: Any, flags: int, over: bool) -> str:
        direction, inner = argument
        try:
            expression = self.sequence(inner, flags, over=over is positive)
        except _NothingSmaller:
            if over:
                return ""
            raise
        return f"(?{'<' if direction < 0 else ''}{'=' if positive else '!'}{expression})"


def _ranges(members: Iterable[str]) -> str:
    """The inside of a set, neighbours written as a range: the engine takes no expression of over 16,000 bytes."""
    codes, parts = sorted(map(ord, members)), []
    while codes:
        last = next((i for i, code in enumerate(codes) if code != codes[0] + i), len(codes)) - 1
        parts.append(rf"\x{codes[0]:02x}" + (rf"-\x{codes[last]:02x}" if last > 1 else ""))
        codes = codes[last + 1 :] if last > 1 else codes[1:]
    return "".join(parts)


_ONE_CHARACTER = (sre.LITERAL, sre.NOT_LITERAL, sre.IN, sre.ANY)


def _only_larger(over: bool) -> bool:
    if not over:
        raise _NothingSmaller
    return over


def _kind(character: str) -> str:
    """The stand-in of a character beyond ASCII."""
    if character.isalnum():
        return _WORD
    return _SPACE if character.isspace() else _OTHER


_CATEGORIES: dict[Any, tuple[Callable[[str], bool], str, str]] = {
    sre.CATEGORY_WORD: (lambda c: c.isalnum() or c == "_", _WORD, _WORD),
    sre.CATEGORY_NOT_WORD: (lambda c: not (c.isalnum() or c == "_"), _SPACE + _OTHER, _SPACE + _OTHER),
    sre.CATEGORY_DIGIT: (str.isdecimal, _WORD, ""),
    sre.CATEGORY_NOT_DIGIT: (lambda c: not c.isdecimal(), _WORD + _SPACE + _OTHER, _SPACE + _OTHER),
    sre.CATEGORY_SPACE: (str.isspace, _SPACE, _SPACE),
    sre.CATEGORY_NOT_SPACE: (lambda c: not c.isspace(), _WORD + _OTHER, _WORD + _OTHER),
}
"""Test of a character; kinds of which some characters beyond ASCII belong to it; kinds of which all do."""
_ASCII_SPACES = " \t\n\r\f\v"
_ASCII_CATEGORIES: dict[Any, tuple[Callable[[str], bool], str, str]] = {
    sre.CATEGORY_WORD: (_CATEGORIES[sre.CATEGORY_WORD][0], "", ""),
    sre.CATEGORY_NOT_WORD: (_CATEGORIES[sre.CATEGORY_NOT_WORD][0], _OTHER, _OTHER),
    sre.CATEGORY_DIGIT: (str.isdecimal, "", ""),
    sre.CATEGORY_NOT_DIGIT: (_CATEGORIES[sre.CATEGORY_NOT_DIGIT][0], _OTHER, _OTHER),
    sre.CATEGORY_SPACE: (lambda c: c in _ASCII_SPACES, "", ""),
    sre.CATEGORY_NOT_SPACE: (lambda c: c not in _ASCII_SPACES, _OTHER, _OTHER),
}
"""The same with `re.ASCII`, where all characters beyond ASCII are of one kind."""


@functools.cache
def _members(items: tuple[Any, ...], ignore_case: bool, ascii_only: bool, over: bool) -> str:
    """The bytes that a set of characters becomes."""
    negated = items[0][0] is sre.NEGATE
    kinds = (_OTHER,) if ascii_only else _KINDS
    some, whole = _kinds_of(items[negated:], ascii_only)
    beyond = (set(kinds) - whole if over else set(kinds) - some) if negated else (some if over else whole)
    tests = _tests(items[negated:], ascii_only)
    members = ""
    for code in range(128):
        character = chr(code)
        spellings = {character}
        if ignore_case:
            spellings |= {character.swapcase(), *("" if ascii_only else _FOLDED.get(character.lower(), ""))}
        inside = any(test(spelling) for spelling in spellings for test in tests) is not negated
        if character in kinds:
            inside = (inside or character in beyond) if over else (inside and character in beyond)
        members += character if inside else ""
    return members


def _tests(items: tuple[Any, ...], ascii_only: bool) -> list[Callable[[str], bool]]:
    """Of each item of a set, whether a character is in it."""
    tests: list[Callable[[str], bool]] = []
    for operator, argument in items:
        if operator is sre.LITERAL:
            tests.append(chr(argument).__eq__)
        elif operator is sre.RANGE:
            low, high = argument
            tests.append(lambda c, low=low, high=high: low <= ord(c) <= high)  # type: ignore[misc]
        else:
            tests.append((_ASCII_CATEGORIES if ascii_only else _CATEGORIES)[argument][0])
    return tests


def _kinds_of(items: tuple[Any, ...], ascii_only: bool) -> tuple[set[str], set[str]]:
    """Kinds of which some characters beyond ASCII are in a set, and kinds of which all are."""
    some, whole = set[str](), set[str]()
    for operator, argument in items:
        if operator is sre.LITERAL and argument > 127:
            some.add(_OTHER if ascii_only else _kind(chr(argument)))
        elif operator is sre.RANGE and argument[1] > 127:
            some.update((_OTHER,) if ascii_only else _KINDS)
        elif operator is sre.CATEGORY:
            _, of_some, of_whole = (_ASCII_CATEGORIES if ascii_only else _CATEGORIES)[argument]
            some.update(of_some)
            whole.update(of_whole)
    return some, whole
