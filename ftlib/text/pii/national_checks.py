"""Check digits of national numbers of people. Every function takes the value as written, in the form of `national`."""

import re
from collections.abc import Iterable, Sequence

from ftlib.text.pii.checksums import luhn, real_date


def _digits(value: str) -> list[int]:
    return [int(character) for character in value if character.isdecimal()]


def _compact(value: str) -> str:
    return "".join(character for character in value if character.isalnum()).upper()


def _weighted(digits: Iterable[int], weights: Sequence[int]) -> int:
    return sum(digit * weight for digit, weight in zip(digits, weights, strict=False))


def _day(digits: Sequence[int], order: str, century: int | None = None) -> bool:
    """Whether six digits are a day, in the order `ymd` or `dmy`; with no century in either of two."""
    pairs = {letter: digits[2 * place] * 10 + digits[2 * place + 1] for place, letter in enumerate(order)}
    centuries = (century,) if century else (1900, 2000)
    return any(real_date(base + pairs["y"], pairs["m"], pairs["d"]) for base in centuries)


def spanish(value: str) -> bool:
    """DNI and NIE: the letter is the number modulo 23."""
    compact = _compact(value)
    number = compact[:-1].translate(str.maketrans("XYZ", "012"))
    return number.isdecimal() and "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == compact[-1]


def italian(value: str) -> bool:
    """Codice fiscale: values of odd and even places modulo 26."""
    compact = _compact(value)
    odd = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
                   (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12,
                    14, 16, 10, 22, 25, 24, 23), strict=True))  # fmt: skip
    even = {c: int(c) if c.isdecimal() else ord(c) - 65 for c in odd}
    total = sum(odd[c] if place % 2 == 0 else even[c] for place, c in enumerate(compact[:15]))
    return compact[15] == chr(65 + total % 26)


def french(value: str) -> bool:
    """NIR: 97 less the number modulo 97; Corsica's 2A and 2B count as 19 and 18."""
    compact = _compact(value).replace("2A", "19").replace("2B", "18")
    return compact.isdecimal() and 97 - int(compact[:13]) % 97 == int(compact[13:])


