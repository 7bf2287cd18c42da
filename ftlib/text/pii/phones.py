"""Telephone numbers as each country writes them at home, told by the phonenumbers library.

In: a text, its language and `pii.regions`. Out: numbers that the library holds valid in one of the regions. Those of
`pii.regions` are asked for every text, those of a language for texts in it: each region is another scan of the text.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from ftlib.text.pii.finding import Finding
from ftlib.text.pii.rules import ExpressionRecognizer, num_digits

_SCORE = 0.4
# Where a language is spoken by most people; English ones are `pii.regions`' to name.
_LANGUAGE_REGIONS = {
    "ar": ("SA", "EG", "AE"), "bg": ("BG",), "ca": ("ES",), "cs": ("CZ",), "da": ("DK",), "de": ("DE", "AT", "CH"),
    "el": ("GR",), "es": ("ES", "MX", "AR", "CO"), "et": ("EE",), "fi": ("FI",), "fr": ("FR", "BE", "CH"),
    "he": ("IL",), "hi": ("IN",), "hr": ("HR",), "hu": ("HU",), "id": ("ID",), "it": ("IT", "CH"), "ja": ("JP",),
    "ko": ("KR",), "lt": ("LT",), "lv": ("LV",), "ms": ("MY",), "nb": ("NO",), "nl": ("NL", "BE"), "no": ("NO",),
    "pl": ("PL",), "pt": ("PT", "BR"), "ro": ("RO",), "ru": ("RU",), "sk": ("SK",), "sl": ("SI",), "sr": ("RS",),
    "sv": ("SE",), "th": ("TH",), "tr": ("TR",), "uk": ("UA",), "vi": ("VN",), "zh": ("CN", "TW", "HK"),
}  # fmt: skip
_SEVEN_DIGITS = re.compile(r"(?<![A-Za-z\d])\d(?:[\s().\-/]{0,3}\d){6}")
"""No number of its own begins within a word."""
_OTHER_NUMBER = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}.*|\d{1,2}([-/.])\d{1,2}\1(?:19|20)?\d{2}|\d+\.\d+|[1-9]\d{0,2}(?:([.,])\d{3})(?:\2\d{3})+",
    re.ASCII,
)
"""Dates, decimals, and amounts with a sign between thousands."""
_MONEY_BEFORE = re.compile(r"(?:[$€£¥₹₽]|\b(?:EUR|USD|GBP|CHF))\s?$")
_MONEY_BEHIND = re.compile(r"(?:[,.]\d{1,2})?\s?(?:[$€£¥₹₽%]|(?:EUR|USD|GBP|CHF|PLN|euros?|dollars?|pesos)\b)", re.I)


def regions_of(language: str, always: Sequence[str]) -> tuple[str, ...]:
    """The regions whose numbers a text in this language may have, without repetitions."""
    return tuple(dict.fromkeys((*always, *_LANGUAGE_REGIONS.get(language, ()))))


class PhoneLibraryRecognizer(ExpressionRecognizer):
    """The slowest recognizer, run only where a run of seven digits stands uncovered."""

    only_uncovered = True

    def __init__(self, language: str = "en", regions: Sequence[str] = ("US", "GB")) -> None:
        self._regions = tuple(regions)
        self._by_language: dict[str, PhoneLibraryRecognizer] = {}
        super().__init__("PhoneLibraryRecognizer", [("PHONE_NUMBER", _SEVEN_DIGITS)], language)

    def reading(self, language: str) -> "PhoneLibraryRecognizer":
        """One that asks for the regions of a language, too."""
        if language not in self._by_language:
            more = regions_of(language, self._regions)
            self._by_language[language] = PhoneLibraryRecognizer(language, more) if more != self._regions else self
        return self._by_language[language]

    def find(self, text: str, numbers: Iterable[int]) -> Iterator[Finding]:
        """Numbers that are valid in one of the regions."""
        if not any(self.expressions[number][1].search(text) for number in numbers):
            return
        for start, end in _valid_numbers(text, self._regions):
            if not _is_other_number(text, start, end):
                yield Finding(start, end, "PHONE_NUMBER", _SCORE)


def _valid_numbers(text: str, regions: Sequence[str]) -> set[tuple[int, int]]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    return {
        (match.start, match.end)
        for region in regions
        for match in PhoneNumberMatcher(text, region, leniency=Leniency.VALID)
    }


def _is_other_number(text: str, start: int, end: int) -> bool:
    """Short numbers, dates, decimals and amounts, which the library takes for numbers of telephones."""
    value = text[start:end]
    if num_digits(value) < 7 or _OTHER_NUMBER.fullmatch(value):
        return True
    return bool(_MONEY_BEFORE.search(text, max(0, start - 5), start) or _MONEY_BEHIND.match(text, end))
