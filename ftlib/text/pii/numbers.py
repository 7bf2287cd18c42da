"""Recognizers for numbers that prove themselves by their form or check digits: cards, bank and identity numbers."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from ftlib.text.pii import checksums
from ftlib.text.pii.finding import Finding
from ftlib.text.pii.letters import NOT_BEFORE, NOT_BEHIND
from ftlib.text.pii.presidio import LocalRecognizer
from ftlib.text.pii.presidio import predefined_recognizers as presidio
from ftlib.text.pii.rules import ExpressionRecognizer, Rule, RuleRecognizer, digits_between

# Presidio's recognizers with a test of the whole value that need no word beside them.
_PROVEN_BY_PRESIDIO = (
    (presidio.UsMbiRecognizer, "INSURANCE_ID"),
    (presidio.CryptoRecognizer, "CRYPTO"),
)
# Prefixes of standards, regulations and products, whose numbers identify no one.
_PUBLIC_SERIES = tuple(
    """
ISO IEC RFC CVE CWE NDC ANSI NIST UTF SHA AES RSA HTTP ICD CPT IEEE DIN EN USB CD ASTM PEP JSR COVID SARS GPT
FIPS SAE UL FDA CFR USC ATC EC EU PCI SOC HL RTX GTX MP CC GPL BSD LM ED FY KB PMC NCT GSE
""".split()  # noqa: SIM905
)


def _rules() -> list[Rule]:
    grouped = r"(?<![\w.+-])[3-6]\d{3}([ -])\d{4}\1\d{4}\1\d{4}(?![\w-])"
    masked = r"(?<![\w])(?:[*xX•]{4}[ -]?){2,3}\d{4}(?!\w)"
    iban = r"(?<![A-Z0-9])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,3})?(?![A-Z0-9])"
    ssn = (
        r"(?<![A-Za-z0-9])(?<!\d[._/+-])(?!000)(?:\d{3}(?P<gap>[- ])|(?!666|9)\d{3}"
        r"(?P<wide>[._/]|[ ]{2,3}|[ ]?\r?\n[ ]?|[ ]-[ ]))(?!00)\d{2}(?(gap)(?P=gap)|(?P=wide))"
        r"(?!0000)\d{4}(?![A-Za-z0-9]|[._/-]\d)"
    )
    ein = r"(?<![\w.-])\d{2}-\d{7}(?![\w-])"
    ethereum = rf"{NOT_BEFORE}0x[0-9a-f]{{40}}{NOT_BEHIND}"
    vin = rf"{NOT_BEFORE}(?=[A-Z0-9]*\d)[A-HJ-NPR-Z0-9]{{17}}{NOT_BEHIND}"
    uuid = r"(?<![A-Za-z0-9-])[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}(?![A-Za-z0-9-])"
    nino = r"\b(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z][ ]?\d{2}[ ]?\d{2}[ ]?\d{2}[ ]?[A-D]\b"
    docket = r"(?<![\w:])\d{1,2}:\d{2}-(?:cv|cr|mc|md|mj|bk|ap|po)-\d{3,6}(?:-[A-Z]{2,4}){0,3}\b"
    state_docket = r"\b\d{2,4}-?(?:CV|CR|CF|CM|CA|DR|FA|JV|PR|SC|CIV|CRIM)-?\d{3,8}(?:-[A-Z]{1,4})?\b"
    dms = r"\d{1,3}(?:\.\d+)?°[^A-Za-z\n]{0,16}[NS],?\s*\d{1,3}(?:\.\d+)?°[^A-Za-z\n]{0,16}[EW]\b"
    decimal = r"(?<![\d.])-?\d{1,2}\.\d{4,},\s*-?\d{1,3}\.\d{4,}(?![\d.])"
    caught = re.IGNORECASE | re.ASCII
    return [
        Rule("CREDIT_CARD", re.compile(grouped, re.ASCII), 0.86),
        Rule("CREDIT_CARD", re.compile(masked, re.ASCII), 0.6),
        Rule("IBAN_CODE", re.compile(iban, re.ASCII), 0.6, accept=checksums.iban_length),
        Rule("US_SSN", re.compile(ssn, re.ASCII), 0.85),
        Rule("TAX_ID", re.compile(ein, re.ASCII), 0.6),
        Rule("CRYPTO", re.compile(ethereum, caught), 0.95),
        Rule("VIN", re.compile(vin, re.ASCII), 0.95, accept=checksums.vin),
        Rule("DEVICE_ID", re.compile(uuid, caught), 0.8),
        Rule(
            "MEDICAL_LICENSE",
            re.compile(r"\b[ABCDEFGHJKLMPRSTUX][A-Z9]\d{7}\b", re.ASCII),
            0.9,
            accept=checksums.dea,
        ),
        Rule("NATIONAL_ID", re.compile(nino, re.ASCII), 0.8),
        Rule("CASE_NUMBER", re.compile(docket, caught), 0.95),
        Rule("CASE_NUMBER", re.compile(state_docket, re.ASCII), 0.7, accept=digits_between(5, 12)),
        Rule("COORDINATES", re.compile(dms, re.ASCII), 0.9),
        Rule("COORDINATES", re.compile(decimal, re.ASCII), 0.7),
    ]


_MODEL_BEFORE = re.compile(
    r"(?i)(?:^|[^a-z])(?:model(?:l|o|le|lo)?|modèle|series|part|type|typ|sku|firmware|chip(?:set)?|"
    r"printer|camera|router|"
    r"motherboard|drucker|modelnummer|型号|型番|модель)"
    r"(?:[ ](?:no\.?|number|name))?[ ]?[:#]?[ ]?\Z"
)
_MODEL_BEHIND = re.compile(
    r"(?i)[ ](?:models?|series|printers?|cameras?|routers?|motherboards?|monitors?|laptops?|"
    r"chip(?:set)?s?|drives?|engines?|"
    r"switch(?:es)?|firmware|drills?|scanners?|adapters?|cartridges?|toners?)(?![a-z-])"
)


def _is_no_model(match: re.Match[str]) -> bool:
    """No name of a product, which many own: `Model XJ-9000-B`, `the XJ-9000-B printer`."""
    text = match.string
    before = text[max(0, match.start() - 30) : match.start()]
    return _MODEL_BEFORE.search(before) is None and _MODEL_BEHIND.match(text, match.end()) is None


def _identifier_rules() -> list[Rule]:
    """Identifiers by shape alone: a prefix of capitals and a run of digits, as registries number things."""
    public = "|".join(_PUBLIC_SERIES)
    prefixed = (
        rf"(?<![\w-])(?!(?:{public})-)[A-Z]{{2,6}}-(?=[A-Z0-9-]*\d{{2}})[A-Z0-9]{{2,16}}"
        rf"(?:-[A-Z0-9]{{1,12}}){{0,3}}(?![\w-])"
    )
    letters_then_digits = r"(?<![\w-])(?!(?:KB|PMC|NCT|GSE)\d)[A-Z]{1,3}\d{6,10}[A-Z]?(?![\w-])"
    mixed = r"(?<![\w-])(?!(?:KB|PMC|NCT|GSE)\d)(?=[A-Z0-9]*[A-Z])(?=(?:[A-Z0-9]*\d){4})[A-Z0-9]{8,16}(?![\w-])"
    bare = r"(?<![\w.,$€£#/:+=-])\d{8,12}(?!\w|[.,:/-]\d|\s?[%€£])"
    grouped = r"(?<![\w.,$€£/:+-])\d{4}([ -])\d{4}\1\d{4}(?!\w|[ .,-]\d)"
    return [
        Rule("ID_NUMBER", re.compile(bare, re.ASCII), 0.45),
        Rule("NATIONAL_ID", re.compile(grouped, re.ASCII), 0.6),
        Rule("ID_NUMBER", re.compile(prefixed, re.ASCII), 0.5, accept=digits_between(4, 20), where=_is_no_model),
        Rule("ID_NUMBER", re.compile(letters_then_digits, re.ASCII), 0.5, where=_is_no_model),
        Rule("ID_NUMBER", re.compile(mixed, re.ASCII), 0.45, where=_is_no_model),
    ]


class PresidioProvenRecognizer(ExpressionRecognizer):
    """Values that Presidio's recognizers prove, each under our entity; their expressions with boundaries of ASCII."""

    def __init__(self, language: str = "en") -> None:
        inner = [(kind(supported_language=language), entity) for kind, entity in _PROVEN_BY_PRESIDIO]
        self._inner: list[Any] = []
        expressions = []
        for recognizer, entity in inner:
            for pattern in recognizer.patterns:
                self._inner.append(recognizer)
                expressions.append((entity, re.compile(pattern.regex, recognizer.global_regex_flags | re.ASCII)))
        super().__init__("PresidioProvenRecognizer", expressions, language)

    def find(self, text: str, numbers: Iterable[int]) -> Iterator[Finding]:
        """What passes its checksum; unvalidated matches are too weak to act on."""
        for number in numbers:
            entity, pattern = self.expressions[number]
            for match in pattern.finditer(text):
                if match[0] and self._inner[number].validate_result(match[0]):
                    yield Finding(*match.span(), entity, 0.9)


def number_recognizers(language: str) -> list[LocalRecognizer]:
    """Cards, IBAN, SSN, national numbers, VIN, dockets, coordinates, and identifiers by shape."""
    return [
        RuleRecognizer("FormattedNumberRecognizer", _rules(), language),
        RuleRecognizer("IdentifierShapeRecognizer", _identifier_rules(), language),
        PresidioProvenRecognizer(language),
    ]
