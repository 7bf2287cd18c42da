"""Check digits of numbers that carry them. Every function takes the value as written and ignores its separators."""

from datetime import date

_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18,
    "NO": 15, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24,
    "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24,
    "XK": 20,
}  # fmt: skip


def _digits(value: str) -> list[int]:
    return [int(character) for character in value if character.isdecimal()]


def luhn(value: str) -> bool:
    """Payment cards, IMEI and others (ISO/IEC 7812-1)."""
    total = 0
    for index, digit in enumerate(reversed(_digits(value))):
        doubled = digit * 2 if index % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def card(value: str) -> bool:
    """A payment card: 13 to 19 digits, not all alike, Luhn."""
    digits = _digits(value)
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn(value)


_ISSUERS = (
    (1, 4, 4), (2, 51, 55), (4, 2221, 2720), (2, 34, 34), (2, 37, 37), (4, 6011, 6011), (3, 644, 659), (4, 3528, 3589),
    (3, 300, 305), (4, 3095, 3095), (2, 36, 36), (2, 38, 39), (2, 62, 62), (2, 81, 82), (2, 50, 50), (2, 56, 58),
    (2, 60, 61), (2, 63, 69), (4, 2200, 2204), (4, 9792, 9792),
)  # fmt: skip
"""Length of the prefix, and its lowest and highest value, of card schemes (ISO/IEC 7812, published lists)."""


def issued_card(value: str) -> bool:
    """Whether digits begin like a card scheme's numbers and have a length that it issues."""
    if not any(low <= int(value[:size]) <= high for size, low, high in _ISSUERS):
        return False
    if value[:2] in {"34", "37"}:
        return len(value) == 15
    if value[0] == "4":
        return len(value) in {13, 16, 19}
    if value[:2] in {"30", "36", "38", "39"}:
        return 14 <= len(value) <= 19
    if value[:2] in {"50", "56", "57", "58", "60", "61", "63", "66", "67", "68", "69"}:
        return len(value) == 16 or 13 <= len(value) <= 19
    return 16 <= len(value) <= 19


def iban_country_length(value: str) -> int | None:
    """The length of an IBAN of the country whose code a value begins with."""
    return _IBAN_LENGTHS.get(value[:2].upper())


def iban_length(value: str) -> bool:
    """Whether an IBAN has its country's length (ISO 13616)."""
    compact = "".join(character for character in value if character.isalnum()).upper()
    return _IBAN_LENGTHS.get(compact[:2]) == len(compact)


def iban(value: str) -> bool:
    """IBAN with its country's length and check digits (ISO 7064 mod 97-10)."""
    compact = "".join(character for character in value if character.isalnum()).upper()
    if not compact.isascii() or _IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def iban_check_digits(country: str, account: str) -> str:
    """The two check digits for a country and account part."""
    number = int("".join(str(int(character, 36)) for character in (account + country + "00").upper()))
    return f"{98 - number % 97:02d}"


def luhn_check_digit(body: str) -> str:
    """The digit that completes `body` to a number that `luhn` accepts."""
    return next(digit for digit in "0123456789" if luhn(body + digit))


def aba_routing(value: str) -> bool:
    """US bank routing number: nine digits weighted 3, 7, 1."""
    digits = _digits(value)
    weighted = sum(digit * (3, 7, 1)[index % 3] for index, digit in enumerate(digits))
    return len(digits) == 9 and any(digits) and weighted % 10 == 0


def vin(value: str) -> bool:
    """Vehicle identification number with its North American check digit (49 CFR 565)."""
    letters = dict(zip("ABCDEFGHJKLMNPRSTUVWXYZ", [*range(1, 9), 1, 2, 3, 4, 5, 7, 9, *range(2, 10)], strict=True))
    weights = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
    value = value.upper()
    if len(value) != 17 or any(not c.isdecimal() and c not in letters for c in value):
        return False
    total = sum((int(c) if c.isdecimal() else letters[c]) * w for c, w in zip(value, weights, strict=True))
    return value[8] == "0123456789X"[total % 11]


def dea(value: str) -> bool:
    """US DEA registration: two letters, seven digits, the last one a check digit."""
    digits = _digits(value)
    return (
        len(digits) == 7
        and (digits[0] + digits[2] + digits[4] + 2 * (digits[1] + digits[3] + digits[5])) % 10 == (digits[6])
    )


def real_date(year: int, month: int, day: int) -> bool:
    """Whether a calendar day exists."""
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True
