"""Simple tests of the second detector for what Presidio's patterns miss by the way it is written.

They look at the copy that `spaced` makes and share no expression with the recognizers: runs of digits are read by
hand, and what stands behind a word for a secret is taken to the next blank.
"""

import re
from collections.abc import Iterator

from ftlib.text.pii import checksums
from ftlib.text.pii.finding import Finding

_DIGIT_RUN = re.compile(r"\d[\d\W_]{6,60}\d", re.ASCII)
_MAIL = re.compile(r"[\w.+-]{1,64}(?:@|%40)[\w-]{1,63}(?:\.[\w-]{1,63}){1,6}")
_SOCIAL = re.compile(r"(?<![0-9])[0-9]{3}([-. _/])[0-9]{2}\1[0-9]{4}(?![0-9])")
_SECRET_WORD = re.compile(
    r"(?:passwor[td]|kennwort|contrase[nñ]a|mot de passe|wachtwoord|senha|hasło|пароль|密码|密碼|パスワード|비밀번호|"
    r"كلمة المرور)"
    r"['\" ]{0,3}[:=]['\" ]{0,3}(?P<v>[^\s'\",;<>]{4,64})",
    re.IGNORECASE,
)
_REPLACED = re.compile(r"\[?REDACTED|\*{3}|\[[A-Z_]+_\d+\]")


def leads(text: str) -> Iterator[Finding]:
    """Values that look personal: numbers with right check digits, addresses, and words behind one for a secret."""
    for match in _MAIL.finditer(text):
        yield Finding(*match.span(), "EMAIL_ADDRESS", 0.8)
    for match in _SOCIAL.finditer(text):
        yield Finding(*match.span(), "US_SSN", 0.6)
    for match in _SECRET_WORD.finditer(text):
        if not _REPLACED.search(match["v"]):
            yield Finding(*match.span("v"), "PASSWORD", 0.7)
    for run in _DIGIT_RUN.finditer(text):
        yield from _cards(text, run.start(), run.end())


def _cards(text: str, start: int, end: int) -> Iterator[Finding]:
    """Windows of sixteen or fifteen digits in a run that pass Luhn's test, have an issuer and begin at a group."""
    places = [place for place in range(start, end) if text[place].isdecimal()]
    taken = -1
    for first, place in enumerate(places):
        if place <= taken or (place and text[place - 1].isdecimal()):
            continue
        for size in (16, 15):
            window = places[first : first + size]
            ends_here = len(window) == size and not text[window[-1] + 1 : window[-1] + 2].isdecimal()
            digits = "".join(text[at] for at in window)
            if ends_here and checksums.issued_card(digits) and checksums.card(digits):
                taken = window[-1]
                yield Finding(place, taken + 1, "CREDIT_CARD", 0.8)
                break
