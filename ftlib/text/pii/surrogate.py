"""False values in the form of true ones, made from a keyed hash: HMAC-SHA-256 over entity and normalised value.

The same value gives the same surrogate under the same key, in any process and order, with no table to keep. Lengths,
separators, letter case and check digits are kept, so that a model still learns the form; countries of IBANs and the
titles of persons stay. A surrogate never equals the value it stands for.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterator
from datetime import date, timedelta

from ftlib.text.pii import checksums

# Everyday names that together point at nobody.
_FIRST = (
    "Alex",
    "Robin",
    "Sam",
    "Kim",
    "Jamie",
    "Chris",
    "Pat",
    "Terry",
    "Casey",
    "Jordan",
    "Morgan",
    "Taylor",
    "Riley",
    "Avery",
    "Quinn",
    "Rowan",
    "Sasha",
    "Dana",
    "Lee",
    "Jess",
    "Nicky",
    "Charlie",
    "Frankie",
    "Drew",
    "Toni",
    "Andy",
)
_LAST = (
    "Ashford",
    "Barlow",
    "Carver",
    "Denholm",
    "Eastman",
    "Fairley",
    "Granger",
    "Holloway",
    "Ingram",
    "Jarvis",
    "Kendrick",
    "Lowell",
    "Marlow",
    "Norwood",
    "Oakley",
    "Pemberton",
    "Quigley",
    "Ramsey",
    "Selwyn",
    "Thornton",
    "Underhill",
    "Vickers",
    "Whitlock",
    "Yardley",
)
_PLACES = (
    "Ashby",
    "Brookfield",
    "Cedarton",
    "Dunmore",
    "Elmhaven",
    "Farrowdale",
    "Glenwick",
    "Harborview",
    "Ivydale",
    "Kestrel Bay",
    "Larkspur",
    "Millbrook",
    "Northmere",
    "Oakhurst",
    "Pinecrest",
    "Quarry Hill",
    "Rosedale",
    "Stonebridge",
)
_STREETS = (
    "Alder",
    "Birch",
    "Cobble",
    "Dapple",
    "Ember",
    "Fern",
    "Grove",
    "Hazel",
    "Iris",
    "Juniper",
    "Kiln",
    "Linden",
)
_FIRMS = (
    "Northwind",
    "Bluepeak",
    "Ironbridge",
    "Clearwater",
    "Redstone",
    "Silverline",
    "Greenfield",
    "Summit",
    "Harborlight",
)
_FORMS = ("Ltd", "Inc", "Group", "Partners", "LLC")
_TITLE = re.compile(r"(?i)((?:mr|mrs|ms|miss|mx|dr|doctor|prof|professor|sir|madam|rev|nurse|judge)\b\.?\s+)")
_ISO = re.compile(r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})")
_SLASHED = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4}|\d{2})\b")
_MAX_SHIFT_DAYS = 182


class _Stream:
    """Endless pseudo-random bytes from a keyed hash, as numbers below a bound."""

    def __init__(self, key: bytes, label: str) -> None:
        self._key, self._label = key, label.encode()
        self._bytes = self._blocks()

    def _blocks(self) -> Iterator[int]:
        counter = 0
        while True:
            yield from hmac.new(self._key, self._label + b"\0" + str(counter).encode(), hashlib.sha256).digest()
            counter += 1

    def below(self, bound: int) -> int:
        """A number in 0 … bound - 1 (bias below 2^-24 for the bounds used here)."""
        return int.from_bytes(bytes(next(self._bytes) for _ in range(4)), "big") % bound

    def pick(self, values: tuple[str, ...]) -> str:
        return values[self.below(len(values))]


class Surrogates:
    """Makes surrogates under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._makers: dict[str, Callable[[str, _Stream], str]] = {
            "PERSON": _person,
            "LOCATION": lambda value, stream: _cased(value, stream.pick(_PLACES)),
            "ORGANIZATION": lambda value, stream: f"{stream.pick(_FIRMS)} {stream.pick(_FORMS)}",
            "STREET_ADDRESS": _address,
            "EMAIL_ADDRESS": _email,
            "URL": lambda value, stream: f"https://example.com/{_hex(stream, 10)}",
            "IP_ADDRESS": _ip,
            "CREDIT_CARD": _card,
            "IBAN_CODE": _iban,
            "US_SSN": _ssn,
            "AGE": lambda value, stream: "90",
        }

    def make(self, entity: str, value: str, subject: str = "") -> str:
        """The surrogate of a value."""
        if entity in {"DATE_TIME", "DATE_OF_BIRTH"}:
            shifted = self._shift_dates(value, subject)
            if shifted != value:
                return shifted
        normalised = " ".join(value.casefold().split())
        maker = self._makers.get(entity, _same_form)
        for attempt in range(8):
            made = maker(value, _Stream(self._key, f"{entity}\0{normalised}\0{attempt}"))
            if made.casefold() != value.casefold():
                return made
        return f"[{entity}]"

    def _shift_dates(self, value: str, subject: str) -> str:
        """Calendar dates moved by the subject's offset: 1 … 182 days back or forth; months in words are moved, too."""
        stream = _Stream(self._key, f"date\0{subject}")
        days = (1 + stream.below(_MAX_SHIFT_DAYS)) * (1 if stream.below(2) else -1)

        def moved(year: int, month: int, day: int) -> date | None:
            return date(year, month, day) + timedelta(days) if checksums.real_date(year, month, day) else None

        def iso(match: re.Match[str]) -> str:
            new = moved(int(match[1]), int(match[3]), int(match[4]))
            return new.strftime(f"%Y{match[2]}%m{match[2]}%d") if new else match[0]

        def slashed(match: re.Match[str]) -> str:
            first, second = int(match[1]), int(match[3])
            year = int(match[4]) if len(match[4]) == 4 else 2000 + int(match[4])
            month, day = (first, second) if first <= 12 else (second, first)
            new = moved(year, month, day)
            if new is None:
                return match[0]
            order = (new.month, new.day) if first <= 12 else (new.day, new.month)
            written = str(new.year) if len(match[4]) == 4 else f"{new.year % 100:02d}"
            return match[2].join([f"{order[0]:0{len(match[1])}d}", f"{order[1]:0{len(match[3])}d}", written])

        shifted, count = _ISO.subn(iso, value)
        return shifted if count else _SLASHED.sub(slashed, value)


