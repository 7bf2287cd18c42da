"""National numbers of people, by country: their form and their check digits, from what the issuing authorities publish.

A number whose form alone says much (letters in fixed places, a date of birth inside, its usual separators) is found
by itself where its check digits hold. One of plain digits, of which every tenth would pass, needs a label before it.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ftlib.text.pii import national_checks as checks
from ftlib.text.pii.finding import Finding
from ftlib.text.pii.presidio import LocalRecognizer
from ftlib.text.pii.rules import ExpressionRecognizer


@dataclass(frozen=True)
class National:
    """One kind of number: its form, the test of its check digits, and labels where its form says too little."""

    country: str
    form: str
    check: Callable[[str], bool]
    entity: str = "NATIONAL_ID"
    labels: str = ""


_S = r"[ .-]?"
_NATIONAL = (
    National("ES", r"\d{8}[ -]?[A-HJ-NP-TV-Z]|[XYZ][ -]?\d{7}[ -]?[A-HJ-NP-TV-Z]", checks.spanish),
    National("IT", r"[A-Z]{6}[ -]?\d{2}[A-EHLMPR-T]\d{2}[ -]?[A-Z]\d{3}[A-Z]", checks.italian),
    National("FR", rf"[12]{_S}\d\d{_S}(?:0[1-9]|1[0-2]|[2-9]\d){_S}(?:\d\d|2[AB])(?:{_S}\d{{3}}){{2}}{_S}\d\d",
             checks.french),
    National("DE", r"\d\d ?\d{3} ?\d{3} ?\d{3}", checks.german_tax, "TAX_ID", r"steuer|idnr|tax|id-?nr|tin"),
    National("DE", rf"\d\d{_S}[0-7]\d(?:0\d|1[0-2])\d\d{_S}[A-Z]{_S}\d{{3}}", checks.german_insurance),
    National("CH", rf"756{_S}\d{{4}}{_S}\d{{4}}{_S}\d\d", checks.swiss),
    National("NL", r"\d{9}|\d{4}\.\d\d\.\d{3}|\d{3}[ .]\d{3}[ .]\d{3}", checks.dutch,
             labels=r"bsn|burger|sofi|citizen"),
    National("BE", r"\d\d[.]\d\d[.]\d\d[- ]\d{3}[. ]\d\d", checks.belgian),
    National("BE", r"\d{11}", checks.belgian, labels=r"niss|insz|rijksregister|registre national|nrn"),
    National("PL", r"\d{11}", checks.polish),
    National("RO", r"[1-8]\d\d(?:0\d|1[0-2])[0-3]\d{7}", checks.romanian),
    National("BG", r"\d{10}", checks.bulgarian, labels=r"egn|егн|ЕГН"),
    National("CZ", r"\d{6}/\d{4}", checks.czech),
    National("SE", r"(?:19|20)?\d\d(?:0\d|1[0-2])\d\d[-+]\d{4}|(?:19|20)\d\d(?:0\d|1[0-2])\d{6}", checks.swedish),
    National("DK", r"[0-3]\d(?:0\d|1[0-2])\d\d-\d{4}", checks.danish, labels=r"cpr|personnummer|person"),
    National("NO", r"[0-7]\d[0-9]\d\d{2} ?\d{5}", checks.norwegian),
    National("FI", r"[0-3]\d[01]\d\d\d[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y]", checks.finnish),
    National("TR", r"[1-9]\d{10}", checks.turkish),
    National("BR", r"\d{3}\.\d{3}\.\d{3}[-/]\d\d", checks.brazilian),
    National("BR", r"\d{11}|\d{3}[ .]\d{3}[ .]\d{3}[ -]\d\d", checks.brazilian, labels=r"cpf"),
    National("BR", r"\d\d\.?\d{3}\.?\d{3}/\d{4}-?\d\d", checks.brazilian_firm, "TAX_ID"),
    National("CL", r"\d{1,2}\.\d{3}\.\d{3}-[\dKk]|\d{7,8}-[\dKk]", checks.chilean),
    National("AR", r"(?:2[03478]|3[034])-\d{8}-\d|(?:2[03478]|3[034])\d{9}", checks.argentinian, "TAX_ID"),
    National("MX", r"[A-Z][AEIOUX][A-Z]{2}\d{6}[HMX][A-Z]{5}[A-Z0-9]\d", checks.mexican),
    National("CA", r"\d{3}[ -]\d{3}[ -]\d{3}|\d{9}", checks.canadian,
             labels=r"sin|social insurance|nas|assurance sociale"),
    National("AU", r"\d{3}[ -]?\d{3}[ -]?\d{3}", checks.australian_tax, "TAX_ID", r"tfn|tax file"),
    National("AU", r"[2-6]\d{3}[ -]?\d{5}[ -]?\d(?:[ /-]?\d)?", checks.australian_medicare, "INSURANCE_ID",
             r"medicare"),
    National("GB", r"\d{3}[ -]\d{3}[ -]\d{4}", checks.british_health, "MEDICAL_RECORD_NUMBER"),
    National("GB", r"\d{10}", checks.british_health, "MEDICAL_RECORD_NUMBER", r"nhs|health"),
    National("IN", r"[2-9]\d{3}([ -])\d{4}\1\d{4}|[2-9]\d{11}", checks.indian),
    National("CN", r"[1-9]\d{5}[ -]?(?:19|20)\d\d(?:0[1-9]|1[0-2])[0-3]\d[ -]?\d{3}[\dXx]", checks.chinese),
    National("HK", r"[A-Z]{1,2}\d{6} ?\([\dA]\)", checks.hong_kong),
    National("TW", r"[A-Z][1289]\d{8}", checks.taiwanese),
    National("KR", r"\d\d(?:0\d|1[0-2])[0-3]\d[ ]?-[ ]?[1-8]\d{6}", checks.korean),
    National("JP", r"\d{4}[ -]?\d{4}[ -]?\d{4}", checks.japanese,
             labels=r"マイナンバー|個人番号|my ?number|individual number"),
    National("SG", r"[STFGM]\d{7}[A-Z]", checks.singaporean),
    National("MY", r"\d\d(?:0\d|1[0-2])[0-3]\d-\d\d-\d{4}", checks.malaysian),
    National("ZA", r"\d\d(?:0\d|1[0-2])[0-3]\d ?\d{4} ?[0-2]\d\d", checks.south_african),
    National("IL", r"\d{8,9}|\d-\d{7}-\d", checks.israeli, labels=r"ת\.?\"?ז|תעודת זהות|teudat zehut|tz|israeli id"),
    National("RU", r"\d{3}-\d{3}-\d{3}[ -]\d\d", checks.russian_insurance),
    National("IE", r"\d{7}[A-W][A-IW]?", checks.irish, labels=r"pps|ppsn|personal public"),
    National("PT", r"[1235689]\d\d ?\d{3} ?\d{3}", checks.portuguese, "TAX_ID", r"nif|contribuinte"),
)  # fmt: skip
_EDGES = (r"(?<![A-Za-z0-9])(?<!\d[.,/-])", r"(?![A-Za-z0-9]|[.,/-]\d)")


class NationalNumberRecognizer(ExpressionRecognizer):
    """National numbers whose check digits hold."""

    def __init__(self, language: str = "en") -> None:
        super().__init__("NationalNumberRecognizer", [(kind.entity, _expression(kind)) for kind in _NATIONAL], language)

    def find(self, text: str, numbers: Iterable[int]) -> Iterator[Finding]:
        """What passes its checksum."""
        for number in numbers:
            entity, pattern = self.expressions[number]
            for match in pattern.finditer(text):
                if _NATIONAL[number].check(match["v"]):
                    yield Finding(*match.span("v"), entity, 0.9)


def _expression(kind: National) -> re.Pattern[str]:
    before, after = _EDGES
    form = kind.form.replace(r"\1", "(?P=gap)").replace("([ -])", "(?P<gap>[ -])")
    value = rf"{before}(?P<v>{form}){after}"
    if not kind.labels:
        return re.compile(value, re.ASCII)
    return re.compile(rf"(?<![A-Za-z])(?i:{kind.labels})[^\n0-9]{{0,40}}?{value}", re.ASCII)


def national_recognizers(language: str) -> list[LocalRecognizer]:
    """National numbers of some thirty-five countries."""
    return [NationalNumberRecognizer(language)]