def german_tax(value: str) -> bool:
    """Steuer-ID: ISO 7064 mod 11, 10; of ten digits one occurs twice or thrice."""
    digits = _digits(value)
    counts = [digits[:10].count(digit) for digit in set(digits[:10])]
    if len(digits) != 11 or digits[0] == 0 or max(counts) not in (2, 3) or sum(count > 1 for count in counts) != 1:
        return False
    product = 10
    for digit in digits[:10]:
        product = ((digit + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == digits[10]


def german_insurance(value: str) -> bool:
    """Rentenversicherungsnummer: digits sums of weighted digits modulo 10, the letter as two digits."""
    compact = _compact(value)
    digits = _digits(f"{compact[:8]}{ord(compact[8]) - 64:02d}{compact[9:11]}")
    total = sum(sum(divmod(d * w, 10)) for d, w in zip(digits, (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1), strict=True))
    return total % 10 == int(compact[11])


def swiss(value: str) -> bool:
    """AHV: EAN-13."""
    digits = _digits(value)
    return len(digits) == 13 and (sum(digits[0::2]) + 3 * sum(digits[1::2])) % 10 == 0


def dutch(value: str) -> bool:
    """BSN: the test of eleven."""
    digits = _digits(value)
    return len(digits) == 9 and any(digits) and (_weighted(digits, range(9, 1, -1)) - digits[8]) % 11 == 0


def belgian(value: str) -> bool:
    """Rijksregisternummer: 97 less the number modulo 97, from 2000 on with a 2 before it."""
    digits = "".join(map(str, _digits(value)))
    if len(digits) != 11:
        return False
    return int(digits[9:]) in {97 - int(digits[:9]) % 97, 97 - int("2" + digits[:9]) % 97}


def polish(value: str) -> bool:
    """PESEL: weights 1, 3, 7, 9; the month holds the century."""
    digits = _digits(value)
    month = (digits[2] * 10 + digits[3]) % 20
    return (
        len(digits) == 11 and 1 <= month <= 12 and 1 <= digits[4] * 10 + digits[5] <= 31
        and (_weighted(digits[:10], (1, 3, 7, 9) * 3) + digits[10]) % 10 == 0
    )  # fmt: skip


def romanian(value: str) -> bool:
    """CNP: weights 279146358279 modulo 11."""
    digits = _digits(value)
    rest = _weighted(digits[:12], (2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9)) % 11
    return (
        len(digits) == 13
        and 1 <= digits[0] <= 8
        and _day(digits[1:7], "ymd")
        and digits[12] == (1 if rest == 10 else rest)
    )


def bulgarian(value: str) -> bool:
    """EGN: weights 2, 4, 8, 5, 10, 9, 7, 3, 6 modulo 11; months from 21 and 41 on are of other centuries."""
    digits = _digits(value)
    month = digits[2] * 10 + digits[3]
    plausible = any(1 <= month - shift <= 12 for shift in (0, 20, 40)) and 1 <= digits[4] * 10 + digits[5] <= 31
    return plausible and _weighted(digits[:9], (2, 4, 8, 5, 10, 9, 7, 3, 6)) % 11 % 10 == digits[9]


def czech(value: str) -> bool:
    """Rodné číslo: divisible by 11; women's months have 50 more, or 20 and 70 where numbers ran out."""
    digits = _digits(value)
    month = (digits[2] * 10 + digits[3]) % 50 % 20
    if not (1 <= month <= 12 and 1 <= digits[4] * 10 + digits[5] <= 31):
        return False
    number = "".join(map(str, digits))
    return int(number) % 11 == 0 or (int(number[:9]) % 11 == 10 and number[9] == "0")


def swedish(value: str) -> bool:
    """Personnummer: Luhn over ten digits; 60 is added to the day of co-ordination numbers."""
    digits = _digits(value)[-10:]
    day = digits[4] * 10 + digits[5]
    return (
        1 <= digits[2] * 10 + digits[3] <= 12
        and 1 <= (day - 60 if day > 60 else day) <= 31
        and luhn("".join(map(str, digits)))
    )


def danish(value: str) -> bool:
    """CPR: a day and four digits; its modulo 11 has not been kept since 2007."""
    return _day(_digits(value), "dmy")


def norwegian(value: str) -> bool:
    """Fødselsnummer: two check digits modulo 11; 40 is added to the day of D numbers."""
    digits = _digits(value)
    first = (11 - _weighted(digits[:9], (3, 7, 6, 1, 8, 9, 4, 5, 2)) % 11) % 11
    second = (11 - _weighted([*digits[:9], first], (5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11) % 11
    return len(digits) == 11 and digits[9:] == [first, second] and 1 <= digits[2] * 10 + digits[3] <= 12


def finnish(value: str) -> bool:
    """Henkilötunnus: the nine digits modulo 31."""
    compact = re.sub(r"[^0-9A-Z]", "", value[:6] + value[7:].upper())
    return _day(_digits(compact[:6]), "dmy") and "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(compact[:9]) % 31] == compact[9]


def turkish(value: str) -> bool:
    """T.C. kimlik: two check digits."""
    d = _digits(value)
    return (
        len(d) == 11 and d[0] != 0 and (7 * sum(d[0:9:2]) - sum(d[1:8:2])) % 10 == d[9] and sum(d[:10]) % 10 == d[10]
    )  # fmt: skip


def brazilian(value: str) -> bool:
    """CPF: two check digits modulo 11."""
    digits = _digits(value)
    if len(digits) != 11 or len(set(digits)) == 1:
        return False
    return all(_weighted(digits[:n], range(n + 1, 1, -1)) * 10 % 11 % 10 == digits[n] for n in (9, 10))


def brazilian_firm(value: str) -> bool:
    """CNPJ: two check digits modulo 11."""
    digits = _digits(value)
    weights = (6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2)
    if len(digits) != 14 or len(set(digits)) == 1:
        return False
    return all((11 - _weighted(digits[:n], weights[13 - n :]) % 11) % 11 % 10 == digits[n] for n in (12, 13))


def chilean(value: str) -> bool:
    """RUT: weights 2 … 7 from the right modulo 11; K stands for ten."""
    compact = _compact(value)
    total = sum(int(digit) * (2 + place % 6) for place, digit in enumerate(reversed(compact[:-1])))
    return compact[-1] == "0123456789K0"[(11 - total % 11) % 11]


def argentinian(value: str) -> bool:
    """CUIT and CUIL: weights 5432765432 modulo 11."""
    digits = _digits(value)
    rest = (11 - _weighted(digits[:10], (5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11) % 11
    return len(digits) == 11 and digits[10] == (9 if rest == 10 else rest)


def mexican(value: str) -> bool:
    """CURP: a weighted sum of its characters modulo 10."""
    compact, order = _compact(value), "0123456789ABCDEFGHIJKLMNÑOPQRSTUVWXYZ"
    total = sum(order.index(character) * (18 - place) for place, character in enumerate(compact[:17]))
    return compact[17] == str(-total % 10)


def canadian(value: str) -> bool:
    """SIN: Luhn; 8 is given to none."""
    digits = _digits(value)
    return len(digits) == 9 and digits[0] != 8 and luhn(value)


def australian_tax(value: str) -> bool:
    """TFN: weights 1, 4, 3, 7, 5, 8, 6, 9, 10 modulo 11."""
    digits = _digits(value)
    return len(digits) == 9 and any(digits) and _weighted(digits, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0


def australian_medicare(value: str) -> bool:
    """Medicare card: weights 1, 3, 7, 9, 1, 3, 7, 9 modulo 10."""
    digits = _digits(value)
    return len(digits) in (10, 11) and 2 <= digits[0] <= 6 and _weighted(digits[:8], (1, 3, 7, 9) * 2) % 10 == digits[8]


def british_health(value: str) -> bool:
    """NHS number: weights 10 … 2 modulo 11."""
    digits = _digits(value)
    return (
        len(digits) == 10
        and len(set(digits)) > 1
        and (11 - _weighted(digits[:9], range(10, 1, -1)) % 11) % 11 == digits[9]
    )


_VERHOEFF = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678", "5987604321", "6598710432", "7659821043",
    "8765932104", "9876543210",
)  # fmt: skip
_PERMUTED = (
    "0123456789",
    "1576283094",
    "5803796142",
    "8916043527",
    "9453126870",
    "4286573901",
    "2793806415",
    "7046913258",
)


def indian(value: str) -> bool:
    """Aadhaar: Verhoeff's scheme; the first digit is 2 … 9."""
    digits, check = _digits(value), 0
    for place, digit in enumerate(reversed(digits)):
        check = int(_VERHOEFF[check][int(_PERMUTED[place % 8][digit])])
    return len(digits) == 12 and digits[0] > 1 and check == 0


def chinese(value: str) -> bool:
    """Resident identity number: ISO 7064 mod 11-2, with a day of birth inside."""
    compact = _compact(value)
    day = real_date(int(compact[6:10]), int(compact[10:12]), int(compact[12:14]))
    weights = [2**power % 11 for power in range(17, 0, -1)]
    return day and "10X98765432"[_weighted(map(int, compact[:17]), weights) % 11] == compact[17]


def hong_kong(value: str) -> bool:
    """HKID: letters count from 10, weights 9 … 2 modulo 11."""
    compact = _compact(value).rjust(9)
    total = sum(
        (36 if c == " " else int(c, 36)) * weight for c, weight in zip(compact[:8], range(9, 1, -1), strict=True)
    )
    return "0123456789A"[(11 - total % 11) % 11] == compact[8]


def taiwanese(value: str) -> bool:
    """Identity number: the letter as two digits, weights 1, 9 … 1."""
    compact = _compact(value)
    code = "ABCDEFGHJKLMNPQRSTUVXYWZIO".index(compact[0]) + 10
    digits = [code // 10, code % 10, *map(int, compact[1:])]
    return _weighted(digits, (1, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1)) % 10 == 0


def korean(value: str) -> bool:
    """RRN: a day of birth, then a digit for century and sex; its check digit has not been kept since 2020."""
    digits = _digits(value)
    return len(digits) == 13 and _day(digits[:6], "ymd") and 1 <= digits[6] <= 8


def japanese(value: str) -> bool:
    """My Number: weights 6 … 2, 7 … 2 modulo 11."""
    digits = _digits(value)
    rest = _weighted(digits[:11], (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
    return len(digits) == 12 and digits[11] == (0 if rest <= 1 else 11 - rest)


def singaporean(value: str) -> bool:
    """NRIC and FIN: weights 2765432 modulo 11, with a table of letters for each series."""
    compact = _compact(value)
    total = _weighted(map(int, compact[1:8]), (2, 7, 6, 5, 4, 3, 2)) + {"T": 4, "G": 4, "M": 3}.get(compact[0], 0)
    letters = {"S": "JZIHGFEDCBA", "T": "JZIHGFEDCBA", "F": "XWUTRQPNMLK", "G": "XWUTRQPNMLK", "M": "KLJNPQRTUWX"}
    place = 10 - total % 11 if compact[0] == "M" else total % 11
    return letters[compact[0]][place] == compact[8]


def malaysian(value: str) -> bool:
    """MyKad: a day of birth and a place of birth."""
    digits = _digits(value)
    return (
        len(digits) == 12
        and _day(digits[:6], "ymd")
        and digits[6] * 10 + digits[7] not in (0, 17, 18, 19, 20, 69, 70, 73, 80, 81)
    )


def south_african(value: str) -> bool:
    """ID number: a day of birth, citizenship 0 … 2, Luhn."""
    digits = _digits(value)
    return len(digits) == 13 and _day(digits[:6], "ymd") and digits[10] <= 2 and luhn(value)


def israeli(value: str) -> bool:
    """Teudat Zehut: Luhn over nine digits."""
    digits = _digits(value)
    return 8 <= len(digits) <= 9 and any(digits) and luhn(value)


def russian_insurance(value: str) -> bool:
    """SNILS: weights 9 … 1 modulo 101."""
    digits = _digits(value)
    return len(digits) == 11 and _weighted(digits[:9], range(9, 0, -1)) % 101 % 100 == digits[9] * 10 + digits[10]


def irish(value: str) -> bool:
    """PPS number: weights 8 … 2 modulo 23, a second letter counts nine times."""
    compact = _compact(value)
    second = ord(compact[8]) - 64 if len(compact) == 9 and compact[8] != "W" else 0
    total = _weighted(map(int, compact[:7]), range(8, 1, -1)) + 9 * second
    return "WABCDEFGHIJKLMNOPQRSTUV"[total % 23] == compact[7]


def portuguese(value: str) -> bool:
    """NIF: weights 9 … 2 modulo 11."""
    digits = _digits(value)
    rest = 11 - _weighted(digits[:8], range(9, 1, -1)) % 11
    return len(digits) == 9 and digits[0] in (1, 2, 3, 5, 6, 8, 9) and digits[8] == (0 if rest > 9 else rest)