def _hex(stream: _Stream, length: int) -> str:
    return "".join("0123456789abcdef"[stream.below(16)] for _ in range(length))


def _cased(value: str, made: str) -> str:
    if value.isupper():
        return made.upper()
    return made.lower() if value.islower() else made


def _same_form(value: str, stream: _Stream) -> str:
    """Digits for digits, letters for letters of the same case; everything else stays."""
    made = []
    for character in value:
        if character.isdecimal():
            made.append("0123456789"[stream.below(10)])
        elif character.isalpha():
            letter = "abcdefghijklmnopqrstuvwxyz"[stream.below(26)]
            made.append(letter.upper() if character.isupper() else letter)
        else:
            made.append(character)
    if value.isspace() or not any(map(str.isalnum, value)):
        return "*" * len(value)
    return "".join(made)


def _with_digits(value: str, digits: str) -> str:
    """The value with its digits replaced in order."""
    supply = iter(digits)
    return "".join(next(supply) if character.isdecimal() else character for character in value)


def _person(value: str, stream: _Stream) -> str:
    title = _TITLE.match(value)
    words = value[title.end() if title else 0 :].split()
    names = [stream.pick(_LAST)] if title and len(words) == 1 else [stream.pick(_FIRST)]
    if len(words) > 1:
        names.append(stream.pick(_LAST))
    return (title.group() if title else "") + _cased(value, " ".join(names))


def _address(value: str, stream: _Stream) -> str:
    street = f"{1 + stream.below(998)} {stream.pick(_STREETS)} Street"
    place = f"{stream.pick(_PLACES)} {10000 + stream.below(89999)}"
    return _cased(value, f"{street}, {place}" if len(value) > 28 else street)


def _email(value: str, stream: _Stream) -> str:
    return f"{stream.pick(_FIRST)}.{stream.pick(_LAST)}{stream.below(1000)}@example.com".lower()


def _ip(value: str, stream: _Stream) -> str:
    """An address from the ranges kept for documentation and tests (RFC 2544, RFC 3849)."""
    if ":" in value:
        return "2001:db8:" + ":".join(_hex(stream, 4) for _ in range(6))
    return f"198.{18 + stream.below(2)}.{stream.below(256)}.{1 + stream.below(254)}"


def _card(value: str, stream: _Stream) -> str:
    count = sum(map(str.isdecimal, value))
    if count < 12:
        return _same_form(value, stream)
    first = next(character for character in value if character.isdecimal())
    body = first + "".join(str(stream.below(10)) for _ in range(count - 2))
    return _with_digits(value, body + checksums.luhn_check_digit(body))


def _iban(value: str, stream: _Stream) -> str:
    if not checksums.iban(value):
        return _same_form(value, stream)
    account = _same_form("".join(filter(str.isalnum, value))[4:], stream)
    supply = iter(value[:2] + checksums.iban_check_digits(value[:2], account) + account)
    return "".join(next(supply) if character.isalnum() else character for character in value)


def _ssn(value: str, stream: _Stream) -> str:
    """An area number from 900 up, which is never issued."""
    digits = "9" + "".join(str(stream.below(10)) for _ in range(sum(map(str.isdecimal, value)) - 1))
    return _with_digits(value, digits)
