"""Names of months in the languages whose texts are always looked at, as alternatives of an expression.

They come from Babel (CLDR), so that no list has to be kept here: the forms in a date and alone, whole and abbreviated.
"""

import functools
import re

from ftlib.text.pii.fold import folded

LANGUAGES = (
    "en", "de", "fr", "es", "it", "nl", "pt", "pl", "ru", "ar", "sv", "da", "nb", "fi", "cs", "sk", "tr", "ro", "hu",
    "el", "uk", "bg", "hr", "sl", "lt", "lv", "et", "ca", "id", "th", "he", "fa", "hi",
)  # fmt: skip
# Words of English and of others that a number may stand before in any text: `3 mars`, `5 out of`, `2 set`.
_WORDS = {
    "mars", "mar", "set", "out", "sept", "dec", "jan", "ago", "may", "mai", "gen", "luty", "lis", "maj", "sty", "sie",
    "cze", "wrz", "gru", "kas", "tem", "eki", "haz", "ene",
}  # fmt: skip


@functools.cache
def month_names() -> tuple[frozenset[str], frozenset[str]]:
    """Names that are months by themselves, and those that are only beside a year. In small letters, folded."""
    from babel.dates import get_month_names

    sure, doubtful = set[str](), set[str]()
    for language in LANGUAGES:
        for width in ("wide", "abbreviated"):
            for context in ("format", "stand-alone"):
                for name in get_month_names(width, context, language).values():
                    plain = folded(name).strip(" .").casefold()
                    if plain.isdecimal() or len(plain) < 2:
                        continue
                    whole = width == "wide" and len(plain) > 2 and plain not in _WORDS
                    (sure if whole else doubtful).add(plain)
    return frozenset(sure), frozenset(doubtful - sure)


def alternatives(names: frozenset[str]) -> str:
    """Names as alternatives, grouped by their first letter; accents of Latin letters may be missing."""
    by_head: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: (-len(name), name)):
        by_head.setdefault(name[0], []).append(name[1:])
    return "|".join(f"{loose(head)}(?:{'|'.join(map(loose, tails))})" for head, tails in sorted(by_head.items()))


_PLAIN = {
    "ä": "(?:ä|ae?)", "ö": "(?:ö|oe?)", "ü": "(?:ü|ue?)", "ß": "(?:ß|"
    "ss)", "á": "[áa]", "à": "[àa]", "â": "[âa]", "ã": "[ãa]",
    "é": "[ée]", "è": "[èe]", "ê": "[êe]", "ë": "[ëe]", "í": "[íi]", "î": "[îi]", "ó": "[óo]", "ô": "[ôo]", "õ": "[õo]",
    "ú": "[úu]", "û": "[ûu]", "ç": "[çc]", "ñ": "[ñn]", "ł": "[łl]", "ę": "[ęe]", "ą": "[ąa]", "ś": "[śs]", "ż": "[żz]",
    "ź": "[źz]", "ń": "[ńn]", "ć": "[ćc]", "å": "(?:å|aa?)", "ø": "(?:ø|oe?)", "ş": "[şs]", "ı": "[ıi]", "ğ": "[ğg]",
}  # fmt: skip


def loose(text: str) -> str:
    """A text as an expression in which accents may be missing; blanks of any number."""
    return re.sub(r"(?:\\ )+", r"\\s{1,3}", "".join(_PLAIN.get(letter, re.escape(letter)) for letter in text))


def with_loose_accents(expression: str) -> str:
    """An expression in small letters, with accents that may be missing."""
    return "".join(_PLAIN.get(letter, letter) for letter in expression)
