"""Recognizers for numbers that their check digits prove, however they are written: payment cards and IBAN.

A candidate is a run of digits with up to three signs between any two of them: blanks, line ends, dots, dashes,
underscores, mixed. Of its groups those are taken together that make a number of a known issuer's length with a right
check digit. As one run of digits in ten passes Luhn's test, the groups must also look like a number that was split:
of one length but for the last, or as issuers print them.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

from ftlib.text.pii import checksums
from ftlib.text.pii.finding import Finding
from ftlib.text.pii.presidio import LocalRecognizer
from ftlib.text.pii.rules import ExpressionRecognizer

_GAP = r"(?:[^\w,;]|_|\\[nrt]){0,3}"
_CARD = re.compile(rf"(?<!\d)\d(?:{_GAP}\d){{12}}", re.ASCII)
_RUN = re.compile(rf"\d(?:{_GAP}\d){{12,}}", re.ASCII)
_GROUP = re.compile(r"\d+", re.ASCII)
_PRINTED = {(4, 6, 5), (4, 6, 4), (4, 4, 5), (6, 13), (6, 9), (6, 10), (4, 12), (4, 11), (4, 4, 8)}
_IBAN = re.compile(rf"(?<![A-Za-z0-9])[A-Z]{{2}}{_GAP}\d{_GAP}\d(?:{_GAP}[A-Z0-9]){{11,30}}", re.ASCII)
_IBAN_SMALL = re.compile(
    r"(?<![A-Za-z0-9])[a-z]{2}\d{2}(?:[ -]?[a-z0-9]{4}){2,7}(?:[ -]?[a-z0-9]{1,3})?(?![A-Za-z0-9])", re.ASCII
)
_MAX_GROUPS = 19


class ProvenNumberRecognizer(ExpressionRecognizer):
    """Cards by issuer, length and Luhn; IBAN by country, length and mod 97."""

    def __init__(self, language: str = "en") -> None:
        expressions = [("CREDIT_CARD", _CARD), ("IBAN_CODE", _IBAN), ("IBAN_CODE", _IBAN_SMALL)]
        super().__init__("ProvenNumberRecognizer", expressions, language)

    def find(self, text: str, numbers: Iterable[int]) -> Iterator[Finding]:
        """Numbers that prove themselves."""
        for number in numbers:
            entity, pattern = self.expressions[number]
            places = _cards(text) if entity == "CREDIT_CARD" else _ibans(text, pattern)
            for start, end in places:
                yield Finding(start, end, entity, 1.0)


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for run in _RUN.finditer(text):
        groups = [match.span() for match in _GROUP.finditer(text, run.start(), run.end())]
        first = 0
        while first < len(groups):
            last = None if _is_fraction(text, *groups[first]) else _card_end(text, groups, first)
            if last is not None:
                yield groups[first][0], groups[last - 1][1]
            first = first + 1 if last is None else last


def _is_fraction(text: str, start: int, end: int) -> bool:
    """Whether digits are those behind a decimal point."""
    return end - start >= 13 and re.fullmatch(r"\d[.,]", text[max(0, start - 2) : start]) is not None


def _card_end(text: str, groups: Sequence[tuple[int, int]], first: int) -> int | None:
    """The number of the group behind a card that begins with a group."""
    digits = ""
    for last in range(first, min(first + _MAX_GROUPS, len(groups))):
        digits += text[slice(*groups[last])]
        if len(digits) > 19:
            return None
        if len(digits) >= 13 and _is_split_card(text, digits, groups[first : last + 1]):
            return last + 1
    return None


def _is_split_card(text: str, digits: str, groups: Sequence[tuple[int, int]]) -> bool:
    if not (checksums.issued_card(digits) and checksums.card(digits)):
        return False
    sizes = tuple(end - start for start, end in groups)
    gaps = {text[left[1] : right[0]] for left, right in itertools.pairwise(groups)}
    regular = len(set(sizes[:-1])) <= 1 and sizes[-1] <= sizes[0]
    return sizes in _PRINTED or (regular and (sizes[0] >= 3 or len(gaps) == 1))


def _ibans(text: str, pattern: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    for match in pattern.finditer(text):
        places = [place for place in range(*match.span()) if text[place].isascii() and text[place].isalnum()]
        letters = "".join(text[place] for place in places)
        length = checksums.iban_country_length(letters)
        # Behind a letter n of an escape like `\n` the count would be out; such a value passes no check.
        if length is None or len(letters) < length:
            continue
        end = places[length - 1] + 1
        following = text[end : end + 1]
        if not (following.isascii() and following.isalnum()) and checksums.iban(letters[:length]):
            yield match.start(), end


def proven_recognizers(language: str) -> list[LocalRecognizer]:
    """Cards and IBAN in any writing."""
    return [ProvenNumberRecognizer(language)]
