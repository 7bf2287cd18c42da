"""Letters by script, as contents of character classes, for expressions that must not take neighbours of another script.

`\\w` means letters of every script, and so a value beside Chinese or Cyrillic text has no word boundary. Values made of
ASCII are matched with `re.ASCII`; names and addresses with the classes below.
"""

import re
import sys
import unicodedata
from collections.abc import Callable

LATIN = r"A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
WORD = rf"0-9_{LATIN}"
"""What a Latin word or number goes on with."""
_GREEK = r"\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u03ff\u1f00-\u1fff"
_CYRILLIC = r"\u0400-\u0481\u048a-\u052f"


def char_class(test: Callable[[str], bool], within: str) -> str:
    """The characters of a class's contents that pass a test, as the contents of a class of ranges."""
    inside = re.compile(f"[{within}]")
    return ranges([code for code in range(0x2000) if test(chr(code)) and inside.match(chr(code))])


def ranges(codes: list[int]) -> str:
    """Sorted code points as the contents of a character class."""
    spans: list[list[int]] = []
    for code in codes:
        if spans and code == spans[-1][1] + 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return "".join(_escape(low) + (f"-{_escape(high)}" if high > low else "") for low, high in spans)


def _escape(code: int) -> str:
    return f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}"


def code_points(test: Callable[[str], bool], end: int = sys.maxunicode) -> list[int]:
    """All code points below `end` that pass a test."""
    return [code for code in range(end) if test(chr(code))]


def _is_upper(character: str) -> bool:
    return unicodedata.category(character) in {"Lu", "Lt"}


NOT_BEFORE, NOT_BEHIND = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
"""Edges of a value of ASCII. An underscore is none of its letters: Markdown and snake case put values between them."""
IN_MARKDOWN = (r"(?<![A-Za-z0-9]_)", r"(?!_[A-Za-z0-9])")
"""Further edges that let an underscore stand beside a value as emphasis (`_1984-03-12_`), but not within a name."""


LATIN_UP = char_class(_is_upper, LATIN)
_SCRIPTS = tuple((char_class(_is_upper, script), script) for script in (LATIN, _CYRILLIC, _GREEK))
_BLANKLESS = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u30ff\u3100-\u31ff\u3400-\u9fff\ua960-\ua97f\uac00-\ud7ff"
    r"\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Scripts whose words stand side by side: Chinese, Japanese, Thai, Lao, Burmese, Khmer; Korean adds particles."""


def alone(value: str) -> str:
    """The expression of a value as whole words: not within a longer word of its script, whatever else stands beside."""
    return f"{_edge(value[0], '(?<!')}{re.escape(value)}{_edge(value[-1], '(?!')}"


def _edge(character: str, look: str) -> str:
    for word in (WORD, _CYRILLIC, _GREEK):
        if re.match(f"[{word}]", character):
            return f"{look}[{word}])"
    return "" if _BLANKLESS.match(character) else rf"{look}\w)"


UP = "(?:" + "|".join(f"[{up}]" for up, _ in _SCRIPTS) + ")"
"""A capital of an alphabet that has capitals."""


LABEL_END = rf"(?:(?<![{LATIN}])|(?![{LATIN}]))"
"""Behind a label: not within a longer Latin word; a value may follow a label of another script at once."""
ANY_UP = "".join(up for up, _ in _SCRIPTS)
ALPHABETIC = "".join(script for _, script in _SCRIPTS)


def compile_latin(pattern: str, flags: int = 0) -> re.Pattern[str]:
    r"""An expression in whose look-arounds `\w` means letters of the Latin alphabet, digits and `_`.

    So a name may stand right beside letters of another script, but not within a longer word.
    """
    for look in ("(?<!", "(?!"):
        pattern = pattern.replace(rf"{look}\w)", rf"{look}[{WORD}])").replace(rf"{look}[\w", rf"{look}[{WORD}")
        pattern = pattern.replace(rf"{look}\w|", rf"{look}[{WORD}]|")
    return re.compile(pattern, flags)


def one_script(template: str) -> str:
    """Alternatives of an expression for each alphabet with capitals: `{up}` and `{any}` stand for its classes."""
    return "(?:" + "|".join(template.format(up=f"[{up}]", any=f"[{script}]") for up, script in _SCRIPTS) + ")"
